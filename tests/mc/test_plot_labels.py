"""What a reader of a picture sees beside its numbers: labels, limits, legends, and what is refused.

The numbers are in `test_plots.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import pytest

from jaxdrop import mc
from jaxdrop.mc import metrics, plots

mpl.use("Agg")
from matplotlib import pyplot

pytestmark = pytest.mark.sweep

RNG = np.random.default_rng(0)
PROBS = np.float32([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]] * 5)
LABELS = np.array([0, 1, 2, 2] * 5)
ERRORS = np.float32(PROBS.argmax(-1) != LABELS)
SCORES = np.float32(1 - PROBS.max(-1))
SETS = PROBS > 0.25
REGRESSION = mc.regression(RNG.normal(size=(6, 20)).astype(np.float32), tau=4.0)
SAMPLES = RNG.normal(size=(8, 20)).astype(np.float32)
CDF = np.float32(RNG.random(20))
GROUPS = np.array([0, 1, 3, 3] * 5)
UNIT = (0, 1)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


class Seen(dict[str, Any]):
    """What `ax.get_...` must return. The legend's texts are those up to the first comma."""


CASES: dict[str, tuple[Callable[[], pyplot.Axes], Seen]] = {
    "reliability": (
        lambda: plots.reliability(LABELS, PROBS),
        Seen(xlabel="", ylabel="accuracy", xlim=UNIT, ylim=UNIT, xscale="linear"),
    ),
    "calibration": (
        lambda: plots.calibration(CDF),
        Seen(
            title="Calibration of the predictive distribution",
            xlabel="probability",
            ylabel="share of observations in the interval",
            xlim=UNIT,
            ylim=UNIT,
            aspect=1,
            legend=["calibrated", "observations"],
        ),
    ),
    "pit": (
        lambda: plots.pit(CDF),
        Seen(
            title="Probability integral transform",
            xlabel="F(y), the predicted probability of less",
            ylabel="density of observations",
            xlim=UNIT,
            low=0,
            patches=20,
        ),
    ),
    "novelty": (
        lambda: plots.novelty(SCORES, SCORES + 1),
        Seen(
            title="Uncertainty in and out of distribution",
            xlabel="predictive entropy (nats)",
            ylabel="share of inputs",
            xlim=(SCORES.min(), SCORES.max() + 1),
            low=0,
            legend=["inside", "outside"],
            patches=31,  # bars, and one outline
        ),
    ),
    "risk_coverage": (
        lambda: plots.risk_coverage(ERRORS, SCORES),
        Seen(
            title="Risk and coverage",
            xlabel="coverage: share of predictions kept",
            ylabel="risk: mean error of those kept",
            xlim=UNIT,
            low=0,
            legend=["uncertainty", "oracle", "random"],
        ),
    ),
    "sparsification": (
        lambda: plots.sparsification(ERRORS, {"a": SCORES, "b": -SCORES}, name="loss"),
        Seen(
            title="Sparsification",
            xlabel="share of predictions removed, the least certain first",
            ylabel="mean loss of those left",
            xlim=UNIT,
            low=0,
            legend=["a", "b", "oracle", "random"],
        ),
    ),
    "band": (
        lambda: plots.band(np.arange(20), REGRESSION),
        Seen(
            title="Mean and 95 % band",
            xlabel="x",
            ylabel="y",
            legend=["epistemic and aleatoric", "epistemic", "mean"],
        ),
    ),
    "standard_error": (
        lambda: plots.standard_error(SAMPLES, name="logit"),
        Seen(
            title="What more passes bring",
            xlabel="number of passes s",
            ylabel="standard error of the mean logit",
            xscale="log",
            yscale="log",
            xticks=["2", "4", "8"],
            legend=["of the first s samples", r"$\propto 1/\sqrt{s}$"],
        ),
    ),
    "coverage_by_group": (
        lambda: plots.coverage_by_group({"a": ERRORS == 0, "b": ERRORS == 1}, GROUPS, coverage=0.5),
        Seen(
            title="Coverage by group",
            ylabel="coverage",
            xlim=(-0.5, 2.5),
            xticks=["0\nn=5", "1\nn=5", "3\nn=10"],
            legend=["asked for", "a", "b"],
        ),
    ),
    "coverage_by_size": (
        lambda: plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS}, coverage=0.5),
        Seen(
            title="Coverage by the size of the set",
            ylabel="coverage",
            ylim=(-0.05, 1.05),
            legend=["asked for", "a", "b"],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_and_limits(name: str) -> None:
    draw, seen = CASES[name]
    ax = draw()
    if "xticks" in seen:
        ax.figure.draw_without_rendering()
    left, right = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=False)
    found = {
        "legend": [each.get_text().split(",")[0] for each in ax.get_legend().get_texts()]
        if "legend" in seen
        else None,
        "low": ax.get_ylim()[0],
        "patches": len(ax.patches),
        "xticks": [text.get_text() for place, text in ticks if left <= place <= right],
    }
    for of, expected in seen.items():
        value = found[of] if of in found else getattr(ax, f"get_{of}")()
        if of in ("xlim", "ylim"):
            np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=of)
        else:
            assert value == expected, of
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()


def test_curves_differ_in_color_and_in_dashes() -> None:
    """Also those beyond the number of styles are drawn, which begin anew."""
    ax = plots.risk_coverage(ERRORS, {f"{at}": at * SCORES for at in range(6)})
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.lines[:6]]
    dashes = [line._unscaled_dash_pattern for line in ax.lines[:6]]
    assert len({color for color, _ in styles[:5]}) == 5
    assert len({str(each) for each in dashes[:5]}) == 5
    assert styles[5] == styles[0]
    oracle, random = ax.lines[6:]
    assert {oracle.get_color(), random.get_color()}.isdisjoint(color for color, _ in styles)
    assert random.get_linestyle() == ":"


def test_a_bar_joins_each_bin_to_the_diagonal() -> None:
    ax = plots.reliability(LABELS, PROBS, num_bins=4)
    bins = metrics.reliability(LABELS, PROBS, num_bins=4)
    filled = np.asarray(bins.count) > 0
    x, accuracy = np.asarray(bins.confidence)[filled], np.asarray(bins.accuracy)[filled]
    (bars,) = ax.collections
    np.testing.assert_allclose(
        bars.get_segments(), np.stack([np.stack([x, x], -1), np.stack([x, accuracy], -1)], -1)
    )
    np.testing.assert_array_equal(ax.lines[0].get_data(), [[0, 1], [0, 1]])


def test_histograms_lie_below_the_curves_and_share_their_axis() -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    for given, draw in (
        (left, lambda ax: plots.reliability(LABELS, PROBS, num_bins=4, ax=ax)),
        (right, lambda ax: plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS}, ax=ax)),
    ):
        whole = given.get_position()
        ax = draw(given)
        ax.figure.draw_without_rendering()
        (below,) = ax.child_axes
        curves, bars = ax.get_position(), below.get_window_extent()
        bars = bars.transformed(ax.figure.transFigure.inverted())
        assert (below.get_ylabel(), below.get_yscale()) == ("count", "log")
        assert bars.y1 < curves.y0
        np.testing.assert_allclose([bars.x0, bars.x1], [curves.x0, curves.x1])
        np.testing.assert_allclose([bars.y0, curves.y1], [whole.y0, whole.y1], atol=1e-6)
        assert below.get_xlim() == ax.get_xlim()
        assert below.get_ylim()[0] < 1  # a bar of one is seen
        assert not any(tick.label1.get_visible() for tick in ax.xaxis.get_major_ticks())
    assert [child.get_xlabel() for ax in (left, right) for child in ax.child_axes] == [
        "confidence",
        "size of the set",
    ]


def test_bars_of_several_sets_stand_side_by_side() -> None:
    ax = plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS})
    (below,) = ax.child_axes
    sizes = [SETS.sum(-1), (~SETS).sum(-1)]
    expected = [
        (size + 0.4 * number - 0.4, (each == size).sum())
        for number, each in enumerate(sizes)
        for size in np.unique(each)
    ]
    found = [(bar.get_x(), bar.get_height()) for bar in below.patches]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert {round(bar.get_width(), 6) for bar in below.patches} == {0.4}
    # Each point stands over the middle of its bar.
    points = [line for line in ax.lines if line.get_marker() in "os"]
    middles = np.concatenate([line.get_xdata() for line in points])
    np.testing.assert_allclose(middles, [x + 0.2 for x, _ in expected], atol=1e-12)
    assert len({line.get_marker() for line in points}) == 2
    assert below.get_xticks().tolist() == [0, 1, 2, 3]


def test_ticks_of_many_sizes_are_few() -> None:
    labels, sets = np.arange(20), np.tri(20, dtype=bool)
    (below,) = plots.coverage_by_size(labels, sets).child_axes
    assert below.get_xticks().tolist() == list(range(0, 21, 2))


def test_points_of_several_groups_stand_apart() -> None:
    ax = plots.coverage_by_group({"a": ERRORS == 0, "b": ERRORS == 1}, GROUPS)
    first, second = (line.get_xdata() for line in ax.lines if line.get_marker() in "os")
    np.testing.assert_allclose([first, second], [np.arange(3) - 0.075, np.arange(3) + 0.075])
    assert max(ax.get_yticks()) == pytest.approx(1)
    assert ax.get_ylim()[1] > 1  # the legend stands above all points


def test_scales_of_maps() -> None:
    """What is predicted and what is true have one scale; a map of uncertainty begins at 0."""
    images, truth = RNG.random((2, 4, 5)), RNG.normal(size=(2, 4, 5)) * 3
    summary = mc.regression(RNG.normal(size=(6, 2, 4, 5)).astype(np.float32), tau=4.0)
    ax = plots.maps(images, summary, truth=truth)
    mean, epistemic = np.asarray(summary.mean), np.asarray(summary.epistemic_variance) ** 0.5
    alike = min(mean.min(), truth.min()), max(mean.max(), truth.max())
    scales = [images.min(), images.max()], alike, alike, (0, 0.5), (0, epistemic.max())
    cells = np.array(ax.child_axes).reshape(5, 2)
    for column, scale in zip(cells, scales, strict=True):
        for cell in column:
            np.testing.assert_allclose(cell.images[0].get_clim(), scale, rtol=1e-5)
            assert (len(cell.get_xticks()), len(cell.get_yticks())) == (0, 0)
    titles = [cell.get_title().replace("\n", " ") for cell in cells[:, 0]]
    assert titles == [
        "image",
        "truth",
        "mean",
        "aleatoric std 0 to 0.5",
        f"epistemic std 0 to {epistemic.max():.2g}",
    ]
    assert not any(cell.get_title() for cell in cells[:, 1])
    # Cells do not overlap, from the left to the right and from the top down.
    ax.figure.draw_without_rendering()
    boxes = [[cell.get_window_extent() for cell in column] for column in cells]
    assert all(upper.y0 > lower.y1 for upper, lower in boxes)
    assert all(a[0].x1 < b[0].x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("columns", [2, 5])
def test_rows_of_images_do_not_overlap(columns: int) -> None:
    images = RNG.random((20, 8, 4))
    ax = plots.certainty(images, LABELS, PROBS, SCORES + ERRORS, columns=columns, name="doubt")
    assert ax.get_title() == "Label → prediction, and doubt below"
    assert not ax.axison
    ax.figure.draw_without_rendering()
    boxes = [cell.get_tightbbox() for cell in ax.child_axes]
    upper, lower = boxes[:columns], boxes[columns:]
    assert min(box.y0 for box in upper) > max(box.y1 for box in lower)
    shown = [cell.get_window_extent() for cell in ax.child_axes[:columns]]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(shown))
    assert {cell.images[0].get_clim() for cell in ax.child_axes} == {(images.min(), images.max())}
    colors = {cell.title.get_color() for cell in ax.child_axes if "✗" in cell.get_title()}
    rest = {cell.title.get_color() for cell in ax.child_axes if "✗" not in cell.get_title()}
    assert (len(colors), len(rest)) == (1, 1)
    assert colors != rest


def test_certainty_keeps_the_size_of_given_axes() -> None:
    figure, given = pyplot.subplots(figsize=(4, 3))
    images = np.ones((20, 8, 4))
    assert plots.certainty(images, LABELS, PROBS, SCORES, columns=2, ax=given) is given
    assert figure.get_size_inches().tolist() == [4, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.risk_coverage(ERRORS, {}), "uncertainty must be an array, or several"),
        (lambda: plots.calibration({}), "observations must be an array, or several"),
        (lambda: plots.novelty(SCORES, SCORES, name=3), "name must be a str, got 3"),
        (lambda: plots.reliability(LABELS, PROBS, title=None), "title must be a str, got None"),
        (
            lambda: jax.eval_shape(lambda x: plots.standard_error(x), SAMPLES),
            "draws values, but those of samples are traced or on other processes",
        ),
        (
            lambda: jax.eval_shape(lambda x: plots.reliability(LABELS, x), PROBS),
            "draws values, but those of probs are traced",
        ),
        (
            lambda: plots.standard_error(SAMPLES, groups=1),
            "groups must be at least 2, got 1: how much the mean varies shows in several groups",
        ),
        (lambda: plots.standard_error(np.float32(1)), "at least two samples, got ()"),
        (lambda: plots.band(np.ones(20), SAMPLES), "band takes a Regression summary"),
        (
            lambda: plots.band(np.ones(20), REGRESSION, coverage=np.array([0.5, 0.9])),
            "coverage must be one number, got shape (2,)",
        ),
        (
            lambda: plots.band(np.ones(20), REGRESSION, observed=np.ones((2, 3))),
            "observed must be a pair of inputs and targets",
        ),
        (
            lambda: plots.band(np.ones(20), REGRESSION, observed=(np.ones(3),)),
            "observed must be a pair of inputs and targets",
        ),
        (
            lambda: plots.band(np.ones(20), REGRESSION, observed=(np.ones(3), np.ones(4))),
            "of one shape (N,), got [(3,), (4,)]",
        ),
        (
            lambda: plots.band(np.ones(20), REGRESSION, observed=(np.ones((3, 1)),) * 2),
            "of one shape (N,), got [(3, 1), (3, 1)]",
        ),
        (
            lambda: plots.coverage_by_group(ERRORS == 0, GROUPS, coverage=[0.5]),
            "coverage must lie in (0, 1), got",
        ),
        (lambda: plots.coverage_by_group(ERRORS == 0, GROUPS, coverage=1), "(0, 1), got 1"),
        (lambda: plots.coverage_by_group(ERRORS == 0, GROUPS, coverage=0), "(0, 1), got 0"),
        (
            lambda: plots.coverage_by_size(LABELS.reshape(4, 5), SETS.reshape(4, 5, 3)),
            "coverage_by_size takes sets (N, C), got shape (4, 5, 3)",
        ),
        (lambda: plots.maps(np.ones((20, 1)), REGRESSION), "maps takes images (N, height, width)"),
        (lambda: plots.certainty(np.ones((20, 2, 2)), LABELS, PROBS, SCORES, columns=0), "got 0"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)
    assert pyplot.get_fignums() == [], "a call that fails leaves a figure behind"
