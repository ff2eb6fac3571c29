"""Dropout as Flax Linen modules: hyperparameters, a key, and one call into the functions of
`jaxdrop`.
"""

from jaxdrop.linen._layers import (
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
from jaxdrop.linen._parameters import (
    BiasDropoutAdd,
    ConcreteDropout,
    DropConnect,
    DropoutAddLayerNorm,
    DropoutMLP,
    SparseVariationalDense,
    VariationalDense,
    VariationalDropout,
)
from jaxdrop.linen._wrappers import (
    DropPathAdd,
    LayerDrop,
    QuantNoise,
    RandomLTD,
    WeightDrop,
)
from jaxdrop.linen.attention import (
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    dot_product_attention,
)
from jaxdrop.linen.mc_dropout import stochastic
from jaxdrop.linen.recurrent import RNN
from jaxdrop.linen.replacement import replace_dropout
from jaxdrop.linen.stacked import StackedRNN

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
    "MultiHeadDotProductAttention",
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
    "stochastic",
]


def __dir__() -> list[str]:
    return __all__
