"""Keys: where they come from, and what they should depend on and do not."""

from __future__ import annotations

from collections.abc import Iterator

from jaxdrop.audit._rules import Audit, Seen, lineage, rule
from jaxdrop.audit._sites import Found, depends_on


@rule("JD201")
def one_key_at_two_sites(audit: Audit) -> Iterator[Seen]:
    """The keys of two sites are one node of the graph."""
    by_key: dict[int, list[Found]] = {}
    for found in audit.drawn():
        for key in {draw.key.number: draw.key for draw in found.draws}.values():
            by_key.setdefault(key.number, []).append(found)
    for sites in by_key.values():
        first = sites[0]
        for other in sites[1:]:
            same = _address(first) == _address(other)
            # One line that runs twice is two layers in a row, or one layer in two passes.
            if not same or depends_on(other.first.data, first.first.out):
                yield (
                    other.site.where,
                    f"the key {lineage(other.draws[0].key)} also draws at {first.site.where}",
                )


def _address(found: Found) -> tuple[str, ...]:
    place = found.first.place
    return (*place.path, str(place.line))


@rule("JD202")
def same_key_in_every_step(audit: Audit) -> Iterator[Seen]:
    """The bits depend on arguments, but on none that changes from call to call."""
    program = audit.program
    for found in audit.drawn():
        deps = found.deps
        arguments = deps & _all(audit)
        if not arguments or deps & program.renewed:
            continue
        names = ", ".join(program.arguments(arguments))
        if audit.step:
            yield found.site.where, f"the mask depends on {names}, and not on the step"
        elif not arguments & ~program.frozen:
            yield found.site.where, f"the mask depends on {names}, which is returned unchanged"


def _all(audit: Audit) -> int:
    return sum(audit.program.sources)


@rule("JD203")
def same_key_in_every_iteration(audit: Audit) -> Iterator[Seen]:
    """The bits do not depend on the number of the iteration."""
    for found in audit.drawn():
        for loop in found.first.place.loops:
            if loop.kind == "shard_map" or found.deps & loop.bit or loop.length == 1:
                continue
            if loop.differentiates:
                what = "the loop computes a gradient in each iteration"
            elif loop.stacks:
                what = "the loop goes over layers"
            elif not loop.carries:
                what = "the loop goes over independent parts"
            else:
                continue
            times = f" of {loop.length}" if loop.length else ""
            yield (
                found.site.where,
                f"{what}, and the key {lineage(found.draws[0].key)} is the same in all{times}",
            )


@rule("JD204")
def same_key_in_every_replica(audit: Audit) -> Iterator[Seen]:
    """The array depends on the place on a mesh axis, and the bits do not."""
    for found in audit.drawn():
        for loop in found.first.place.loops:
            if (
                loop.kind == "shard_map"
                and found.first.data.deps & loop.bit
                and not found.deps & loop.bit
            ):
                yield (
                    found.site.where,
                    f"the array is divided over the axis {loop.name!r}, and the mask does not "
                    "depend on it",
                )


@rule("JD205")
def constant_seed(audit: Audit) -> Iterator[Seen]:
    """The bits depend on no argument."""
    for found in audit.drawn():
        if not found.deps & _all(audit):
            yield found.site.where, f"the key is {lineage(found.draws[0].key)}"


@rule("JD206")
def rbg_under_vmap(audit: Audit) -> Iterator[Seen]:
    """Bits are drawn from an array of rbg keys."""
    for found in audit.drawn():
        for draw in found.draws:
            if draw.key.size > 1 and draw.generator in ("rbg", "unsafe_rbg"):
                yield found.site.where, f"{draw.key.size} {draw.generator} keys are drawn from"


@rule("JD207")
def one_key_for_weights_and_masks(audit: Audit) -> Iterator[Seen]:
    """Linen gets one key for two collections, or a mask and other bits come from one key."""
    for first, second in sorted(set(audit.program.probe.keys)):
        yield "the function", f"Linen gets one key for {first!r} and {second!r}"
    masks = {draw.key.number: found for found in audit.drawn() for draw in found.draws}
    live = audit.program.live()
    applied = {id(draw) for found in audit.found for draw in found.draws}
    for draw in audit.program.walk.draws.values():
        found = masks.get(draw.key.number)
        if (
            found is not None
            and id(draw) not in applied
            and draw.places
            and draw.bits.number in live
        ):
            where = draw.places[0].where
            yield found.site.where, f"the key {lineage(draw.key)} also draws at {where}"
