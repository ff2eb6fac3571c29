"""Dropout as Flax NNX modules: hyperparameters, a random stream, and one call into the functions of
`jaxdrop`.
"""

from jaxdrop.nnx._given_keys import rngs_from_keys
from jaxdrop.nnx._layers import (
    AlphaDropout,
    AttentionDropout,
    ClassicDropout,
    DropBlock,
    DropEdge,
    DropHead,
    DropKey,
    DropNode,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GaussianDropout,
    GaussianNoise,
    LabelDropout,
    LockedDropout,
    ModalityDropout,
    NEFTune,
    ShakeDrop,
    SpatialDropout,
    TokenDropout,
    UniformDropout,
    WordDropout,
    Zoneout,
)
from jaxdrop.nnx._parameters import (
    BiasDropoutAdd,
    ConcreteDropout,
    DropConnect,
    DropoutAddLayerNorm,
    DropoutMLP,
    SparseVariationalDense,
    VariationalDense,
    VariationalDropout,
)
from jaxdrop.nnx._wrappers import DropPathAdd, LayerDrop, QuantNoise, RandomLTD, WeightDrop
from jaxdrop.nnx.attention import MultiHeadAttention, dot_product_attention
from jaxdrop.nnx.mc_dropout import stochastic
from jaxdrop.nnx.recurrent import RNN
from jaxdrop.nnx.replacement import replace_dropout
from jaxdrop.nnx.stacked import StackedRNN

__all__ = [
    "RNN",
    "AlphaDropout",
    "AttentionDropout",
    "BiasDropoutAdd",
    "ClassicDropout",
    "ConcreteDropout",
    "DropBlock",
    "DropConnect",
    "DropEdge",
    "DropHead",
    "DropKey",
    "DropNode",
    "DropPath",
    "DropPathAdd",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAddLayerNorm",
    "DropoutMLP",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "LabelDropout",
    "LayerDrop",
    "LockedDropout",
    "ModalityDropout",
    "MultiHeadAttention",
    "NEFTune",
    "QuantNoise",
    "RandomLTD",
    "ShakeDrop",
    "SparseVariationalDense",
    "SpatialDropout",
    "StackedRNN",
    "TokenDropout",
    "UniformDropout",
    "VariationalDense",
    "VariationalDropout",
    "WeightDrop",
    "WordDropout",
    "Zoneout",
    "dot_product_attention",
    "replace_dropout",
    "rngs_from_keys",
    "stochastic",
]


def __dir__() -> list[str]:
    return __all__
