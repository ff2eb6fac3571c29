"""Packages that only some functions need, and that a base install leaves out."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def load(module: str, caller: str, package: str, extra: str) -> Any:
    """A module of an optional package.

    Args:
      module: its full name.
      caller: the public function that needs it, for the message.
      package: what pip calls it.
      extra: the extra of this library that installs it.

    Raises:
      ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"{caller} needs {package}: pip install 'jaxdrop[{extra}]', or pip install {package}"
        ) from None


def find(module: str) -> Any | None:
    """A module of an optional package; None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def is_a(module: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of a module, which need not be installed or loaded."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))
