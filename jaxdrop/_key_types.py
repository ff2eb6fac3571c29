"""The function by which unpickling finds the type of a key. Files hold its name and this module's:
neither may change.
"""

from __future__ import annotations

from jaxdrop.random._key_types import _by_name as _by_name
