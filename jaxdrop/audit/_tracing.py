"""Traces a function for shapes of its arguments, and says which argument each source is."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxdrop.audit._arguments import Arguments, Source, Step
from jaxdrop.audit._control import HANDLERS
from jaxdrop.audit._graph import Node
from jaxdrop.audit._modules import Probe, watching
from jaxdrop.audit._places import Place
from jaxdrop.audit._walk import Walk


@dataclasses.dataclass
class Program:
    """A traced function.

    Attributes:
      walk: what it draws and drops.
      probe: what its modules say.
      sources: by the bit that stands for each.
      inputs: the nodes of the arguments' arrays.
      outputs: the nodes of the results.
      renewed: the sources that change from call to call, as far as is known.
      frozen: the sources that the function returns unchanged, among state that it returns.
      trace_seconds, walk_seconds: the time of `jax.make_jaxpr`, and of what came after.
      jaxpr: the program.
    """

    walk: Walk
    probe: Probe
    sources: dict[int, Source]
    inputs: list[Node]
    outputs: list[Node]
    renewed: int
    frozen: int
    trace_seconds: float
    walk_seconds: float
    jaxpr: Any

    def live(self) -> set[int]:
        """The numbers of the nodes that the results are computed from."""
        queue = [*self.outputs, *self.walk.written]
        seen = {node.number for node in queue}
        for node in queue:
            for each in node.inputs:
                if each.number not in seen:
                    seen.add(each.number)
                    queue.append(each)
        return seen

    def arguments(self, deps: int) -> list[str]:
        """The names of the arguments that a value depends on."""
        return [source.name for bit, source in self.sources.items() if deps & bit]


def trace(fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], step: Step) -> Program:
    """Traces a function, and walks the program."""
    arguments = Arguments(fn, args, kwargs, step)
    probe = Probe()
    for name, value in arguments.named.items():
        probe.named(name, value)
    begin = time.perf_counter()
    try:
        with watching(probe):
            jaxpr, shapes = jax.make_jaxpr(arguments.run(fn, probe), return_shape=True)(
                arguments.arrays
            )
    except Exception as error:
        if type(error).__name__ == "TraceContextError":
            error.add_note(
                "The function changes a model that it does not get as an argument. Audit a function"
                " of the model: check(lambda model, x: model(x), model, x)."
            )
        raise
    middle = time.perf_counter()
    walk = Walk(HANDLERS)
    sources: dict[int, Source] = {}
    nodes = []
    for source, var in zip(arguments.sources, jaxpr.jaxpr.invars, strict=True):
        bit = walk.source()
        sources[bit] = source
        node = walk.graph.node("argument", {"name": source.name}, (), var.aval, bit)
        nodes.append(node)
    with without_collection():
        outputs = walk.closed(jaxpr, nodes, Place())
    renewed, frozen = arguments.changes(nodes, outputs, shapes)
    end = time.perf_counter()
    return Program(
        walk, probe, sources, nodes, outputs, renewed, frozen, middle - begin, end - middle, jaxpr
    )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Collects no garbage: a graph grows by thousands of nodes, each of which is needed to the end,
    and Python would look through all of them, and the traced program, again and again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
