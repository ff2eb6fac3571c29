"""Modules that drop residual branches and whole layers. See `jaxdrop.functional.paths`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import paths
from jaxdrop.nnx._base import RngSource, Stochastic, check_module


class DropPath(Stochastic):
    """`jaxdrop.drop_path` as an NNX module: stochastic depth. PyTorch users know it as
    `StochasticDepth` too.

    Args:
      rate: the probability of dropping, a number in [0, 1].
      mode: `'row'` for each example by itself, `'batch'` for all together.
      batch_axis: where the examples are.
      scale_by_keep: whether what is kept is divided by `1 - rate`.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.drop_path`.
    """

    def __init__(
        self,
        rate: float,
        *,
        mode: paths.Mode = "row",
        batch_axis: int = 0,
        scale_by_keep: bool = True,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.mode: paths.Mode = mode
        self.batch_axis = batch_axis
        self.scale_by_keep = scale_by_keep

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Drops examples of `inputs`, the output of a residual branch. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
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
    """`jaxdrop.layer_drop` as an NNX module: `self.layer_drop(x, self.block)` runs the block, or
    returns `x`.

    A skipped layer changes none of its state (batch statistics, random streams), as if it were not
    there.

    Args:
      rate: the probability of skipping the layer, a number in [0, 1].
      deterministic: if True, the layer always runs.
      rng_collection, rngs: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.layer_drop`.
    """

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=None
        )

    def __call__(
        self,
        inputs: Any,
        layer: nnx.Module,
        *args: Any,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
    ) -> Any:
        """`layer(inputs, *args)` or `inputs`.

        Args:
          inputs: an array, or a pytree of arrays.
          layer: an NNX module that returns what is like `inputs`. Its state is carried through the
            `lax.cond`.
          *args: further arguments of the layer, such as an attention mask.
          deterministic: if True, the layer runs.
          rngs: an `nnx.Rngs`, an `nnx.RngStream`, or a key.
          rate: the probability of skipping the layer; a traced value, as of a schedule, does not
            recompile.

        Returns:
          What is like `inputs`.
        """
        off, key, rate, _ = self._settle(deterministic, rngs, rate, None)
        check_module(layer, "layer", " For functions there is jaxdrop.layer_drop.")

        def run(layer: Callable[..., Any], x: Any) -> Any:
            return paths.like(layer(x, *args), x, rate)

        runs = paths.layer_runs(key, rate, deterministic=off)
        return paths.cond(nnx.cond, runs, run, lambda layer, x: x, layer, inputs)


class ShakeDrop(Stochastic):
    """`jaxdrop.shake_drop` as an NNX module.

    Args:
      rate: the probability that the branch is shaken, a number in [0, 1].
      alpha: least and greatest forward coefficient.
      beta: least and greatest backward coefficient.
      per: who gets coefficients of their own: `'batch'`, `'image'`, `'channel'` or `'pixel'`.
      batch_axis: where the images are.
      channel_axis: where the channels are.
      deterministic: if True, the input times the expected coefficient is returned.
      rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `jaxdrop.shake_drop`.
    """

    _draws_nothing_at = (0,)

    def __init__(
        self,
        rate: float = 0.5,
        *,
        alpha: paths.Range = (-1.0, 1.0),
        beta: paths.Range = (0.0, 1.0),
        per: paths.Per = "image",
        batch_axis: int = 0,
        channel_axis: int = -1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.alpha = paths.check_range("alpha", alpha)
        self.beta = paths.check_range("beta", beta)
        self.per: paths.Per = per
        self.batch_axis = batch_axis
        self.channel_axis = channel_axis

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Shakes `inputs`, the output of a residual branch. Args and Returns: as
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
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
