"""What `examples/cheaper_training.py` found: its table, and its picture."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from results.files import FOLDER, Figures
from results.markdown import table

_FILE = FOLDER / "cheaper_training.json"
_EXAMPLES = FOLDER.parents[1] / "examples"


@functools.cache
def _example() -> Any:
    """The example, which reads its own results."""
    sys.path.append(str(_EXAMPLES))
    import cheaper_training

    return cheaper_training


def _measured() -> dict[str, Any] | None:
    if not _FILE.exists():
        return None
    return _example().measured_of(json.loads(_FILE.read_text()))


def ways(known: Figures) -> str | None:
    """Each way of dropping against training without dropout at the same cost."""
    if (measured := _measured()) is None:
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


def picture(folder: Path) -> str | None:
    """The losses by cost, drawn into a folder of the site."""
    if (measured := _measured()) is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    _example().draw(measured).savefig(folder / "cheaper_training.png")
    text = "Loss after training by time and by operations, with nine ways of dropping and without"
    return f"![{text}](/{folder.parent.name}/{folder.name}/cheaper_training.png)"
