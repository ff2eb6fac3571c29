"""Layers that add noise, or multiply by it. See `jaxdrop.functional.noise`."""

from collections.abc import Sequence

from jaxdrop.functional import noise
from jaxdrop.layers._variant import Variant
from jaxdrop.layers.elements import Elementwise

__all__ = ["GaussianDropout", "GaussianNoise", "NEFTune", "UniformDropout"]


class GaussianDropout(Elementwise, function=noise.gaussian_dropout):
    """`jaxdrop.gaussian_dropout` as a layer.

    Args:
      rate: the rate of the dropout that has the same variance, a number in [0, 1).
      broadcast_dims: axes along which all entries share one factor.
    """


class GaussianNoise(Variant, function=noise.gaussian_noise):
    """`jaxdrop.gaussian_noise` as a layer.

    Args:
      stddev: the standard deviation, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
    """

    call = "Adds noise to `inputs`, of `stddev` if it is given."
    amount = "stddev"
    stddev: float
    broadcast_dims: Sequence[int] = ()


class UniformDropout(Variant, function=noise.uniform_dropout):
    """`jaxdrop.uniform_dropout` as a layer.

    Args:
      beta: half the width of the noise, any finite number from 0 on.
      broadcast_dims: axes along which all entries share one value of the noise.
    """

    call = "Multiplies `inputs` by noise, of `beta` if it is given."
    amount = "beta"
    beta: float
    broadcast_dims: Sequence[int] = ()


class NEFTune(Variant, function=noise.neftune):
    """`jaxdrop.neftune` as a layer, to stand behind the embedding.

    Args:
      alpha: the amount of noise, any finite number from 0 on; the paper uses 5, 10 and 15.
    """

    call = "Adds noise to the embeddings `inputs` where `mask` is true, of `alpha` if it is given."
    amount = "alpha"
    alpha: float = 5.0
