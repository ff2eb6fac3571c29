"""Dropout as Flax NNX modules: hyperparameters, a random stream, and one call into the functions of
`jaxdrop`.
"""

from jaxdrop.nnx.attention import MultiHeadAttention, dot_product_attention
from jaxdrop.nnx.elements import AlphaDropout, ClassicDropout, Dropout, FeatureAlphaDropout
from jaxdrop.nnx.graphs import DropEdge, DropNode
from jaxdrop.nnx.heads import AttentionDropout, DropHead, DropKey
from jaxdrop.nnx.learned import (
    ConcreteDropout,
    SparseVariationalDense,
    VariationalDense,
    VariationalDropout,
)
from jaxdrop.nnx.mc_dropout import stochastic
from jaxdrop.nnx.noise import GaussianDropout, GaussianNoise, NEFTune, UniformDropout
from jaxdrop.nnx.paths import DropPath, LayerDrop, ShakeDrop
from jaxdrop.nnx.recurrent import RNN
from jaxdrop.nnx.regions import DropBlock, Dropout1d, Dropout2d, Dropout3d, SpatialDropout
from jaxdrop.nnx.residuals import BiasDropoutAdd, DropoutAddLayerNorm
from jaxdrop.nnx.sequences import EmbeddingDropout, LockedDropout, WordDropout, Zoneout
from jaxdrop.nnx.stacked import StackedRNN
from jaxdrop.nnx.tokens import LabelDropout, ModalityDropout, TokenDropout
from jaxdrop.nnx.weights import DropConnect, QuantNoise, WeightDrop

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
