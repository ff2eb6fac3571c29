"""What the text of a compiled program says."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import jax

_KERNEL = 'custom_call_target="tpu_custom_call"'
_EXCHANGE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def cycles(compiled: jax.stages.Compiled) -> float:
    """The estimated cycles of a program on one device, without communication, for which the
    compiler estimates none; NaN if the program calls a kernel of Pallas, for which it neither does.
    """
    text = compiled.as_text() or ""
    if _KERNEL in text:
        return math.nan
    own = r'"estimated_cycles":"(\d+)"'
    return sum(
        times * int(found[1])
        for line, times in instructions(text)
        if (found := re.search(own, line)) and " while(" not in line
    )


def instructions(text: str) -> Iterator[tuple[str, int]]:
    """The instructions that a program launches, each with how often: those in a loop as often as
    it runs, and of the branches of a condition those with the most estimated cycles.
    """
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = head[2]
            entry = current if head[1] else entry
        elif line.startswith(" "):
            computations.setdefault(current, []).append(line)

    def trips(line: str) -> int:
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
            return int(known[1])
        # The compiler for TPUs does not say it. Loops of JAX over a known number of steps count
        # from 0 up to a constant.
        condition = re.search(r"condition=%?([\w.\-]+)", line)
        lines = "\n".join(computations.get(condition[1], ()) if condition else ())
        bounds = re.findall(r" s32\[\]\S* constant\((\d+)\)", lines)
        return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in lines else 1

    def inside(name: str, times: int) -> Iterator[tuple[str, int]]:
        for line in computations.get(name, ()):
            if loop := re.search(r" while\(.*body=%?([\w.\-]+)", line):
                yield from inside(loop[1], times * trips(line))
            elif " conditional(" in line:
                branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
                listed = re.search(r"branch_computations=\{([^}]*)\}", line)
                branches += re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
                yield from max(([*inside(branch, times)] for branch in branches), key=_work)
            else:
                yield line, times

    return inside(entry, 1)


def _work(branch: list[tuple[str, int]]) -> int:
    found = (re.search(r'"estimated_cycles":"(\d+)"', line) for line, _ in branch)
    return sum(int(each[1]) for each in found if each)


def calls(compiled: jax.stages.Compiled) -> int:
    """How many kernels of Pallas a program calls on a TPU."""
    return (compiled.as_text() or "").count(_KERNEL)


def kinds(compiled: jax.stages.Compiled) -> Counter[str]:
    """How many instructions of each kind exchange data between devices. Those in a loop stand in
    the text once.
    """
    return Counter(_EXCHANGE.findall(compiled.as_text() or ""))


def exchanges(compiled: jax.stages.Compiled) -> Counter[str]:
    """How often a program exchanges data between devices, by kind. Those in a loop count as often
    as it runs.
    """
    found: Counter[str] = Counter()
    for line, times in instructions(compiled.as_text() or ""):
        if kind := _EXCHANGE.search(line):
            found[kind[1]] += times
    return found


def all_exchanges(compiled: jax.stages.Compiled) -> int:
    """The same, of all kinds."""
    return exchanges(compiled).total()


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
