"""Loops, branches, and programs on many devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxdrop import _equations
from jaxdrop.audit._applications import Application
from jaxdrop.audit._graph import Node, moved_from, rows_of, sources_of
from jaxdrop.audit._places import Loop, Place
from jaxdrop.audit._walk import Handler, Walk, entered

_NUMBER = jax.ShapeDtypeStruct((), np.float32)


def _fresh(walk: Walk, op: str, source: Node, aval: Any, deps: int, place: Place) -> Node:
    return _link(walk, op, (source,), aval, deps, place)


def _elements(walk: Walk, loop: Loop, arrays: Sequence[Node], avals: Any) -> list[Node]:
    """What an iteration gets of arrays that a loop goes over."""
    found = []
    for array, aval in zip(arrays, avals, strict=True):
        same = _repeated(array)
        if same is not None and same.shape == aval.shape:
            found.append(same)  # a value that was repeated for the loop
            continue
        node = _fresh(walk, "element", array, aval, array.deps | loop.bit, loop.place)
        found.append(_drawn_as(node, *rows_of(array)))
    return found


def _drawn_as(part: Node, *rows: Node) -> Node:
    """Notes that entries are as random as one of these arrays: which one is not known in tracing.
    Masks of different probabilities are one of an unknown probability.
    """
    first = rows[0]
    if all(row.rand is not None for row in rows):
        part.rand, part.range = first.rand, first.range
        masks = [row.mask for row in rows if row.mask is not None]
        if len(masks) == len(rows):
            same = len({mask.true for mask in masks}) == 1
            part.mask = masks[0] if same else dataclasses.replace(masks[0], true=None)
    return part


def _repeated(array: Node) -> Node | None:
    """The value that an array repeats along its first axis."""
    rows = rows_of(array)
    if rows != (array,) and all(row is rows[0] for row in rows):
        return rows[0]
    if array.op == "stacked" and array.inputs[0].deps == array.deps:
        return array.inputs[0]  # a loop returned the same in each iteration
    if array.op != "broadcast_in_dim":
        return None
    dims, inner = tuple(array.params["broadcast_dimensions"]), array.inputs[0]
    if dims == tuple(range(1, len(array.shape))):
        return inner
    # An axis was put first before, as `x[None]` does.
    return _repeated(inner) if dims[:1] == (0,) else None


def _iterate(
    walk: Walk, loop: Loop, body: Any, consts: Sequence[Node], init: Sequence[Node], xs: Any
) -> list[Node]:
    """The results of the body of a loop; what it carries is followed over the iterations."""
    jaxpr = body.jaxpr
    place = dataclasses.replace(
        entered(body, loop.place, _Plain()), loops=(*loop.place.loops, loop)
    )
    avals = [var.aval for var in jaxpr.invars[len(consts) : len(consts) + len(init)]]
    carry = [
        _fresh(walk, "carry", node, aval, node.deps, place)
        for node, aval in zip(init, avals, strict=True)
    ]
    if carry:
        recording, walk.recording = walk.recording, False
        outs = walk.closed(body, [*consts, *carry, *xs], place)
        walk.recording = recording
        for at, (node, out) in enumerate(zip(carry, outs, strict=False)):
            if node is out:
                carry[at] = init[at]  # the same in all iterations
            else:
                deps = init[at].deps | out.deps | loop.bit | loop.carried
                carry[at] = _fresh(walk, "carry", init[at], avals[at], deps, place)
                loop.carries = True
    return walk.closed(body, [*consts, *carry, *xs], place)


class _Plain:
    """In place of an equation that has no parameters of interest."""

    params: Mapping[str, Any] = MappingProxyType({})


def _finished(walk: Walk, loop: Loop, init: Sequence[Node], outs: Sequence[Node]) -> list[Node]:
    """What a loop returns of what it carries."""
    final = []
    whole = _link(walk, "loop", tuple(outs), _NUMBER, loop.bit, loop.place)
    for before, out in zip(init, outs, strict=False):
        if out is before:
            final.append(out)
            continue
        deps = (before.deps | out.deps) & ~(loop.bit | loop.carried)
        final.append(_link(walk, "final", (out, before, whole), out, deps, loop.place))
    return final


def _link(
    walk: Walk, op: str, inputs: tuple[Node, ...], aval: Any, deps: int, place: Place
) -> Node:
    return walk.graph.node(op, {"of": id(place)}, inputs, aval, deps, place.backward)


def _new_loop(walk: Walk, kind: str, length: int | None, place: Place) -> Loop:
    return Loop(kind, walk.source(), walk.source(), length, "", place)


def scan(walk: Walk, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
    """The results of a scan, which goes over arrays and carries values."""
    body = eqn.params["jaxpr"]
    consts, carried = _equations.scan_parts(eqn)
    loop = _new_loop(walk, "scan", eqn.params["length"], place)
    arrays = inputs[consts + carried :]
    if place.backward:
        _note_kept(walk, [node for node in inputs if node.op == "stacked"], place, "a scan")
    xs = _elements(walk, loop, arrays, [var.aval for var in body.jaxpr.invars[consts + carried :]])
    init = inputs[consts : consts + carried]
    outs = _iterate(walk, loop, body, inputs[:consts], init, xs)
    loop.stacks = _stacks_weights(loop, xs)
    stacked = []
    whole = _link(walk, "loop", tuple(outs), _NUMBER, loop.bit, place)
    for out, var in zip(outs[carried:], eqn.outvars[carried:], strict=True):
        node = _link(
            walk, "stacked", (out, whole), var.aval, out.deps & ~(loop.bit | loop.carried), place
        )
        stacked.append(_drawn_as(node, out))
    return [*_finished(walk, loop, init, outs[:carried]), *stacked]


def _stacks_weights(loop: Loop, xs: Sequence[Node]) -> bool:
    """Whether an array that the loop goes over is multiplied with what it carries: weights."""
    for array in xs:
        queue = [array]
        for node in queue:
            for user in node.users:
                if user.op in ("dot_general", "conv_general_dilated"):
                    other = user.inputs[1 if moved_from(user.inputs[0]) is array else 0]
                    if other.deps & loop.carried:
                        return True
                elif moved_from(user) is array:
                    queue.append(user)
    return False


def while_(walk: Walk, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
    """The results of a while loop."""
    params = eqn.params
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    loop = _new_loop(walk, "while", None, place)
    consts, init = inputs[of_test : of_test + of_body], inputs[of_test + of_body :]
    outs = _iterate(walk, loop, params["body_jaxpr"], consts, init, ())
    return _finished(walk, loop, init, outs)


def cond(walk: Walk, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
    """The results of a choice between branches. Every branch is followed; of a choice by platform
    the one of this process.
    """
    index, *operands = inputs
    given, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
    if platforms is not None:
        given = [given[_branch_here(platforms)]]
    branches = [walk.closed(branch, operands, entered(branch, place, _Plain())) for branch in given]
    results = []
    for var, *outs in zip(eqn.outvars, *branches, strict=True):
        if all(out is outs[0] for out in outs):
            results.append(outs[0])
            continue
        deps = sources_of((index, *outs))
        node = _link(walk, "cond", (index, *outs), var.aval, deps, place)
        results.append(node)
        mask = index.mask
        data = next((out for out in outs if not out.known), None)
        if mask is not None and data is not None and walk.recording and not place.backward:
            walk.applications.append(Application("branch", index, data, node, mask.true, place))
    return results


def _branch_here(platforms: Sequence[Sequence[str] | None]) -> int:
    """The first branch for the backend of this process; None stands for all platforms."""
    backend = jax.default_backend()
    names = {"gpu": ("gpu", "cuda", "rocm")}.get(backend, (backend,))
    fits = (at for at, each in enumerate(platforms) if each is None or set(each) & set(names))
    return next(fits, 0)


def shard_map(walk: Walk, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
    """The results of a program that runs on many devices, and sees the part of one of them."""
    params = eqn.params
    body = params["jaxpr"]
    loops, args = [], []
    axes = sorted(params["newly_manual_axes"])
    for axis in axes:
        size = dict(zip(params["mesh"].axis_names, params["mesh"].axis_sizes, strict=True))[axis]
        bit = walk.axis(axis)
        loop = Loop("shard_map", bit, bit, None, axis, place)
        if size > 1:
            loops.append(loop)
    for node, var, spec in zip(inputs, body.invars, params["in_specs"], strict=True):
        bits = sum(walk.axis(name) for name in _flat(spec))
        if bits:
            part = _fresh(walk, "shard", node, var.aval, node.deps | bits, place)
            args.append(_drawn_as(part, node))
        else:
            args.append(node)
    inside = dataclasses.replace(place, loops=(*place.loops, *loops))
    outs = walk.closed(body, args, inside)
    gone = sum(walk.axis(axis) for axis in axes)
    return [
        _drawn_as(_link(walk, "unshard", (out,), var.aval, out.deps & ~gone, place), out)
        for out, var in zip(outs, eqn.outvars, strict=True)
    ]


def _flat(spec: Any) -> list[str]:
    names: list[str] = []
    for entry in spec:
        if entry is not None:
            names += entry if isinstance(entry, tuple) else (entry,)
    return names


def remat(walk: Walk, eqn: Any, inputs: tuple[Node, ...], place: Place) -> list[Node]:
    """The results of a checkpoint."""
    body = eqn.params["jaxpr"]
    if place.backward:
        _note_kept(walk, inputs, place, "a checkpoint")
    return walk.closed(body, inputs, entered(body, place, eqn))


def _note_kept(walk: Walk, inputs: Sequence[Node], place: Place, by: str) -> None:
    if walk.recording:
        walk.kept += [
            (node, place, by) for node in inputs if node.mask is not None and node.size > 1
        ]


HANDLERS: dict[str, Handler] = {
    "scan": scan,
    "while": while_,
    "cond": cond,
    "shard_map": shard_map,
    "remat2": remat,
    "checkpoint": remat,
    "remat": remat,
}
