"""Figures on pages are those of the files that were measured."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import benchmark
from benchmarks import _provenance, _timing, training
from benchmarks._figures import Bar, Measured, Table, per
from benchmarks._report import Report, read
from results import blocks, compare, files, page, plots

pytestmark = pytest.mark.sweep

ROOT = Path(__file__).parents[1]

OWN, FLAX, NONE = "jaxdrop, jaxdrop.key", "flax.linen", "multiply"
TIMES = Table(
    "one call, forward",
    "s",
    {
        "float32 4096 x 4096": {
            NONE: Measured(2.0, [1.0, 2.0, 3.0]),
            OWN: Measured(3.0, [1.0, 3.0, 6.0]),
            FLAX: Measured(1.5, [1.5, 1.5, 1.5]),
        }
    },
    limit=NONE,
)
GROWTH = Table(
    "temporaries",
    "B",
    {"1024": {OWN: 0.0, FLAX: 2.0**20}, "4096": {OWN: 2.0**16}},
    axis="entries",
    not_run={"4096": {FLAX: "temporaries of 9 GiB"}},
)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    """A finished measurement, by code that is committed."""
    monkeypatch.setattr(_provenance, "code", lambda: {"content": "abc", "changed": False})
    made = Report("core")
    made.console.quiet = True
    bars = Bar("too slow", 1.5, "<=", 1.0), Bar("fast", 3.0, ">=", 2.0)
    made.measure("forward", (TIMES, GROWTH, *bars))
    return made


def test_a_file_has_all_that_a_figure_needs(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "core.json")
    (run,) = files.load(tmp_path)
    assert not run.complete  # it was not closed
    assert (run.suite, run.quick) == ("core", False)
    assert {"model", "cpus", "memory", "device"} <= {*run.content["machine"]}
    assert {"python", "jax", "flax"} <= {*run.content["versions"]}
    took = run.content["measurements"]["forward"]
    assert {*took} == {"date", "seconds", "load", "other_work"}
    times, growth = run.tables
    assert times.table.figures == TIMES.figures
    assert growth.table.not_run == GROWTH.not_run
    spread = times.spread["float32 4096 x 4096"][OWN]
    assert (spread["least"], spread["median"], spread["runs"]) == (1.0, 3.0, 3)
    # Of runs side by side: 1 / 1, 3 / 2, 6 / 3.
    assert spread["ratio"] == {"lower": 1.25, "median": 1.5, "upper": 1.75}
    assert (times.table.roles.ours, times.table.roles.bounds) == ((OWN,), (NONE,))
    half = per(TIMES.figures["float32 4096 x 4096"][OWN], 2)
    assert isinstance(half, Measured)
    assert (half, half.samples) == (1.5, (0.5, 1.5, 3.0))


def test_a_run_goes_on_with_what_is_missing(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "core.json"

    def killed() -> Iterator[Table]:
        yield TIMES
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.measure("backward", killed(), path)
    later = Report("core")
    assert later.resume(path)
    assert [*later.measurements] == ["forward"]
    assert [table["measurement"] for table in later.tables] == ["forward", "forward"]
    assert [bar.figure for bar, _ in later.bars] == ["too slow", "fast"]
    later.save(path)
    assert read(path) == later.content()
    assert not Report("core", share=0.5).resume(path)
    for other in ({"content": "other", "changed": False}, {"content": "abc", "changed": True}):
        monkeypatch.setattr(_provenance, "code", lambda other=other: other)
        assert not Report("core").resume(path)
    path.write_text("{")
    assert not Report("core").resume(path)


def test_fast_candidates_have_several_turns_beside_a_slow_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"slow": 0.1, "fast": 0.004, "middle": 0.03}
    timed: list[str] = []

    def time(call: Callable[[], str], repeats: int, queued: bool) -> float:
        timed.append(call())
        # A disturbance in every third turn of the fast one.
        disturbed = call() == "fast" and timed.count("fast") % 3 == 0
        return seconds[call()] * (10 if disturbed else 1)

    monkeypatch.setattr(_timing, "_time", time)
    found = _timing.interleaved({name: lambda name=name: name for name in seconds}, seconds=0)
    rounds = _timing.LEAST_RUNS
    turns = {name: timed.count(name) - 2 for name in seconds}  # warming up, and a first measurement
    assert turns == {"slow": rounds, "fast": 8 * rounds, "middle": rounds}
    assert all(len(figure.samples) == rounds for figure in found.values())
    assert found["fast"] == seconds["fast"]


def test_the_page_shows_what_was_measured_and_the_worst_first(
    report: Report, tmp_path: Path
) -> None:
    report.close()
    report.save(tmp_path / "core.json")
    runs = files.load(tmp_path)
    ratios = [(each.ratio, each.ours, each.other) for each in compare.comparisons(runs)]
    assert ratios == [(2.0, OWN, FLAX), (2**-4, OWN, FLAX)]
    (bound,) = compare.comparisons(runs, "bounds")
    assert (bound.ratio, bound.other) == (1.5, NONE)
    drawn: list[str] = []

    def draw(table: Table, name: str) -> dict[str, str]:
        drawn.append(name)
        return {"light": "/light.svg", "dark": "/dark.svg"}

    empty = (ROOT / "docs" / "results.md").read_text()
    text, left = blocks.fill(empty, blocks.of_site(runs, ["core", "mc"], draw))
    assert not left
    assert {*blocks.names(empty)} == {*blocks.of_site([], [], None)}
    assert "3.00 s: **1.50** (1.25 to 1.75)" in text
    assert "Not run: 4096 entries, flax.linen: temporaries of 9 GiB." in text
    assert "python scripts/benchmark.py all`: `mc`." in text
    assert "1 of 2 bars are missed." in text
    assert text.index("| too slow |") < text.index("| fast |")
    assert drawn == ["core-1"]
    # The page can be filled again, and without any file.
    assert blocks.fill(text, blocks.of_site(runs, ["core", "mc"], draw))[0] == text
    nothing, _ = blocks.fill(text, blocks.of_site([], ["core"], None))
    assert nothing.count("Nothing has been measured.") == 6
    assert page.provenance([], ["core"]).endswith("`core`.")


@pytest.mark.parametrize("theme", plots.INKS)
def test_curves_have_zeros_gaps_and_a_legend_below(theme: str) -> None:
    figure = plots.draw(GROWTH, theme)
    (axes,) = figure.axes
    own, flax = axes.lines
    assert [*own.get_xdata()] == [1024, 4096]
    assert [*flax.get_xdata()] == [1024]
    assert own.get_ydata()[0] > 0
    assert axes.get_xlabel() == "entries"
    figure.draw_without_rendering()
    below = figure.legends[0].get_window_extent()
    assert below.y1 <= axes.get_tightbbox().y0


def test_files_of_results_are_whole_and_were_measured() -> None:
    runs = files.load()
    assert runs
    for run in runs:
        assert not run.quick
        assert run.content["machine"]
        assert json.dumps(run.content, allow_nan=False)
        for each in run.tables:
            assert each.table.figures
            for row in each.table.figures.values():
                assert all(
                    value >= 0 or math.isnan(value) or each.table.unit == ""
                    for value in row.values()
                )


def test_pages_say_what_the_files_say() -> None:
    """If this fails: `python scripts/write_results.py --write`."""
    known = blocks.of_files(files.load())
    of_site = blocks.of_site([], [], None) | blocks.pictures(ROOT)
    pages = blocks.pages()
    assert {"README.md", "performance.md"} <= {path.name for path in pages}
    for path in pages:
        text = path.read_text()
        assert blocks.fill(text, known)[0] == text
        assert {*blocks.names(text)} <= {*known, *of_site}


@pytest.mark.usefixtures("relaxed")
def test_the_stand_in_of_the_training_suite_takes_what_the_model_passes() -> None:
    def forward(tokens: jax.Array) -> jax.Array:
        shape = training.Shape(batch=2, length=8, width=8, heads=2, layers=1)
        return training.make(training.FLAX, shape)(tokens, nnx.Rngs(dropout=0))

    assert jax.eval_shape(forward, jax.ShapeDtypeStruct((2, 8), np.int32)).shape[:2] == (2, 8)


def test_a_suite_that_dies_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        killed = "core" in command
        if not killed:
            Path(command[command.index("--json") + 1]).write_text(
                '{"tables": [], "complete": true}'
            )
        return subprocess.CompletedProcess(command, -9 if killed else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    given = ["benchmark.py", "all", "--only", "core", "--only", "mc", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    assert benchmark.main() == 1
    assert [command[2] for command in asked] == ["core", "mc"]
    assert all("--resume" in command for command in asked)
    shown = " ".join(capsys.readouterr().out.split())
    assert "not complete: core." in shown
    monkeypatch.setattr(sys, "argv", [*given, "--only", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "no suite; there are core" in capsys.readouterr().err
