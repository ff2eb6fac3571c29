"""What batteries found: `docs/results/random.json`, and the table of `docs/randomness.md`."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
RESULTS = _DOCS / "results" / "random.json"
PAGE = _DOCS / "randomness.md"
BEGIN = "<!-- scripts/check_random.py writes this table from results/random.json -->"
END = "<!-- the end of the table -->"

PASS, SUSPICIOUS, FAIL = "pass", "suspicious", "FAIL"

_SHOWN = 8
_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a battery, or one test of it, says of one order.

    Attributes:
      battery: its name.
      order: the order of the words, or PEER/ORDER.
      seed: of the root key.
      outcome: `PASS`, `SUSPICIOUS` or `FAIL`.
      values: the number of p-values.
      unusual: the p-values that are not plain, each with the name of its test.
      size: the number of bytes read, of a battery that reads all the words it is given; or 0.
      test: the number of the test, of a battery whose tests are recorded one by one; or 0.
      words: a checksum of the order's first words: an older generator's verdict is told by it.
    """

    battery: str
    order: str
    seed: int
    outcome: str
    values: int
    unusual: tuple[str, ...] = ()
    size: int = 0
    test: int = 0
    words: int = 0

    @property
    def name(self) -> tuple[bool, str, str, int, int]:
        """By which verdicts are sorted; a later one of the same name replaces it."""
        return "/" in self.order, self.battery, self.order, self.seed, self.test

    def __str__(self) -> str:
        what = f"{self.battery}, {self.order}, {length([self])}"
        return "; ".join((f"{what}: {self.outcome}, p-values: {self.values}", *self.unusual))


def worst(outcomes: Iterable[str]) -> str:
    """The worst of outcomes."""
    return max(outcomes, key=(PASS, SUSPICIOUS, FAIL).index, default=PASS)


def record(verdict: Verdict) -> None:
    """Merges a verdict into the results, and writes the table anew. A shorter run that found
    nothing worse does not replace a longer one of the same words.
    """
    with _lock():
        found = {old.name: old for old in read()}
        old = found.get(verdict.name, verdict)
        longer = old.words == verdict.words and old.size > verdict.size
        if not longer or worst((old.outcome, verdict.outcome)) != old.outcome:
            found[verdict.name] = verdict
        rows = [json.dumps(dataclasses.asdict(found[name])) for name in sorted(found)]
        _replace(RESULTS, "[\n" + ",\n".join(rows) + "\n]\n")
        write_table()


def read() -> list[Verdict]:
    """All verdicts on record."""
    if not RESULTS.exists():
        return []
    return [
        Verdict(**{**fields, "unusual": tuple(fields["unusual"])})
        for fields in json.loads(RESULTS.read_text())
    ]


def length(verdicts: list[Verdict]) -> str:
    """How much of a battery was run, in words."""
    size = max(verdict.size for verdict in verdicts)
    if size:
        unit, name = next(((unit, name) for unit, name in _UNITS if size >= unit), (1, "bytes"))
        return f"{size / unit:g} {name}"
    if not verdicts[0].test:
        return "all tests"
    return "1 test" if len(verdicts) == 1 else f"{len(verdicts)} tests"


def table(verdicts: Iterable[Verdict]) -> str:
    """A Markdown table, a row for each battery and order: failures as plainly as passes."""
    lines = [
        "| battery | order | length | p-values | outcome | unusual p-values |",
        "|---" * 6 + "|",
    ]
    for (_, battery, order, seed), group in itertools.groupby(verdicts, lambda v: v.name[:4]):
        parts = list(group)
        outcome = worst(verdict.outcome for verdict in parts)
        unusual = [remark for verdict in parts for remark in verdict.unusual]
        if len(unusual) > _SHOWN:
            unusual[_SHOWN:] = [f"{len(unusual) - _SHOWN} more"]
        cells = (
            battery,
            f"{order}, seed {seed}" if seed else order,
            length(parts),
            str(sum(verdict.values for verdict in parts)),
            outcome if outcome == PASS else f"**{outcome}**",
            "; ".join(unusual),
        )
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def write_table() -> None:
    """Writes the table of the page between its markers."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    _replace(PAGE, f"{before}{BEGIN}\n\n{table(read())}\n\n{END}{after}")


@contextmanager
def _lock() -> Iterator[None]:
    """Processes that share a battery write one after another."""
    folder = os.open(_DOCS, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Writes a file at once: a process that is killed leaves the old one or the new one."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(text)
    new.replace(path)
