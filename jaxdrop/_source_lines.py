"""Which line of the user's code an operation of a traced program comes from."""

from __future__ import annotations

import os
import sysconfig
from typing import Any

# Code of these packages is not the user's. This package stands beside its tests, so its own folder
# is given whole.
PACKAGES = (
    "jax", "jaxlib", "flax", "equinox", "haiku", "haliax", "keras", "jaxtyping", "optax", "chex",
)  # fmt: skip
_LIBRARIES = (
    *(os.sep + os.path.join("site-packages", name) + os.sep for name in PACKAGES),
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    sysconfig.get_paths()["stdlib"] + os.sep,
)


def user_line(source: Any) -> str | None:
    """`file:line` in the user's code; None if no frame of it is known.

    Args:
      source: the `source_info` of an equation.
    """
    traceback = getattr(source, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if not (frame.file_name.startswith("<") or names_library(frame.file_name)):
            return f"{_short(frame.file_name)}:{frame.line_num}"
    return None


def names_library(text: str) -> bool:
    """Whether a text holds the path of a library's file."""
    return any(part in text for part in _LIBRARIES)


def _short(file: str) -> str:
    here = os.path.relpath(file)
    return file if here.startswith("..") else here
