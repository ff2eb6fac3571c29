"""The mask of a key does not change without a major version, on any stack and any device."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import golden
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
