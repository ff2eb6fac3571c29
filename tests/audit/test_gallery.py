"""Recall and precision of the audit on the gallery of broken models."""

from __future__ import annotations

from collections import Counter

import pytest

from jaxdrop import audit
from tests.audit import gallery

pytestmark = pytest.mark.usefixtures("relaxed")

CASES = gallery.load()


def test_every_fault_is_found_and_no_twin_is_blamed() -> None:
    figures = gallery.measure(CASES)
    assert figures.misses == []
    assert (figures.recall, figures.precision) == (1, 1)


@pytest.fixture
def complete() -> None:
    """For what holds of the cases of all frameworks."""
    pytest.importorskip("equinox")
    pytest.importorskip("haiku")


@pytest.mark.sweep
@pytest.mark.usefixtures("complete")
def test_every_rule_has_three_broken_models() -> None:
    counts = Counter(case.rule for case in CASES)
    rules = {name for name in audit.RULES if not name.startswith("JD4")}  # those of `compare`
    assert set(counts) == rules
    assert min(counts.values()) >= 3


@pytest.mark.sweep
@pytest.mark.usefixtures("complete")
def test_a_third_of_the_gallery_is_rebuilt_from_public_code() -> None:
    assert 3 * sum(case.source is not None for case in CASES) >= len(CASES)
    assert len({case.name for case in CASES}) == len(CASES)
