"""Dropout as Flax Linen modules: hyperparameters, a key, and one call into the functions of
`jaxdrop`.
"""

from jaxdrop.linen.attention import (
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    dot_product_attention,
)
from jaxdrop.linen.elements import AlphaDropout, ClassicDropout, Dropout, FeatureAlphaDropout
from jaxdrop.linen.graphs import DropEdge, DropNode
from jaxdrop.linen.heads import AttentionDropout, DropHead, DropKey
from jaxdrop.linen.learned import (
    ConcreteDropout,
    SparseVariationalDense,
    VariationalDense,
    VariationalDropout,
)
from jaxdrop.linen.mc_dropout import stochastic
from jaxdrop.linen.noise import GaussianDropout, GaussianNoise, NEFTune, UniformDropout
from jaxdrop.linen.paths import DropPath, LayerDrop, ShakeDrop
from jaxdrop.linen.recurrent import RNN
from jaxdrop.linen.regions import DropBlock, Dropout1d, Dropout2d, Dropout3d, SpatialDropout
from jaxdrop.linen.residuals import BiasDropoutAdd, DropoutAddLayerNorm
from jaxdrop.linen.sequences import EmbeddingDropout, LockedDropout, WordDropout, Zoneout
from jaxdrop.linen.stacked import StackedRNN
from jaxdrop.linen.tokens import LabelDropout, ModalityDropout, TokenDropout
from jaxdrop.linen.weights import DropConnect, QuantNoise, WeightDrop

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
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAddLayerNorm",
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
    "stochastic",
]
