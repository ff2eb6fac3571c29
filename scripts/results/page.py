"""The page of results: every figure there is, the worst ones first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import benchmarks
from benchmarks._figures import Table, number
from results.compare import LINE, Comparison, comparisons, line
from results.files import Run
from results.markdown import figures, ratio, table

# Ratios on the page; the rest is folded.
_SHOWN = 25
Drawn = Callable[[Table, str], Mapping[str, str]]
"""Draws a table under a name: where its picture for each theme is."""


def provenance(runs: Sequence[Run], suites: Sequence[str]) -> str:
    """Where, when, and by which code each suite was measured, and which were not."""
    places: dict[str, list[str]] = {}
    rows = []
    for run in runs:
        commit = (run.code.get("commit") or "")[:9] + ("*" if run.code.get("changed") else "")
        minutes = f"{run.minutes:.1f}" if run.minutes is not None else ""
        other = "" if run.other_work is None or run.compiled else f"{run.other_work:.2f}"
        name = f"[{run.name}](results/{run.path.name})"
        places.setdefault(f"{run.where}; {_versions(run)}", []).append(f"`{run.name}`")
        rows.append([name, run.date or "", commit, minutes, other, _state(run)])
    head = ["suite", "date", "code", "minutes", "cores of other work", "remarks"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    missing = [suite for suite in suites if suite not in {run.suite for run in runs}]
    lines = [table(head, rows) if rows else "Nothing has been measured."]
    lines.append("\n".join(f"- {place}: {', '.join(found)}" for place, found in places.items()))
    if missing:
        commands = ", ".join(f"`{suite}`" for suite in missing)
        lines.append(f"Not measured yet, by `python scripts/benchmark.py all`: {commands}.")
    if any(run.code.get("changed") for run in runs):
        lines.append("\\* with changes that were not committed.")
    return "\n\n".join(filter(None, lines))


def _versions(run: Run) -> str:
    peers = ("python", "jax", "flax", "equinox", "dm-haiku", "keras", "torch", "libtpu")
    versions = run.content["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in peers if name in versions)


def worst(runs: Sequence[Run]) -> str:
    """Times and bytes of this library over those of each peer."""
    return _ratios(comparisons(runs))


def over_bounds(runs: Sequence[Run]) -> str:
    """Times and bytes over those without any dropout."""
    return _ratios(comparisons(runs, "bounds"))


def _ratios(found: Sequence[Comparison]) -> str:
    if not found:
        return "Nothing has been measured."
    rows = [line(each) for each in found]
    above = sum(each.ratio > 1 for each in found)
    summary = (
        f"{len(found)} ratios, {above} of them above 1; the median is"
        f" {ratio(found[len(found) // 2].ratio)}, the smallest {found[-1].ratio:.2g}."
    )
    rest = ""
    if len(rows) > _SHOWN:
        rest = f"\n\n{_folded(f'The other {len(rows) - _SHOWN}', table(LINE, rows[_SHOWN:]))}"
    return f"{summary}\n\n{table(LINE, rows[:_SHOWN])}{rest}"


def bars(runs: Sequence[Run]) -> str:
    """All figures that have a bar, those that miss it first."""
    rows = []
    for run in runs:
        for bar in run.bars:
            reached = bar.get("reached")
            verdict = {True: "reached", False: "**missed**", None: "not judged"}[reached]
            value, bound = (number(bar[name], bar["unit"]) for name in ("value", "bound"))
            sign = {"<=": "≤", ">=": "≥"}.get(bar["sign"], bar["sign"])
            rows.append((reached is not False, run, bar, value, f"{sign} {bound}", verdict))
    rows.sort(key=lambda row: row[0])
    if not rows:
        return "Nothing has been measured."
    lines = [[run.suite, bar["figure"], v, b, verdict] for _, run, bar, v, b, verdict in rows]
    missed = sum(not row[0] for row in rows)
    head = ["suite", "figure", "measured", "bar", "verdict"]
    parts = [f"{missed} of {len(rows)} bars are missed."]
    if missed:
        parts.append(table(head, lines[:missed]))
    if reached := len(rows) - missed:
        parts.append(_folded(f"The {reached} that are reached", table(head, lines[missed:])))
    return "\n\n".join(parts)


def growth(runs: Sequence[Run], draw: Drawn | None) -> str:
    """Curves of all figures that have an axis, and their numbers below, folded."""
    parts = []
    for run in runs:
        for place, each in enumerate(run.tables):
            if not each.table.axis:
                continue
            title = f"**{each.table.title}**"
            if {value for row in each.table.figures.values() for value in row.values()} == {0}:
                axis = each.table.axis
                parts.append(f"{title}\n\n0 for every candidate, with all numbers of {axis}.")
                continue
            pictures = draw(each.table, f"{run.suite}-{place}") if draw else {}
            shown = "\n\n".join(
                f"```{{image}} {path}\n:class: only-{theme}\n:alt: {each.table.title}, by"
                f" {each.table.axis}\n```"
                for theme, path in pictures.items()
            )
            lacking = _not_run(each.table)
            folded = _folded("numbers", figures(each))
            parts.append("\n\n".join(filter(None, [title, shown, lacking, folded])))
    if not parts:
        return "Nothing has been measured."
    items = "\n\n".join(f":::::{{grid-item}}\n{part}\n:::::" for part in parts)
    return f"::::::{{grid}} 1 1 2 2\n:gutter: 4\n\n{items}\n::::::"


def suites(runs: Sequence[Run]) -> str:
    """Every table of every suite."""
    parts = []
    for run in runs:
        lines = [f"### {run.name}", f"{_about(run)} {run.where}. {_state(run)}".strip()]
        if any(each.table.axis for each in run.tables):
            lines.append("[How it grows](#how-it-grows) has its curves.")
        for each in run.tables:
            if each.table.axis:
                continue
            lines += [f"**{each.table.title}**", figures(each), _not_run(each.table)]
        lines += [f"- {_plain(note)}" for note in run.notes]
        parts.append("\n\n".join(filter(None, lines)))
    return "\n\n".join(parts) if parts else "Nothing has been measured."


def _about(run: Run) -> str:
    """What a suite measures, by the docstring of its module."""
    if run.suite in benchmarks.names():
        return benchmarks.about(run.suite)
    if run.compiled:
        return f"`python scripts/compile_tpu.py {run.suite.removeprefix('tpu-')}`."
    return "`python scripts/check_accelerator.py`."


def _state(run: Run) -> str:
    """What takes worth from its figures."""
    warnings = {
        "**small shapes: no measurement**": run.quick,
        "**cut: figures are missing**": not run.complete,
        "**the machine was busy: times are rough**": run.busy,
    }
    return "; ".join(words for words, hold in warnings.items() if hold)


def _not_run(made: Table) -> str:
    reasons = [
        f"{made.label(case)}, {name}: {why}"
        for case, row in made.not_run.items()
        for name, why in row.items()
    ]
    return f"Not run: {'; '.join(reasons)}." if reasons else ""


def _plain(note: str) -> str:
    """The last line of an error, in code."""
    lines = note.strip().splitlines()
    text = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return "`" + re.sub(r"[`\s]+", " ", text)[:300] + "`"


def _folded(title: str, text: str) -> str:
    return f"::::{{dropdown}} {title}\n{text}\n::::"
