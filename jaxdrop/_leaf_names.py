"""Names of the leaves of a pytree."""

from __future__ import annotations

from typing import Any

from jax.tree_util import GetAttrKey, keystr


def leaf_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as `encoder/0/kernel`. The array of an NNX variable is an attribute
    of it, `value`, which is no part of the name.
    """
    if path and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    return keystr(path, simple=True, separator="/")
