"""Where pickled keys look up their type: files hold this module's name, so it must stay."""

from __future__ import annotations

from jaxdrop.random._key_types import _by_name as _by_name
