"""Dropout for JAX: pure functions of (key, array, rate), and thin Flax modules over them.

    >>> import jax.numpy as jnp, jaxdrop
    >>> y = jaxdrop.dropout(jaxdrop.key(0), jnp.ones((2, 3)), 0.5)
    >>> y.shape
    (2, 3)

The functions, by what they drop; `help(jaxdrop.dropout)` has the formula and the arguments:

    entries       dropout, classic_dropout, alpha_dropout, feature_alpha_dropout,
                  gaussian_dropout, gaussian_noise, uniform_dropout
    images        spatial_dropout, drop_block
    paths         drop_path, drop_path_add, layer_drop, layer_subset, shake_drop, depth_rates
    tokens        token_dropout, reinsert_tokens, random_ltd, word_dropout, embedding_dropout,
                  label_dropout, modality_dropout, neftune
    recurrent     locked_dropout, recurrent_dropout, zoneout, weight_drop
    attention     dot_product_attention, attention_dropout, drop_key, drop_head
    weights       drop_connect, drop_connect_gaussian, quant_noise
    learned       concrete_dropout, concrete_kl, variational_dropout, variational_dense,
                  variational_kl, sparse_variational_dense, sparse_kl, sparse_log_alpha
    graphs        drop_edge, drop_node, symmetric_normalization
    blocks        bias_dropout_add, dropout_add_layer_norm, dropout_mlp
    losses        multi_sample_dropout, r_drop
    keys          key, step_key, Part

`citation` prints the BibTeX of the methods that a model uses.

The modules. Those with Flax are loaded on first use:

    nnx, linen    the same as layers of Flax
    mc            Monte Carlo dropout: keys, running, summaries, metrics, plots, conformal
    schedules     step -> rate
    audit         what dropout does in a model; testing is for its tests
    random, masks, subsets    bits, keep masks and members, for functions of your own
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxdrop import _elsewhere, _serialization, masks, mc, random, schedules, subsets
from jaxdrop._citation import citation
from jaxdrop.functional import (
    alpha_dropout,
    attention_dropout,
    bias_dropout_add,
    classic_dropout,
    concrete_dropout,
    concrete_kl,
    depth_rates,
    dot_product_attention,
    drop_block,
    drop_connect,
    drop_connect_gaussian,
    drop_edge,
    drop_head,
    drop_key,
    drop_node,
    drop_path,
    drop_path_add,
    dropout,
    dropout_add_layer_norm,
    dropout_mlp,
    embedding_dropout,
    feature_alpha_dropout,
    gaussian_dropout,
    gaussian_noise,
    label_dropout,
    layer_drop,
    layer_subset,
    locked_dropout,
    modality_dropout,
    multi_sample_dropout,
    neftune,
    quant_noise,
    r_drop,
    random_ltd,
    recurrent_dropout,
    reinsert_tokens,
    shake_drop,
    sparse_kl,
    sparse_log_alpha,
    sparse_variational_dense,
    spatial_dropout,
    symmetric_normalization,
    token_dropout,
    uniform_dropout,
    variational_dense,
    variational_dropout,
    variational_kl,
    weight_drop,
    word_dropout,
    zoneout,
)
from jaxdrop.masks import Part
from jaxdrop.random import key, step_key

if TYPE_CHECKING:
    from jaxdrop import audit, linen, nnx, testing

__version__ = "0.1.0"
__all__ = [
    "Part",
    "alpha_dropout",
    "attention_dropout",
    "audit",
    "bias_dropout_add",
    "citation",
    "classic_dropout",
    "concrete_dropout",
    "concrete_kl",
    "depth_rates",
    "dot_product_attention",
    "drop_block",
    "drop_connect",
    "drop_connect_gaussian",
    "drop_edge",
    "drop_head",
    "drop_key",
    "drop_node",
    "drop_path",
    "drop_path_add",
    "dropout",
    "dropout_add_layer_norm",
    "dropout_mlp",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "key",
    "label_dropout",
    "layer_drop",
    "layer_subset",
    "linen",
    "locked_dropout",
    "masks",
    "mc",
    "modality_dropout",
    "multi_sample_dropout",
    "neftune",
    "nnx",
    "quant_noise",
    "r_drop",
    "random",
    "random_ltd",
    "recurrent_dropout",
    "reinsert_tokens",
    "schedules",
    "shake_drop",
    "sparse_kl",
    "sparse_log_alpha",
    "sparse_variational_dense",
    "spatial_dropout",
    "step_key",
    "subsets",
    "symmetric_normalization",
    "testing",
    "token_dropout",
    "uniform_dropout",
    "variational_dense",
    "variational_dropout",
    "variational_kl",
    "weight_drop",
    "word_dropout",
    "zoneout",
]

_serialization.register()

_ON_FIRST_USE = ("audit", "linen", "nnx", "testing")


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"jaxdrop.{name}")
    message = f"module 'jaxdrop' has no attribute {name!r}{_elsewhere.hint(name, __all__)}"
    if _elsewhere.is_import(name):
        raise ImportError(message, name="jaxdrop")
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
