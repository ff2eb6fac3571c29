"""The mask of a key does not change without a major version, on any stack and any device."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxdrop import random
from tests import golden, reference
from tests.catalogue import Variant, each_variant

GOLDEN = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("name", golden.GENERATORS)
def test_bits_do_not_change(name: str) -> None:
    assert golden.bits_of(golden.GENERATORS[name]) == GOLDEN["bits"][name]


@each_variant
def test_masks_do_not_change(variant: Variant) -> None:
    """Which entries are 0, to the bit; values within 2 units in the last place, or what a mean of
    them makes of that.
    """
    expected, found = GOLDEN["outputs"][variant.name], golden.output_of(variant)
    assert found["zeros"] == expected["zeros"]
    np.testing.assert_allclose(found["values"], expected["values"], rtol=1e-5, atol=1e-6)


def test_every_row_is_promised() -> None:
    assert set(GOLDEN["outputs"]) == {variant.name for variant in golden.VARIANTS}


@pytest.mark.parametrize("seed", [0, 1, 20261126])
def test_bits_are_those_of_the_reference(seed: int) -> None:
    """The definition in NumPy, also past 2**32 entries."""
    starts = np.array([0, 2**32, 2**63], np.uint64)
    positions = (starts[:, None] + np.arange(1000, dtype=np.uint64)).ravel()
    rows, columns = divmod(positions, np.uint64(2**32))
    key = jax.random.fold_in(jax.random.key(seed, dtype=golden.GENERATORS["hash"].dtype), 3)
    words = tuple(np.asarray(jax.random.key_data(key)).tolist())
    drawn = random.bits_at(key, (rows.astype(np.uint32), columns.astype(np.uint32)), (2**32, 2**32))
    np.testing.assert_array_equal(drawn, reference.bits(words, positions))
