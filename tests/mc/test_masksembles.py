"""The masks of Masksembles have the distribution of the authors' generator."""

from __future__ import annotations

import collections
import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc
from tests import statistics

LEVEL = 1e-6


@pytest.mark.sweep
def test_all_masks_that_fill_the_layer_are_equally_likely() -> None:
    """By enumeration: three sets of two of four features that together are all four. That is the
    distribution of the authors' sets of two of any number of positions, if they fill four.
    """
    pairs = [sum(1 << place for place in pair) for pair in itertools.combinations(range(4), 2)]
    ways = [
        masks for masks in itertools.product(pairs, repeat=3) if np.bitwise_or.reduce(masks) == 15
    ]
    draw = jax.jit(jax.vmap(lambda key: mc.masksembles(key, 3, 4)))
    drawn = np.asarray(draw(jax.random.split(jaxdrop.key(5), 20_000)))
    counted = collections.Counter(map(tuple, (drawn * (1 << np.arange(4))).sum(-1).tolist()))
    assert set(counted) <= set(ways)
    counts = np.array([counted[masks] for masks in ways])
    assert statistics.chi_square(counts, 20_000 / len(ways)) > LEVEL


@pytest.mark.sweep
@pytest.mark.parametrize(("num", "scale"), [(4, 2.0), (2, 1.25)])
def test_sizes_and_overlap_are_those_of_the_paper(num: int, scale: float) -> None:
    """The intersection over union of two sets is 1 / (2 s - 1): to 5 standard deviations of the
    hypergeometric intersection, for each of 20 keys.
    """
    features = 400
    draw = jax.jit(jax.vmap(lambda key: mc.masksembles(key, num, features, scale=scale)))
    masks = np.asarray(draw(jax.random.split(jax.random.key(num), 20))).astype(int)
    kept = int(features / (scale * (1 - (1 - 1 / scale) ** num)))  # the authors' active_features
    assert (masks.sum(-1) == kept).all()
    assert masks.any(1).all()
    common = (masks @ masks.swapaxes(1, 2))[:, *np.triu_indices(num, 1)]
    variance = kept / scale * (1 - 1 / scale) * (1 - 1 / scale)
    shares = common.mean() / (2 * kept - common.mean())
    assert abs(common.mean() - kept / scale) < 5 * math.sqrt(variance / 20) + 1
    assert abs(shares - 1 / (2 * scale - 1)) < 0.02


def test_one_network_and_networks_apart() -> None:
    assert mc.masksembles(jaxdrop.key(0), 3, 5, scale=1).all()
    apart = np.asarray(mc.masksembles(jaxdrop.key(0), 2, 10, scale=6))
    assert (apart.sum(0) == 1).all()  # 5 of 10 each: disjoint
    first, again, other = (
        np.asarray(mc.masksembles(key, 4, 12))
        for key in (jaxdrop.key(0), jax.random.fold_in(jaxdrop.key(1), 0), jax.random.PRNGKey(0))
    )
    assert not np.array_equal(first, again)
    assert first.shape == other.shape
    np.testing.assert_array_equal(first, mc.masksembles(jaxdrop.key(0), 4, 12))


def test_masks_stay_those_of_the_key() -> None:
    """Also where the first masks that are drawn leave out too few or too many features."""
    keys = jax.random.split(jaxdrop.key(0), 8)
    drawn = np.packbits(jax.vmap(lambda key: mc.masksembles(key, 3, 4))(keys))
    assert drawn.tobytes().hex() == "93536ca5633c5a9c363c3c53"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_masks": 0}, ValueError, "num_masks must be at least 1, got 0"),
        ({"features": 2.5}, TypeError, "features must be an integer, got 2.5"),
        ({"scale": 0.5}, ValueError, r"scale must lie in \[1, 6\], got 0.5"),
        ({"scale": 7}, ValueError, r"scale must lie in \[1, 6\], got 7"),
        ({"scale": np.ones(3)}, ValueError, "scale must be one number"),
        ({"key": None}, ValueError, "mc.masksembles needs a key"),
        ({"key": 3}, TypeError, "key must be a JAX PRNG key"),
    ],
)
def test_bad_input(options: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        mc.masksembles(**{"key": jaxdrop.key(0), "num_masks": 4, "features": 8} | options)
