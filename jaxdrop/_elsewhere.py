"""Where to find what is looked for in `jaxdrop` and stands elsewhere, or has another name in other
libraries.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Sequence

# Layers, which are those of a framework. The names are those of Flax, PyTorch, Keras, timm, Haiku
# and Equinox.
_LAYERS = {
    "StochasticDepth": "DropPath",
    "SpatialDropout1D": "SpatialDropout",
    "SpatialDropout2D": "SpatialDropout",
    "SpatialDropout3D": "SpatialDropout",
    "VariationalDropout1d": "LockedDropout",
    "PatchDropout": "TokenDropout",
    "PatchDropoutWithIndices": "TokenDropout",
    "DropBlock2d": "DropBlock",
    "DropBlock2D": "DropBlock",
    "ConcreteDropout2D": "ConcreteDropout",
    "LSTM": "RNN",
    "GRU": "RNN",
}
_FUNCTIONS = {
    "dropout1d": "spatial_dropout(key, x, rate, spatial_rank=1)",
    "dropout2d": "spatial_dropout(key, x, rate, spatial_rank=2)",
    "dropout3d": "spatial_dropout(key, x, rate, spatial_rank=3)",
    "stochastic_depth": "drop_path(key, x, rate)",
    "drop_block2d": "drop_block(key, x, rate)",
    "drop_block3d": "drop_block(key, x, rate)",
    "dropblock": "drop_block(key, x, rate)",
    "droppath": "drop_path(key, x, rate)",
    "dropconnect": "drop_connect(key, x, w, rate)",
    "dropout_edge": "drop_edge(key, senders, receivers, rate)",
    "dropout_node": "drop_node(key, senders, receivers, num_nodes, rate)",
    "variational_recurrent_dropout": "locked_dropout(key, x, rate, time_axis=...)",
    "patch_dropout": "token_dropout(key, x, rate, num_prefix_tokens=...)",
    "scaled_dot_product_attention": "dot_product_attention(key, q, k, v, rate)",
    "split": "random, whose keys jax.random.split takes",
    "PRNGKey": "key(seed)",
    "keys": "mc.keys(key, num_samples)",
    "predict": "mc.predict(fn, keys)",
    "rngs_from_keys": "nnx.rngs_from_keys(keys)",
}
# What both packages of layers have, and no function is called after.
_IN_BOTH = (
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "MultiHeadAttention",
    "NEFTune",
    "RNN",
    "StackedRNN",
    "replace_dropout",
    "stochastic",
)


def hint(name: str, names: Sequence[str], module: str = "jaxdrop") -> str:
    """Where to find `name`, for the message that a module has no such attribute. `names` are those
    that it has.

    Returns:
      The end of the message; empty if no name is similar.
    """
    if name in _FUNCTIONS:
        return f": it is jaxdrop.{_FUNCTIONS[name]}"
    layer = _LAYERS.get(name, name)
    function = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer).lower()
    if layer in _IN_BOTH or (layer != function and function in names):
        return (
            f": it is jaxdrop.nnx.{layer} or jaxdrop.linen.{layer}, whichever the model is made of"
        )
    close = difflib.get_close_matches(name, names, cutoff=0.75)
    return f": is {module}.{close[0]} meant?" if close else ""


def is_import(name: str) -> bool:
    """Whether it is `from jaxdrop import name` that asks, and `name` is no module that the import
    system finds next.

    Of an AttributeError Python makes an ImportError that does not say why. It is the import system
    that asks, two frames up.
    """
    asks = sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap"
    return asks and importlib.util.find_spec(f"jaxdrop.{name}") is None
