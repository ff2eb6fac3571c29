"""The rows of a report: each place where a function drops something, or could."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxdrop.audit._applications import Application
from jaxdrop.audit._draws import form, kept_bytes, other_draws, times_drawn
from jaxdrop.audit._graph import Draw, Node, ancestors, moved_from, parts_of, sources_of
from jaxdrop.audit._modules import Layer
from jaxdrop.audit._tracing import Program

# Operations for one word, without those that turn it into a number and compare it.
_OPERATIONS = {"threefry2x32": 110, "jaxdrop": 15, "rbg": 2, "unsafe_rbg": 2}
_OPERATIONS_OF_OTHERS = 60
# The mask of `drop_block` is that of the corners of blocks. The others compare a word of each
# member with one of these words.
_NO_MASK_OF_ENTRIES = ("drop_block", "subset", "dropout_mlp", "drop_path_add", "random_ltd")


@dataclasses.dataclass(frozen=True)
class Site:
    """A place where a function drops something, or could.

    Attributes:
      where: the module path, and the line of the user's code, as far as they are known.
      variant: what is dropped, such as `dropout` or `attention dropout`.
      rate: the probability of dropping, `"traced"` if it is a value of the program, None if it
        cannot be told.
      shape: that of the array, in one iteration of the loops around it.
      shared_axes: the axes along which all entries have one mask.
      generator: the generator of the key.
      random_bits: how many bits one call of the function draws here, outside the backward pass.
      kept_bytes: what the forward pass keeps of the mask for the backward pass. Estimated if the
        function computes no gradient.
      flops: operations of the mask and of its application, estimated.
      bytes: memory that is read and written without fusion, estimated.
      active: whether something is dropped. If not, a layer was seen that is off or not called.
      repeats: how often the loops around it run it.
    """

    where: str
    variant: str
    rate: float | str | None
    shape: tuple[int, ...]
    shared_axes: tuple[int, ...]
    generator: str
    random_bits: int
    kept_bytes: int
    flops: int
    bytes: int
    active: bool
    repeats: int = 1

    def as_dict(self) -> dict[str, Any]:
        """The site as JSON has it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Found:
    """A site, with what rules look at."""

    site: Site
    draws: list[Draw]
    applications: list[Application]

    @property
    def first(self) -> Application:
        return self.applications[0]

    @property
    def deps(self) -> int:
        """The sources that the bits depend on. Another iteration, or device, gets another part of
        bits that were drawn before.
        """
        found = sources_of(node for draw in self.draws for node in (draw.bits, draw.key))
        for part in (part for each in self.applications for part in parts_of(each.mask)):
            found |= part.deps & ~sources_of(part.inputs)
        return found

    def within(self, path: str) -> bool:
        """Whether it is drawn, or applied, in the module with this path."""
        places = [each.place for each in self.applications]
        return any(
            place.within(path) for place in places + [p for d in self.draws for p in d.places]
        )

    @property
    def is_attention(self) -> bool:
        return "attention" in self.site.variant or self.site.variant in ("drop_key", "DropKey")


def find_sites(program: Program) -> list[Found]:
    """The sites at which a program drops something, in its order."""
    live = program.live()
    groups: dict[Any, tuple[list[Draw], list[Application]]] = {}
    latest: dict[int, tuple[Any, Any]] = {}
    for application in program.walk.applications:
        draw = application.mask.rand
        assert draw is not None
        if draw.bits.number not in live:
            continue
        place = application.place
        # Several draws of one call of this library's are one site; a draw that is used twice too.
        key: Any = place.site if place.variant else id(draw)
        if not place.variant and _drawn_again(draw, application, latest):
            key = (id(draw), application.out.number)
        draws, applications = groups.setdefault(key, ([], []))
        applications.append(application)
        for each in (draw, *other_draws(application.mask)):
            if each not in draws:
                draws.append(each)
        latest[id(draw)] = (application, key)
    for draw in program.walk.draws.values():
        for place in draw.places:
            # What this library draws for other purposes than a mask, such as a choice of tokens.
            if place.variant and draw.bits.number in live and id(draw) not in latest:
                key = place.site
                bits = draw.bits
                own = Application("draw", bits, bits, bits, None, place)
                draws, applications = groups.setdefault(key, ([], []))
                applications.append(own)
                draws.append(draw)
    differentiated = any(node.backward for node in program.walk.graph.nodes)
    # In a loop of the backward pass, bits that are drawn again are those of other keys: elements of
    # what the loop goes over.
    again = {form(draw) for draw in program.walk.draws.values() if draw.again and not draw.places}
    return [
        Found(_site(draws, applications, differentiated, again), draws, applications)
        for draws, applications in groups.values()
    ]


def _drawn_again(draw: Draw, application: Application, latest: dict[int, Any]) -> bool:
    """Whether a mask that was applied before was drawn anew for this array."""
    return id(draw) in latest and len(draw.places) > 1


def _site(
    draws: list[Draw], applications: list[Application], differentiated: bool, again: set[Any]
) -> Site:
    first = applications[0]
    data, place, draw = first.data, first.place, draws[0]
    rate: float | str | None = None
    mask = first.mask.mask
    if mask is not None and mask.traced:
        rate = "traced"
    elif first.keeps is not None:
        rate = round(1 - first.keeps, 6)
    variant = place.variant or next((each.variant for each in draw.places if each.variant), None)
    shared = () if first.kind == "draw" else shared_axes(first)
    if variant in _NO_MASK_OF_ENTRIES:
        rate, shared = None, ()
    words = sum(each.bits.size * times_drawn(each, place) for each in draws)
    size = max(data.size, first.out.size) * place.repeats
    each = _OPERATIONS.get(draw.generator, _OPERATIONS_OF_OTHERS) + 6
    return Site(
        where=place.where,
        variant=variant or _variant(first, shared),
        rate=rate,
        shape=first.out.shape,
        shared_axes=shared,
        generator=draw.generator,
        random_bits=sum(8 * each.bits.nbytes * times_drawn(each, place) for each in draws),
        kept_bytes=kept_bytes(draws, first, differentiated, again),
        flops=words * each + 2 * size,
        bytes=2 * data.nbytes * place.repeats,
        active=True,
        repeats=place.repeats,
    )


def inactive(layer: Layer) -> Site:
    """The row of a layer that dropped nothing."""
    rate = next(iter(layer.rates.values()))
    kind = f"{layer.kind} ({'off' if layer.called else 'not called'})"
    where = layer.path or layer.kind
    return Site(where, kind, rate, (), (), "", 0, 0, 0, 0, active=False)


def _variant(first: Application, shared: tuple[int, ...]) -> str:
    """The name of what a mask does that this library did not make."""
    rank = len(first.out.shape)
    if first.kind == "branch":
        return "layer drop"
    if first.fill < -1e3:
        return "DropKey"
    if is_softmax(first.data):
        return "attention dropout"
    if first.fill != 0:
        return "alpha dropout"
    if rank > 1 and shared == tuple(range(1, rank)):
        return "drop path"
    if rank > 3 and shared == tuple(range(1, rank - 1)):
        return "spatial dropout"
    return "dropout"


def is_softmax(node: Node) -> bool:
    """Whether a value is a softmax, up to moves and constant factors."""
    return logits_of(node) is not None


def logits_of(node: Node) -> Node | None:
    """The logits, less a constant, that a value is the softmax of, up to moves and constant
    factors.
    """
    while True:
        node = moved_from(node)
        if node.op == "div" and node.inputs[1].const is None:
            above, below = moved_from(node.inputs[0]), moved_from(node.inputs[1])
            return above.inputs[0] if above.op == "exp" and below.op == "reduce_sum" else None
        if node.op not in ("mul", "div", "select_n"):
            return None
        rest = [each for each in node.inputs if not each.known and each.mask is None]
        if len(rest) != 1:
            return None
        (node,) = rest


def shared_axes(application: Application) -> tuple[int, ...]:
    """The axes of the array along which its entries have one mask."""
    shape = application.out.shape
    if application.kind == "branch":
        return tuple(range(len(shape)))
    varying = _varies(application.mask, {})
    varying = (False,) * (len(shape) - len(varying)) + varying
    return tuple(
        axis
        for axis, (own, size) in enumerate(zip(varying, shape, strict=True))
        if not own and size > 1
    )


def _varies(node: Node, known: dict[int, tuple[bool, ...]]) -> tuple[bool, ...]:
    """Along which axes the entries of a mask were drawn."""
    if node.number in known:
        return known[node.number]
    whole = tuple(size > 1 for size in node.shape)
    random = [each for each in node.inputs if each.rand is not None]
    if not random:
        found = whole
    elif node.op == "broadcast_in_dim":
        inner = _varies(random[0], known)
        axes = node.params["broadcast_dimensions"]
        varies = [False] * len(node.shape)
        for axis, own in zip(axes, inner, strict=True):
            varies[axis] = own
        found = tuple(varies)
    elif node.op == "transpose":
        inner = _varies(random[0], known)
        found = tuple(inner[axis] for axis in node.params["permutation"])
    elif node.op in ("reshape", "squeeze", "expand_dims"):
        found = _reshaped(random[0].shape, _varies(random[0], known), node.shape)
    else:
        parts = [_varies(each, known) for each in random if len(each.shape) == len(node.shape)]
        found = tuple(any(axis) for axis in zip(*parts, strict=True)) if parts else whole
    known[node.number] = found
    return found


def _reshaped(
    before: tuple[int, ...], varies: tuple[bool, ...], after: tuple[int, ...]
) -> tuple[bool, ...]:
    """The varying axes behind a reshape that adds or removes axes of length 1."""
    long = [(size, own) for size, own in zip(before, varies, strict=True) if size > 1]
    if [size for size, _ in long] != [size for size in after if size > 1]:
        return tuple(size > 1 for size in after)
    rest = (own for _, own in long)
    return tuple(size > 1 and next(rest) for size in after)


def depends_on(value: Node, other: Node) -> bool:
    """Whether a value is computed from another one."""
    return any(node is other for node in ancestors(value))
