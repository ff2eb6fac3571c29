"""What the catalogue does not say of the layers that drop regions in `jaxdrop.linen`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from jaxdrop.functional.regions import drop_block, spatial_dropout
from jaxdrop.linen import DropBlock, Dropout1d, Dropout2d, Dropout3d
from tests.catalogue import KEY, RATE

SPATIAL = {1: Dropout1d, 2: Dropout2d, 3: Dropout3d}
SHAPE = (2, 3, 4, 5, 6, 7)


def call(layer: Any, x: jax.Array, **options: Any) -> jax.Array:
    return layer.apply({}, x, deterministic=False, rng=KEY, **options)


@pytest.mark.parametrize("rank", SPATIAL)
@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
@pytest.mark.parametrize("batched", [False, True])
def test_spatial_dropout_of_a_batch_and_of_an_example(
    rank: int, first: bool, batched: bool
) -> None:
    x = jnp.ones(SHAPE[: rank + 1 + batched])
    axis = -1 - rank if first else -1
    expected = spatial_dropout(KEY, x, RATE, channel_axis=axis, spatial_rank=rank)
    np.testing.assert_array_equal(call(SPATIAL[rank](RATE, channel_axis=axis), x), expected)


@pytest.mark.parametrize("rank", SPATIAL)
def test_spatial_dropout_checks_the_rank(rank: int) -> None:
    """Also in evaluation, and where nothing is dropped. PyTorch's takes vectors, and reads (C, H,
    W) as (N, C, L).
    """
    for ndim in (1, rank, rank + 3):
        for rate in (0.0, RATE):
            with pytest.raises(
                ValueError,
                match=(
                    rf"Dropout{rank}d takes a batch of {rank + 2} axes or a single example of"
                    rf" {rank + 1}"
                ),
            ):
                call(SPATIAL[rank](rate), jnp.ones(SHAPE[:ndim]))


def test_channels_of_a_batch_are_not_those_of_an_example() -> None:
    with pytest.raises(
        ValueError, match=r"channel_axis=1 of 3 axes would stand among 2 axes of space"
    ):
        call(Dropout2d(RATE, channel_axis=1), jnp.ones((3, 4, 5)))


def test_drop_block_at_rate_one_draws() -> None:
    """For it keeps something."""
    x = jnp.ones((4, 8, 8, 2))
    np.testing.assert_array_equal(
        call(DropBlock(1, block_size=3), x), drop_block(KEY, x, 1, block_size=3)
    )
    with pytest.raises(InvalidRngError):
        DropBlock(1, block_size=3).apply({}, x, deterministic=False)
