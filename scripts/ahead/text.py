"""What the text of a compiled program says."""

from __future__ import annotations

import functools
import re
from collections import Counter

import jax

_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def cycles(compiled: jax.stages.Compiled) -> int:
    """The estimated cycles of a program on one device."""
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in (compiled.as_text() or "").splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = head[2]
            entry = current if head[1] else entry
        elif line.startswith(" "):
            computations.setdefault(current, []).append(line)

    @functools.cache
    def total(name: str) -> int:
        return sum(map(instruction, computations.get(name, ())))

    def instruction(line: str) -> int:
        own = re.search(r'"estimated_cycles":"(\d+)"', line)
        if loop := re.search(r" while\(.*body=%?([\w.\-]+)", line):
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            return total(loop[1]) * (int(trips[1]) if trips else 1)
        if " conditional(" in line:
            branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
            listed = re.search(r"branch_computations=\{([^}]*)\}", line)
            branches += re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
            return max(map(total, branches), default=0)
        return int(own[1]) if own else 0

    return total(entry)


def kinds(compiled: jax.stages.Compiled) -> Counter[str]:
    """How many instructions of each kind exchange data between devices. Those in a loop stand in
    the text once.
    """
    names = "|".join(_COLLECTIVES)
    return Counter(re.findall(rf" ({names})(?:-start)?\(", compiled.as_text() or ""))


def collectives(compiled: jax.stages.Compiled) -> int:
    """How many instructions of a program exchange data between devices."""
    return kinds(compiled).total()


def kernels(compiled: jax.stages.Compiled) -> int:
    """How many fusions and calls of libraries a program launches."""
    text = compiled.as_text() or ""
    # A computation that a fusion calls is a part of its kernel.
    bodies = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ [^\n]*\{\n)", text)
    launched = [body for body in bodies if not body.startswith(("%fused", "fused"))]
    return sum(len(re.findall(r" (?:fusion|custom-call)\(", body)) for body in launched)
