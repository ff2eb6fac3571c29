"""The pictures show the numbers of `mc.metrics`. How they look is for the eye:
`examples/mc_classification.py` draws them.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats

from jaxdrop import mc
from jaxdrop.mc import metrics, plots

mpl.use("Agg")
from matplotlib import pyplot

pytestmark = pytest.mark.sweep

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(6, 40, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, 40))
SUMMARY = mc.classification(logits=LOGITS)
ERRORS = (SUMMARY.mean.argmax(-1) != LABELS).astype(jnp.float32)
INSIDE, OUTSIDE = (np.asarray(part) for part in jnp.split(SUMMARY.predictive_entropy, 2))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def lines(ax: pyplot.Axes) -> dict[str, np.ndarray]:
    """The points of each line, by the first word of its name in the legend."""
    return {line.get_label().split(",")[0]: np.stack(line.get_data()) for line in ax.get_lines()}


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-6, atol=1e-7)


def legend(ax: pyplot.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_reliability() -> None:
    probs = SUMMARY.mean.at[0].set(jnp.float32([1, 0, 0]))  # alone in its bin
    ax = plots.reliability(LABELS, probs, num_bins=4, title="here")
    bins = metrics.reliability(LABELS, probs, num_bins=4)
    filled = np.asarray(bins.count) > 0
    assert not filled.all()
    assert [*lines(ax)] == ["calibrated", "bins"]
    close(lines(ax)["bins"], np.stack([bins.confidence, bins.accuracy])[:, filled])
    # Points at the ends of the axes, such as an accuracy of 1, are seen whole.
    assert not next(line for line in ax.lines if line.get_label() == "bins").get_clip_on()
    assert ax.get_title() == f"here, ECE {metrics.ece(LABELS, probs, num_bins=4):.3f}"
    (below,) = ax.child_axes
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in below.patches] == [
        (index / 4, 1 / 4, count) for index, count in enumerate(np.asarray(bins.count)) if count
    ]


def test_histogram_below_is_in_the_figure() -> None:
    for layout in ("constrained", "tight"):
        figure = pyplot.figure(layout=layout)
        plots.reliability(LABELS, SUMMARY.mean, ax=figure.add_subplot())
        figure.savefig(io.BytesIO())
        assert figure.get_tightbbox().y0 >= 0


def test_novelty() -> None:
    ax = plots.novelty(INSIDE, {"a": OUTSIDE, "b": 2 * OUTSIDE}, num_bins=5)
    assert legend(ax) == [
        "inside",
        *(
            f"{name}, AUROC {metrics.auroc(INSIDE, factor * OUTSIDE):.3f}"
            for name, factor in (("a", 1), ("b", 2))
        ),
    ]
    bars = np.array([(bar.get_x(), bar.get_height()) for bar in ax.patches[:5]])
    edges = np.histogram_bin_edges([*INSIDE, *OUTSIDE, *(2 * OUTSIDE)], 5)
    close(bars, np.stack([edges[:-1], np.histogram(INSIDE, edges)[0] / INSIDE.size], -1))
    assert plots.novelty(INSIDE, OUTSIDE, name="I (bits)").get_xlabel() == "I (bits)"


def test_risk_coverage() -> None:
    scores = {"entropy": SUMMARY.predictive_entropy, "disagreement": SUMMARY.disagreement}
    ax = plots.risk_coverage(ERRORS, scores, name="error rate")
    drawn = lines(ax)
    for name, uncertainty in (*scores.items(), ("oracle", ERRORS)):
        curve = metrics.risk_coverage(ERRORS, uncertainty)
        close(drawn[name], np.stack([curve.coverage, curve.risk]))
        assert f"{name}, AURC {metrics.aurc(ERRORS, uncertainty):.4g}" in legend(ax)
    close(drawn["random"][1], [ERRORS.mean()] * 2)
    assert ax.get_ylabel() == "risk: mean error rate of those kept"


def test_sparsification() -> None:
    ax = plots.sparsification(ERRORS, SUMMARY.predictive_entropy)
    curve = metrics.sparsification(ERRORS, SUMMARY.predictive_entropy)
    drawn = lines(ax)
    close(drawn["uncertainty"], np.stack([curve.removed, curve.error]))
    close(drawn["oracle"], np.stack([curve.removed, curve.oracle]))
    close(drawn["random"][1], [ERRORS.mean()] * 2)
    assert (
        legend(ax)[0] == f"uncertainty, AUSE {metrics.ause(ERRORS, SUMMARY.predictive_entropy):.4g}"
    )


@pytest.mark.parametrize("draw", [plots.risk_coverage, plots.sparsification])
def test_errors_may_be_booleans(draw: Callable[..., pyplot.Axes]) -> None:
    wrong = np.median(ERRORS) < ERRORS
    drawn = [
        lines(draw(errors, SUMMARY.predictive_entropy)) for errors in (wrong, wrong.astype(int))
    ]
    assert drawn[0].keys() == drawn[1].keys()
    for name in drawn[0]:
        close(drawn[0][name], drawn[1][name])


@pytest.mark.parametrize("size", [(6.4, 4.8), (3.5, 2.5)])
@pytest.mark.parametrize("draw", [plots.risk_coverage, plots.sparsification])
def test_legends_hide_no_curve(draw: Callable[..., pyplot.Axes], size: tuple[float, float]) -> None:
    """Not even those of scores that are worse than chance, which are highest at one end."""
    ax = pyplot.figure(figsize=size, layout="constrained").add_subplot()
    draw(ERRORS, {"a": ERRORS, "b": 1 - ERRORS}, ax=ax)
    ax.figure.canvas.draw()
    frame = ax.get_legend().get_window_extent()
    for line in ax.get_lines():
        points = line.get_path().transformed(line.get_transform()).vertices
        assert not any(frame.contains(*point) for point in points), line.get_label()


def test_band() -> None:
    x, samples = np.array([2.0, 0.0, 1.0]), jnp.asarray(RNG.normal(size=(9, 3)), jnp.float32)
    summary = mc.regression(samples, tau=4.0)
    ax = plots.band(x, summary, coverage=0.9, observed=([5, 6], [7, 8]))
    order = np.argsort(x)
    noiseless = mc.regression(samples, tau=jnp.inf)
    (low, high), inner = summary.interval(0.9), noiseless.interval(0.9)
    drawn = [band.get_paths()[0].vertices for band in ax.collections]
    expected = [(low, inner[0]), (inner[1], high), inner]
    for vertices, bounds in zip(drawn, expected, strict=True):
        for bound, y in zip((vertices[1:4], vertices[-2:-5:-1]), bounds, strict=True):
            close(bound, np.stack([x, y], -1)[order])
    close(lines(ax)["mean"], np.stack([x, summary.mean])[:, order])
    close(lines(ax)["observed"], [[5, 6], [7, 8]])
    assert ax.get_title() == "Mean and 90 % band"
    color = mpl.colors.to_rgb(ax.lines[0].get_color())
    assert [tuple(band.get_facecolor()[0][:3]) for band in ax.collections] == [color] * 3
    outer, inner = (ax.collections[part].get_facecolor()[0][3] for part in (0, 2))
    assert 0 < outer < inner < 1
    # The bands do not lie on each other, so that the legend has their colors.
    swatches = ax.get_legend().get_patches()
    assert [tuple(each.get_facecolor()) for each in swatches] == [
        tuple(ax.collections[part].get_facecolor()[0]) for part in (0, 2)
    ]


def test_standard_error() -> None:
    """For one output it is that of the summary, and the line ends where the points do."""
    samples = LOGITS[:, 0, 0]
    points, line = lines(plots.standard_error(samples, name="logit")).values()
    for count, error in points.T:
        close(error, mc.regression(samples[: int(count)], tau=jnp.inf).standard_error)
    assert points[0].tolist() == [2, 3, 4, 5, 6]
    close(line[1], points[1, -1] * np.sqrt(6 / points[0]))
    several = lines(plots.standard_error(LOGITS))["of the first s samples"]
    close(several[1, -1], jnp.sqrt((mc.regression(LOGITS, tau=jnp.inf).standard_error ** 2).mean()))


def test_standard_error_of_groups() -> None:
    """Of the first groups, against the samples in them."""
    points, line = lines(plots.standard_error(LOGITS, groups=3)).values()
    assert points[0].tolist() == [4, 6]
    for samples, groups in ((LOGITS[:2], None), (LOGITS[:2], 2)):  # the fewest
        few = lines(plots.standard_error(samples, groups=groups))["of the first s samples"]
        assert few[0].tolist() == [2]
    means = np.asarray(LOGITS, np.float64).reshape(3, 2, -1).mean(1)
    close(points[1], [np.sqrt(means[:count].var(0, ddof=1).mean() / count) for count in (2, 3)])
    close(
        line[1, -1],
        jnp.sqrt((mc.regression(LOGITS, tau=jnp.inf, groups=3).standard_error ** 2).mean()),
    )


def test_certainty() -> None:
    images = RNG.random((40, 2, 5))
    ax = plots.certainty(images, LABELS, SUMMARY.mean, SUMMARY.predictive_entropy, columns=3)
    order = np.argsort(SUMMARY.predictive_entropy, stable=True)
    predicted = SUMMARY.mean.argmax(-1)
    for cell, index in zip(ax.child_axes, [*order[:3], *order[:-4:-1]], strict=True):
        np.testing.assert_array_equal(cell.images[0].get_array(), images[index])
        wrong = predicted[index] != LABELS[index]
        assert cell.get_title() == f"{LABELS[index]} → {predicted[index]}{' ✗' * bool(wrong)}"
        assert cell.get_xlabel() == f"{SUMMARY.predictive_entropy[index]:.2f}"
    assert [cell.get_ylabel() for cell in ax.child_axes] == [
        "most certain",
        "",
        "",
        "least certain",
        "",
        "",
    ]


def test_what_counts_and_two_values() -> None:
    where = np.arange(40) % 2 == 0
    bins = metrics.reliability(LABELS == 1, SUMMARY.mean[:, 1], binary=True, where=where)
    ax = plots.reliability(
        np.where(where, LABELS == 1, 7), SUMMARY.mean[:, 1], binary=True, where=where
    )
    filled = np.asarray(bins.count) > 0
    close(lines(ax)["bins"], np.stack([bins.confidence, bins.accuracy])[:, filled])
    assert ax.get_ylabel() == "share of 1"
    curve = metrics.risk_coverage(ERRORS, SUMMARY.predictive_entropy, where=where)
    drawn = lines(
        plots.risk_coverage(
            np.where(where, ERRORS, np.nan), SUMMARY.predictive_entropy, where=where
        )
    )
    close(drawn["uncertainty"], np.stack([curve.coverage, curve.risk]))
    close(drawn["random"][1], [ERRORS[where].mean()] * 2)
    some = np.where(where, ERRORS, np.nan)
    ax = plots.sparsification(some, SUMMARY.predictive_entropy, where=where)
    curve = metrics.sparsification(ERRORS, SUMMARY.predictive_entropy, where=where)
    close(lines(ax)["uncertainty"], np.stack([curve.removed, curve.error]))
    close(lines(ax)["oracle"], np.stack([curve.removed, curve.oracle]))
    close(lines(ax)["random"][1], [ERRORS[where].mean()] * 2)
    ax = plots.calibration(np.where(where, CDF[:40], 7), where=where)
    curve = metrics.calibration_curve(CDF[:40], where=where)
    close(lines(ax)["observations"], np.stack([curve.expected, curve.observed]))
    area = metrics.miscalibration_area(CDF[:40], where=where)
    assert legend(ax) == ["calibrated", f"observations, area {area:.3f}"]


def test_draws_into_given_axes() -> None:
    _, given = pyplot.subplots()
    assert plots.risk_coverage(ERRORS, SUMMARY.predictive_entropy, ax=given) is given
    assert len(pyplot.get_fignums()) == 1
    assert plots.risk_coverage(ERRORS, SUMMARY.predictive_entropy) is not given
    given.figure.draw_without_rendering()


def test_bad_input() -> None:
    figure = pyplot.figure()
    with pytest.raises(
        TypeError,
        match=r"ax must be matplotlib's Axes, such as plt.subplots\(\)\[1\], or None, got Figure",
    ):
        plots.standard_error(LOGITS, ax=figure)
    with pytest.raises(ValueError, match="at least two samples, got \\(1, 40, 3\\)"):
        plots.standard_error(LOGITS[:1])
    with pytest.raises(
        ValueError,
        match=(
            "inside must hold finite numbers, and one at least, got shape \\(2,\\) with 1 NaN and"
            " 1 inf"
        ),
    ):
        plots.novelty(np.array([np.nan, np.inf]), OUTSIDE)
    with pytest.raises(
        ValueError, match=r"outside must hold finite numbers, and one at least, got shape \(0,\)"
    ):
        plots.novelty(INSIDE, {"nothing": []})
    summary = mc.regression(jnp.ones((2, 3)), tau=1.0)
    for x in (np.ones(4), np.ones((3, 1))):
        with pytest.raises(ValueError, match="x must have the shape"):
            plots.band(x, summary)
    with pytest.raises(ValueError, match="coverage must lie in"):
        plots.band(np.ones(3), summary, coverage=95)
    images, entropy = np.ones((40, 2, 5)), SUMMARY.predictive_entropy
    with pytest.raises(ValueError, match=r"got shapes \(40, 10\), \(40,\), \(40, 3\) and \(40,\)"):
        plots.certainty(images.reshape(40, 10), LABELS, SUMMARY.mean, entropy)
    with pytest.raises(
        ValueError, match="columns must lie in \\[1, 40\\], the number of images, got 41"
    ):
        plots.certainty(images, LABELS, SUMMARY.mean, entropy, columns=41)
    with pytest.raises(TypeError, match="reliability takes"):
        plots.reliability(SUMMARY.mean, LABELS)
    for wrong in (["a", "b"], np.array([None, 1]), {"a": 1}, np.array([1j])):
        with pytest.raises(
            TypeError, match=r"jaxdrop.mc.plots takes (an array samples|real samples)"
        ):
            plots.standard_error(wrong)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 1 to 3. Leave out"):
        plots.certainty(images, LABELS + 1, SUMMARY.mean, entropy)
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        plots.novelty(INSIDE, OUTSIDE, num_bins=0)
    assert pyplot.get_fignums() == [figure.number], "a call that fails leaves a figure behind"


def test_matplotlib_is_an_extra() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from jaxdrop.mc import plots\n"
        "try: plots.standard_error([1.0, 2.0])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip()
        == "jaxdrop.mc.plots needs matplotlib: pip install 'jaxdrop[plot]', or pip install"
        " matplotlib"
    )


CDF = np.float32(RNG.random(60))


def test_calibration() -> None:
    ax = plots.calibration({"a": CDF, "b": CDF**2}, proportion="quantile")
    for name, values in (("a", CDF), ("b", CDF**2)):
        curve = metrics.calibration_curve(values, proportion="quantile")
        close(lines(ax)[name], np.stack([curve.expected, curve.observed]))
        area = metrics.miscalibration_area(values, proportion="quantile")
        assert f"{name}, area {area:.3f}" in legend(ax)
    assert ax.get_ylabel() == "share of observations below the quantile"


def test_pit() -> None:
    where = np.arange(60) % 3 != 0
    ax = plots.pit(np.where(where, CDF, 9), num_bins=5, where=where)
    heights = [bar.get_height() for bar in ax.patches]
    close(heights, np.histogram(CDF[where], 5, (0, 1), density=True)[0])
    short = plots.pit(jnp.asarray(CDF, jnp.bfloat16), num_bins=2)
    assert sum(bar.get_height() for bar in short.patches) == pytest.approx(2)
    band = stats.binom.std(40, 0.2) * 1.96 * 5 / 40
    close([line.get_ydata()[0] for line in ax.lines], [1, 1 - band, 1 + band])
    assert ax.lines[0].get_linestyle() not in {line.get_linestyle() for line in ax.lines[1:]}


def test_coverage_by_group() -> None:
    groups = np.array([0, 1, 3, 3] * 9 + [0, 1, 3, 4])
    ax = plots.coverage_by_group(ERRORS == 0, groups, coverage=0.5, names=[*"abcde"])
    found = metrics.coverage_by_group(ERRORS == 0, groups)
    filled = np.array([0, 1, 3, 4])
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    close(points.get_ydata(), found.coverage[filled])
    close(lines(ax)["asked for"][1], [0.5] * 2)
    assert "asked for" not in lines(plots.coverage_by_group(ERRORS == 0, groups))
    texts = [tick.get_text() for tick in ax.get_xticklabels()]
    assert texts == ["a\nn=10", "b\nn=10", "d\nn=19", "e\nn=1"]
    (bars,) = (c for c in ax.containers if c.has_yerr)
    ends = np.array([segment[:, 1] for segment in bars[2][0].get_segments()])
    right = np.asarray(found.coverage[filled] * found.size[filled].astype(np.float32))
    expected = [
        stats.binomtest(round(float(hits)), int(size)).proportion_ci(method="wilson")
        for hits, size in zip(right, found.size[filled], strict=True)
    ]
    np.testing.assert_allclose(ends, [[ci.low, ci.high] for ci in expected], atol=1e-4)


def test_coverage_by_size() -> None:
    sets = mc.conformal.sets(mc.conformal.lac(SUMMARY.mean), 0.65)
    ax = plots.coverage_by_size(LABELS, sets, coverage=0.9)
    held = np.take_along_axis(np.asarray(sets), np.asarray(LABELS)[:, None], -1)[:, 0]
    found = metrics.coverage_by_group(held, sets.sum(-1))
    filled = np.flatnonzero(np.asarray(found.size))
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    close(np.stack(points.get_data()), np.stack([filled, found.coverage[filled]]))
    close(lines(ax)["asked for"][1], [0.9] * 2)
    (below,) = ax.child_axes
    assert [bar.get_height() for bar in below.patches] == found.size[filled].tolist()


def test_maps() -> None:
    images, truth = RNG.random((2, 4, 5)), RNG.integers(0, 3, (2, 4, 5))
    summary = mc.classification(logits=LOGITS.reshape(6, 2, 4, 5, 3))
    ax = plots.maps(images, summary, truth=truth)
    shown = [np.asarray(cell.images[0].get_array()) for cell in ax.child_axes]
    titles = [cell.get_title().split("\n0")[0] for cell in ax.child_axes]
    expected = {
        "image": images,
        "truth": truth,
        "prediction": summary.mean.argmax(-1),
        "expected entropy": summary.expected_entropy,
        "mutual information": summary.mutual_information,
    }
    assert [title.replace("\n", " ") for title in titles if title] == [*expected]
    for column, values in enumerate(expected.values()):
        close(np.stack(shown[2 * column : 2 * column + 2]), values)
    regression = mc.regression(LOGITS[..., 0].reshape(6, 2, 4, 5), tau=4.0)
    assert len(plots.maps(images, regression).child_axes) == 8
    with pytest.raises(ValueError, match=r"maps takes images \(N, height, width\)"):
        plots.maps(images[:1], summary)
    with pytest.raises(TypeError, match="maps takes a Classification or a Regression summary"):
        plots.maps(images, images)


def test_bad_input_of_coverage() -> None:
    with pytest.raises(ValueError, match="names must be one for each of 2 groups, got 1"):
        plots.coverage_by_group(np.array([True, False]), np.array([0, 1]), names=["a"])
    with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\), got 90"):
        plots.coverage_by_size(LABELS, np.ones((40, 3), bool), coverage=90)
    with pytest.raises(ValueError, match=r"cdf must lie in \[0, 1\]"):
        plots.pit(CDF + 1)
    assert pyplot.get_fignums() == []
