"""What a reader of a picture sees beside its numbers: labels, limits, legends, and what is refused.

The numbers are in `test_plots.py`.
"""

from __future__ import annotations

import inspect
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
from matplotlib import layout_engine, pyplot

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
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#555555"


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


class Seen(dict[str, Any]):
    """What `ax.get_...` must return. The legend's texts are those up to the first comma.

    `lines` are color, dashes and marker of each line. Those of `references` hold numbers that are
    no data, by their position among the lines.
    """


CASES: dict[str, tuple[Callable[[], pyplot.Axes], Seen]] = {
    "reliability": (
        lambda: plots.reliability(LABELS, PROBS),
        Seen(
            xlabel="",
            ylabel="accuracy",
            xlim=UNIT,
            ylim=UNIT,
            xscale="linear",
            lines=[("black", ":", "None"), (BLUE, "None", "o")],
            references={0: [[0, 1], [0, 1]]},
        ),
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
            lines=[("black", ":", "None"), (BLUE, "-", "None")],
            references={0: [[0, 1], [0, 1]]},
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
            lines=[("black", "-", "None"), *[("black", "--", "None")] * 2],
            references={0: [[0, 1], [1, 1]]},
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
            lines=[(BLUE, "-", "None"), ("black", "-", "None"), (GRAY, ":", "None")],
            references={2: [[0, 1], [ERRORS.mean()] * 2]},
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
            lines=[
                (BLUE, "-", "None"),
                (ORANGE, "--", "None"),
                ("black", "-", "None"),
                (GRAY, ":", "None"),
            ],
            references={3: [[0, 1], [ERRORS.mean()] * 2]},
        ),
    ),
    "band": (
        lambda: plots.band(np.arange(20), REGRESSION, observed=(SCORES, SCORES)),
        Seen(
            title="Mean and 95 % band",
            xlabel="x",
            ylabel="y",
            legend=["epistemic and aleatoric", "epistemic", "mean", "observed"],
            lines=[(BLUE, "-", "None"), ("black", "None", "o")],
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
            lines=[(BLUE, "None", "o"), ("black", "--", "None")],
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
            lines=[
                (BLUE, "None", "o"),
                *[(BLUE, "None", "_")] * 2,
                (ORANGE, "None", "s"),
                *[(ORANGE, "None", "_")] * 2,
                ("black", ":", "None"),
            ],
            references={6: [[0, 1], [0.5, 0.5]]},
        ),
    ),
    "coverage_by_size": (
        lambda: plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS}, coverage=0.5),
        Seen(
            title="Coverage by the size of the set",
            ylabel="coverage",
            ylim=(-0.05, 1.05),
            legend=["asked for", "a", "b"],
            lines=[
                (BLUE, "None", "o"),
                *[(BLUE, "None", "_")] * 2,
                (ORANGE, "None", "s"),
                *[(ORANGE, "None", "_")] * 2,
                ("black", ":", "None"),
            ],
            references={6: [[0, 1], [0.5, 0.5]]},
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
        "lines": [(x.get_color(), x.get_linestyle(), x.get_marker()) for x in ax.lines],
        "patches": len(ax.patches),
        "references": {at: ax.lines[at].get_xydata().T for at in seen.get("references", ())},
        "xticks": [text.get_text() for place, text in ticks if left <= place <= right],
    }
    for of, expected in seen.items():
        value = found[of] if of in found else getattr(ax, f"get_{of}")()
        if of == "references":
            for at, points in expected.items():
                np.testing.assert_allclose(value[at], points, rtol=1e-6)
        elif of in ("xlim", "ylim"):
            np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=of)
        else:
            assert value == expected, of
    assert not ax.spines["top"].get_visible()
    assert not ax.spines["right"].get_visible()
    assert isinstance(ax.figure.get_layout_engine(), layout_engine.ConstrainedLayoutEngine)


@pytest.mark.parametrize("names", [1, 3])
def test_a_legend_stands_closely_above_what_is_drawn(names: int) -> None:
    """On the side that the function chooses, with two lines or so between the two."""
    draw = {"right": plots.sparsification, "left": plots.risk_coverage}
    for side, each in draw.items():
        ax = each(np.ones(20), {f"{at}": SCORES for at in range(names)})  # all curves are at 1
        ax.figure.draw_without_rendering()
        frame, whole = ax.get_legend().get_window_extent(), ax.get_window_extent()
        line = ax.get_legend().get_texts()[0].get_fontsize() * ax.figure.dpi / 72
        top = ax.transData.transform((0, 1.055))[1]  # with the margin of matplotlib
        assert 0 < frame.y0 - top < 2.5 * line, (frame.y0 - top) / line
        assert (frame.x1 + frame.x0 > whole.x1 + whole.x0) == (side == "right")


def test_a_legend_takes_three_fifths_of_the_axes_at_most() -> None:
    ax = plots.risk_coverage(np.ones(20), {f"{at}": SCORES for at in range(30)})
    np.testing.assert_allclose(ax.get_ylim(), (0, 1.055 / 0.4))


def test_curves_differ_in_color_and_in_dashes() -> None:
    """Also those beyond the number of styles are drawn, which begin anew."""
    ax = plots.risk_coverage(ERRORS, {f"{at}": at * SCORES for at in range(6)})
    styles = [(line.get_color(), line.get_linestyle()) for line in ax.lines[:6]]
    dashes = [line._unscaled_dash_pattern for line in ax.lines[:6]]
    assert len({color for color, _ in styles[:5]}) == 5
    assert len({str(each) for each in dashes[:5]}) == 5
    assert styles[5] == styles[0]
    assert {offset for offset, _ in dashes} == {0}  # a curve begins with ink
    (dot, gap), (dash, *dots) = (pattern for _, pattern in dashes[3:5])
    assert dot == gap
    assert (len(dots), len({*dots})) == (5, 1)
    assert dash > 3 * dots[0]
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
    assert mpl.colors.to_hex(bars.get_color()[0]).upper() == BLUE
    assert bars.get_alpha() < 1  # fainter than the points, in their color


def test_histograms_lie_below_the_curves_and_share_their_axis() -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    for given, draw in (
        (left, lambda ax: plots.reliability(LABELS, PROBS, num_bins=4, ax=ax)),
        (right, lambda ax: plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS}, ax=ax)),
    ):
        whole = given.get_position()
        ax = draw(given)
        for _ in range(2):  # which does not move anything
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
        assert not any(below.spines[side].get_visible() for side in ("top", "right"))
    assert [child.get_xlabel() for ax in (left, right) for child in ax.child_axes] == [
        "confidence",
        "size of the set",
    ]


def test_histograms_have_the_colors_of_their_curves() -> None:
    """Known inputs are gray bars, and the others outlines, whose shares sum to 1."""
    outside = {"a": SCORES, "b": np.concatenate([SCORES, SCORES + 0.2])}
    ax = plots.novelty(2 * SCORES, outside, num_bins=4)
    bars, outlines = ax.patches[:4], ax.patches[4:]
    red, green, blue, _ = bars[0].get_facecolor()
    assert red == green == blue
    edges = np.append([bar.get_x() for bar in bars], bars[-1].get_x() + bars[-1].get_width())
    everything = np.concatenate([2 * SCORES, *outside.values()])
    np.testing.assert_allclose(edges[[0, -1]], [everything.min(), everything.max()], rtol=1e-6)
    assert [mpl.colors.to_hex(each.get_edgecolor()).upper() for each in outlines] == [BLUE, ORANGE]
    assert outlines[0].get_linestyle() != outlines[1].get_linestyle()
    for outline, values in zip(outlines, outside.values(), strict=True):
        assert not outline.get_fill()
        x, y = outline.get_path().interpolated(1).vertices.T
        heights = [y[(x == low) | (x == high)].max() for low, high in itertools.pairwise(edges)]
        share = np.histogram(values, edges)[0] / values.size
        assert max(heights) == pytest.approx(max(share))
    below = plots.coverage_by_size(LABELS, {"a": SETS, "b": ~SETS}).child_axes[0].patches
    found = [mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in below]
    sizes = [len(np.unique(each.sum(-1))) for each in (SETS, ~SETS)]
    assert found == [BLUE] * sizes[0] + [ORANGE] * sizes[1]


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
    in_a_grid(ax, cells)


def in_a_grid(ax: pyplot.Axes, columns: np.ndarray) -> None:
    """Cells stand in the middle of the cells of a grid, from the left to the right and from the top
    down. They fill most of them, in one direction at least, and do not overlap.
    """
    ax.figure.draw_without_rendering()
    inside = ax.transAxes.inverted()
    boxes = [[cell.get_window_extent().transformed(inside) for cell in each] for each in columns]
    width, height = 1 / len(columns), 1 / len(columns[0])
    for (at, row), box in ((at, boxes[at[0]][at[1]]) for at in np.ndindex(columns.shape)):
        middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        np.testing.assert_allclose(middle, [(at + 0.5) * width, 1 - (row + 0.5) * height])
        filled = box.width / width, box.height / height
        assert 0.8 < max(filled) < 1, filled


def test_maps_have_the_colors_of_their_kind() -> None:
    """Classes have the twenty colors of a list, whichever of them occur. Pixels are not mixed."""
    colored, labels = RNG.random((2, 4, 5, 3)), np.array([0, 1, 2, 2] * 10).reshape(2, 4, 5)
    classes = mc.classification(probs=np.tile(PROBS.reshape(1, 1, 4, 5, 3), (3, 2, 1, 1, 1)))
    numbers = mc.regression(RNG.normal(size=(6, 2, 4, 5)).astype(np.float32), tau=4.0)
    for summary, kinds in (
        (classes, ["tab20", "tab20", "magma", "magma"]),
        (numbers, ["gray", "gray", "magma", "magma"]),
    ):
        ax = plots.maps(colored, summary, truth=labels)
        assert not ax.axison
        cells = np.array(ax.child_axes).reshape(5, 2)
        shown = [cell.images[0] for cell in cells[:, 0]]
        assert [image.get_cmap().name for image in shown[1:]] == kinds
        assert {image.get_interpolation() for image in shown} == {"nearest"}
        np.testing.assert_allclose(shown[0].get_array(), colored[0])
        if summary is classes:
            assert {image.get_clim() for image in shown[1:3]} == {(0, 19)}
            titles = [cell.get_title() for cell in cells[3:, 0]]
            entropy = float(summary.expected_entropy.max())
            assert titles == [
                f"expected\nentropy\n0 to {entropy:.2g} nats",
                "mutual\ninformation\n0 to 0 nats",
            ]


@pytest.mark.parametrize("columns", [2, 8])
def test_rows_of_images_do_not_overlap(columns: int) -> None:
    """The figure is so high that they fill their places."""
    images = RNG.random((20, 8, 6))
    ax = plots.certainty(images, LABELS, PROBS, SCORES + ERRORS, columns=columns, name="doubt")
    assert ax.get_title() == "Label → prediction, and doubt below"
    assert not ax.axison
    ax.figure.draw_without_rendering()
    boxes = [cell.get_tightbbox() for cell in ax.child_axes]
    upper, lower = boxes[:columns], boxes[columns:]
    assert min(box.y0 for box in upper) > max(box.y1 for box in lower)
    frame = ax.get_window_extent()
    shown = [cell.get_window_extent() for cell in ax.child_axes]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(shown[:columns]))
    middles = [((box.x0 + box.x1) / 2 - frame.x0) / frame.width * columns for box in shown]
    np.testing.assert_allclose(middles, [*np.arange(0.5, columns)] * 2)
    assert min(box.y0 for box in shown) > frame.y0
    assert max(box.y1 for box in shown) < frame.y1
    places = [cell.get_position(original=True) for cell in ax.child_axes]
    whole = ax.figure.bbox
    filled = [
        (box.width / (place.width * whole.width), box.height / (place.height * whole.height))
        for box, place in zip(shown, places, strict=True)
    ]
    assert np.min(filled) > 0.8 or columns == 2, filled[0]
    assert {cell.images[0].get_clim() for cell in ax.child_axes} == {(images.min(), images.max())}
    assert {cell.images[0].get_cmap().name for cell in ax.child_axes} == {"gray_r"}
    assert all(each.get_visible() for cell in ax.child_axes for each in cell.spines.values())
    assert not any([*cell.get_xticks(), *cell.get_yticks()] for cell in ax.child_axes)
    colors = {("✗" in cell.get_title(), cell.title.get_color()) for cell in ax.child_axes}
    assert colors == {(True, ORANGE), (False, BLUE)}


@pytest.mark.parametrize(("shape", "share"), [((1, 9), 0.5), ((9, 1), 1)])
def test_flat_and_high_images_have_a_figure_of_half_or_full_height(
    shape: tuple[int, int], share: float
) -> None:
    ax = plots.certainty(np.ones((20, *shape)), LABELS, PROBS, SCORES)
    width, height = mpl.rcParams["figure.figsize"]
    np.testing.assert_allclose(ax.figure.get_size_inches(), (width, share * height))


def test_images_that_are_equally_certain_keep_their_order() -> None:
    number = np.arange(60.0)
    labels, probs = np.zeros(60, int), np.tile(PROBS, (3, 1))
    ax = plots.certainty(number.reshape(60, 1, 1), labels, probs, number % 2, columns=3)
    shown = [cell.images[0].get_array().item() for cell in ax.child_axes]
    assert shown == [0, 2, 4, 59, 57, 55]


def test_certainty_keeps_the_size_of_given_axes() -> None:
    figure, given = pyplot.subplots(figsize=(4, 3))
    images = np.ones((20, 8, 4, 3))
    assert plots.certainty(images, LABELS, PROBS, SCORES, columns=1, ax=given) is given
    assert len(given.child_axes) == 2
    assert figure.get_size_inches().tolist() == [4, 3]


@pytest.mark.parametrize(("number", "shape"), [(3, (4, 6)), (1, (4, 4)), (2, (2, 9))])
def test_maps_fill_their_figure(number: int, shape: tuple[int, int]) -> None:
    images = RNG.random((number, *shape))
    summary = mc.regression(RNG.normal(size=(4, number, *shape)).astype(np.float32), tau=4.0)
    ax = plots.maps(images, summary)
    ax.figure.draw_without_rendering()
    boxes = [cell.get_window_extent() for cell in ax.child_axes]
    for above, below in itertools.pairwise(boxes[:number]):
        assert 0 < above.y0 - below.y1 < 0.4 * above.height
    assert boxes[4 * number - 1].x1 - boxes[0].x0 > 0.8 * ax.figure.bbox.width
    _, given = pyplot.subplots(figsize=(4, 3))
    plots.maps(images, summary, ax=given)
    assert given.figure.get_size_inches().tolist() == [4, 3]


def test_names_of_groups_do_not_overlap() -> None:
    groups = np.arange(len(ERRORS)) % 8
    for names in (None, [*"abcdefgh"], [f"class number {i}" for i in range(8)]):
        ax = plots.coverage_by_group(ERRORS == 0, groups, names=names)
        ax.figure.draw_without_rendering()
        ticks = ax.get_xticklabels()
        turned = {tick.get_rotation() for tick in ticks}
        assert turned == ({45.0} if names and len(names[0]) > 1 else {0.0})
        assert [tick.get_text().split("n=")[0][:-1].rstrip(",") for tick in ticks] == (
            [str(i) for i in range(8)] if names is None else names
        )
        if turned == {0.0}:
            boxes = [tick.get_window_extent() for tick in ticks]
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_few_groups_of_samples_have_a_tick_each() -> None:
    samples = RNG.normal(size=(100, 30))
    assert plots.standard_error(samples, groups=5).get_xticks().tolist() == [40, 60, 80, 100]
    assert plots.standard_error(samples).get_xticks()[0] < 2


ARGUMENTS: dict[Callable[..., pyplot.Axes], dict[str, Any]] = {
    plots.reliability: {"labels": LABELS, "probs": PROBS, "where": ERRORS == 0},
    plots.calibration: {"cdf": CDF, "where": ERRORS == 0},
    plots.pit: {"cdf": CDF, "where": ERRORS == 0},
    plots.novelty: {"inside": SCORES, "outside": SCORES},
    plots.risk_coverage: {"errors": ERRORS, "uncertainty": SCORES, "where": ERRORS == 0},
    plots.sparsification: {"errors": ERRORS, "uncertainty": SCORES, "where": ERRORS == 0},
    plots.band: {"x": SCORES, "summary": REGRESSION},
    plots.standard_error: {"samples": SAMPLES},
    plots.certainty: {
        "images": np.ones((20, 2, 2)),
        "labels": LABELS,
        "probs": PROBS,
        "uncertainty": SCORES,
    },
    plots.coverage_by_group: {"covered": ERRORS == 0, "groups": GROUPS, "coverage": 0.5},
    plots.coverage_by_size: {"labels": LABELS, "sets": SETS, "coverage": 0.5},
    plots.maps: {
        "images": CDF.reshape(1, 4, 5),
        "summary": jax.tree.map(lambda x: x.reshape(1, 4, 5) if x.ndim else x, REGRESSION),
        "truth": SCORES.reshape(1, 4, 5),
    },
}


def test_these_are_all() -> None:
    assert {draw.__name__ for draw in ARGUMENTS} == {*dir(plots)}


@pytest.mark.parametrize("draw", ARGUMENTS, ids=lambda draw: draw.__name__)
def test_arguments_that_every_picture_refuses(draw: Callable[..., pyplot.Axes]) -> None:
    """A figure as axes, texts that are none, and arrays without values. No figure is left."""
    arguments = ARGUMENTS[draw]
    with pytest.raises(TypeError, match=r"ax must be matplotlib's Axes.*, got 3"):
        draw(**arguments, ax=3)
    for text in {"name", "title"} & inspect.signature(draw).parameters.keys():
        with pytest.raises(TypeError, match=f"{text} must be a str, got 3"):
            draw(**arguments, **{text: 3})
    for name, given in arguments.items():
        alias = {"cdf": "observations"}.get(name, name) if draw is plots.calibration else name
        with pytest.raises(
            TypeError, match=rf"those of {alias}(\[0\])? are traced or on other pro"
        ):
            jax.eval_shape(lambda x, name=name: draw(**{**arguments, name: x}), given)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.risk_coverage(ERRORS, {}), "uncertainty must be an array, or several"),
        (lambda: plots.calibration({}), "observations must be an array, or several"),
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
        *(
            (
                lambda given=given: plots.certainty(**{**ARGUMENTS[plots.certainty], **given}),
                "certainty takes images (N, height, width), labels (N,), probs (N, C)",
            )
            for given in (
                {"images": np.ones((20, 2, 2, 3, 1))},
                {"images": np.ones((19, 2, 2))},
                {"probs": PROBS[:19]},
                {"probs": PROBS[:, None]},
                {"labels": LABELS[:19]},
                {"labels": LABELS[:, None]},
                {"uncertainty": SCORES[:19]},
                {"uncertainty": SCORES[:, None]},
            )
        ),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)
    assert pyplot.get_fignums() == [], "a call that fails leaves a figure behind"
