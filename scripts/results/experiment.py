"""What `examples/cheaper_training.py` found: its table, and its picture."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from results.files import Figures
from results.markdown import ratio, table

_NAME, _WIDER = "cheaper_training.json", "cheaper_training_192.json"
_EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def _example() -> Any:
    """The example, which reads its own results."""
    sys.path.append(str(_EXAMPLES))
    import cheaper_training

    return cheaper_training


@functools.cache
def _measured(folder: Path) -> dict[str, Any] | None:
    if not (folder / _NAME).exists():
        return None
    return _example().measured_of(json.loads((folder / _NAME).read_text()))


def ways(known: Figures) -> str | None:
    """Each way of dropping against training without dropout at the same cost."""
    if (measured := _measured(known.folder)) is None:
        return None
    example, rows = _example(), []
    for name, loss, time, operations, *_, halfway in example.compared(measured):
        gains = ["", ""]
        if name not in example.BASELINES:
            found = (example.gain(measured, name, column) for column in (1, 2))
            gains = [f"{each}, {each.verdict}" for each in found]
        rows.append([name, loss, time, operations, *gains, halfway])
    head = ["", "loss", "time", "FLOPs", "gain at equal time", "gain at equal FLOPs", "halfway"]
    return table(head, rows)


def by_width(known: Figures) -> str | None:
    """The time of a step of each way, as a share of that without dropout, by width."""
    paths = known.folder / _NAME, known.folder / _WIDER
    if not all(path.exists() for path in paths):
        return None
    every = [json.loads(path.read_text()) for path in paths]
    times = [{way: sum(taken) for way, taken in found["seconds"].items()} for found in every]
    ways = [way for way in times[0] if way not in _example().BASELINES]
    rows = [
        [f"width {found['settings']['width']}", *(ratio(of[way] / of["none"]) for way in ways)]
        for found, of in zip(every, times, strict=True)
    ]
    return table(["time of a step", *ways], rows)


def picture(folder: Path, plots: Path) -> str | None:
    """The losses by cost, from a folder of results, drawn into one of the site."""
    if (measured := _measured(folder)) is None:
        return None
    plots.mkdir(parents=True, exist_ok=True)
    _example().draw(measured).savefig(plots / "cheaper_training.png")
    text = "Loss after training by time and by operations, with nine ways of dropping and without"
    return f"![{text}](/{plots.parent.name}/{plots.name}/cheaper_training.png)"
