"""Modules that drop residual branches and whole layers. See `jaxdrop.functional.paths`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import paths
from jaxdrop.linen._base import Stochastic, check_module


class DropPath(Stochastic):
    """`jaxdrop.drop_path` as a Linen module: stochastic depth. PyTorch users know it as
    `StochasticDepth` too.

    Attributes:
      rate: the probability of dropping, a number in [0, 1].
      mode: `'row'` for each example by itself, `'batch'` for all together.
      batch_axis: where the examples are.
      scale_by_keep: whether what is kept is divided by `1 - rate`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.drop_path`.
    """

    rate: float
    mode: paths.Mode = "row"
    batch_axis: int = 0
    scale_by_keep: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops examples of `inputs`, the output of a residual branch. Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return paths.drop_path(
            key,
            inputs,
            rate,
            mode=self.mode,
            batch_axis=self.batch_axis,
            scale_by_keep=self.scale_by_keep,
            deterministic=off,
            spec=spec,
        )


class LayerDrop(Stochastic):
    """`jaxdrop.layer_drop` as a Linen module: `LayerDrop(0.2)(x, Block())` runs the block, or
    returns `x`.

    The block is the caller's: its parameters are where they are without `LayerDrop`. `init` always
    runs it. A skipped layer changes none of its variables.

    Attributes:
      rate: the probability of skipping the layer, a number in [0, 1].
      deterministic: if True, the layer always runs.
      rng_collection: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.layer_drop`.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: ClassVar[None] = None

    @nn.compact
    def __call__(
        self,
        inputs: Any,
        layer: nn.Module,
        *args: Any,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        rate: masks.Rate | None = None,
    ) -> Any:
        """`layer(inputs, *args)` or `inputs`.

        Args:
          inputs: an array, or a pytree of arrays.
          layer: a Linen module that returns what is like `inputs`.
          *args: further arguments of the layer, such as an attention mask.
          deterministic: if True, the layer runs.
          rng: a key, in place of one made from `rng_collection`.
          rate: the probability of skipping the layer, in place of the attribute.

        Returns:
          What is like `inputs`.
        """
        off, key, rate, _ = self._settle(deterministic, rng, rate, None)
        check_module(layer, "layer", " For functions there is jaxdrop.layer_drop.")

        def run(layer: Callable[..., Any], x: Any) -> Any:
            return paths.like(layer(x, *args), x, rate)

        runs = self.is_initializing() or paths.layer_runs(key, rate, deterministic=off)
        return paths.cond(nn.cond, runs, run, lambda layer, x: x, layer, inputs)


class ShakeDrop(Stochastic):
    """`jaxdrop.shake_drop` as a Linen module.

    Attributes:
      rate: the probability that the branch is shaken, a number in [0, 1].
      alpha: least and greatest forward coefficient.
      beta: least and greatest backward coefficient.
      per: who gets coefficients of their own: `'batch'`, `'image'`, `'channel'` or `'pixel'`.
      batch_axis: where the images are.
      channel_axis: where the channels are.
      deterministic: if True, the input times the expected coefficient is returned.
      rng_collection, spec: as in `jaxdrop.linen.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.shake_drop`.
    """

    _draws_nothing_at = (0,)

    rate: float = 0.5
    alpha: paths.Range = (-1.0, 1.0)
    beta: paths.Range = (0.0, 1.0)
    per: paths.Per = "image"
    batch_axis: int = 0
    channel_axis: int = -1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shakes `inputs`, the output of a residual branch. Args and Returns: as
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return paths.shake_drop(
            key,
            inputs,
            rate,
            alpha=self.alpha,
            beta=self.beta,
            per=self.per,
            batch_axis=self.batch_axis,
            channel_axis=self.channel_axis,
            deterministic=off,
            spec=spec,
        )
