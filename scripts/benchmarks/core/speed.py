"""Time of a call: jitted, with its gradient, as a chain, and eager."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from benchmarks import _peers
from benchmarks._figures import Bar, Table, per
from benchmarks._peers import FLAX, FLAX_SWAPPED, MULTIPLY, OWN_KEY, RATE, SAME_KEY
from benchmarks._timing import interleaved

Shape = tuple[int, int]

_SITES = 20


def forward(quick: bool) -> Iterator[Table | Bar]:
    """One jitted call."""
    table = _by_shape("one call, forward", 1, lambda drop: drop, _torch_forward, quick)
    yield table
    case, times = _largest(table)
    yield Bar(
        f"forward, {case}: jaxdrop (jaxdrop.key) / multiply",
        times[OWN_KEY] / times[MULTIPLY],
        "<=",
        1.6,
    )
    yield Bar(
        f"forward, {case}: unchanged flax.linen.Dropout, its key / jaxdrop.key",
        times[FLAX] / times[FLAX_SWAPPED],
        ">=",
        5,
    )


def backward(quick: bool) -> Iterator[Table | Bar]:
    """One jitted call that returns the result and the gradient with respect to x."""
    yield _by_shape("one call, forward + backward", 2, _peers.with_gradient, torch_both, quick)


def chain(quick: bool) -> Iterator[Table | Bar]:
    """Twenty sites in one program, each with its own key.

    Unrolled, XLA fuses the twenty operations into one pass over memory where it can, for the
    multiplication too. Under scan each site is a pass of its own, as it is between the layers of a
    model.
    """
    shapes: list[tuple[Any, Shape]] = [(jnp.float32, (256, 1024) if quick else (4096, 4096))]
    if not quick:
        shapes.append((jnp.bfloat16, (1024, 1024)))
    figures = {}
    contestants = {
        name: _peers.peers()[name] for name in (MULTIPLY, FLAX, FLAX_SWAPPED, SAME_KEY, OWN_KEY)
    }
    for dtype, shape in shapes:
        x = jnp.ones(shape, dtype)
        for layout, build in (("unrolled", _unrolled), ("under scan", _scanned)):
            calls = {
                name: functools.partial(jax.jit(build(peer.drop)), peer.keys(_SITES), x)
                for name, peer in contestants.items()
            }
            times = interleaved(calls, seconds=0 if quick else 45)
            figures[f"{layout}, {_case(dtype, shape)}"] = {
                name: per(time, _SITES) for name, time in times.items()
            }
    yield Table(f"chain of {_SITES} in one program, time a site", "s", figures, limit=MULTIPLY)
    for layout, times in list(figures.items())[:2]:
        yield Bar(
            f"chain, {layout}: Flax / jaxdrop (jaxdrop.key)", times[FLAX] / times[OWN_KEY], ">=", 9
        )
        yield Bar(
            f"chain, {layout}: Flax / jaxdrop (the same threefry key)",
            times[FLAX] / times[SAME_KEY],
            ">=",
            3.5,
        )


def eager(quick: bool) -> Iterator[Table | Bar]:
    """One call outside of jit, as each library's users write it."""
    x = jnp.ones((256, 1024))
    calls: dict[str, Callable[[], Any]] = {MULTIPLY: lambda: x * 1.1}
    own = jaxdrop.nnx.Dropout, jaxdrop.linen.Dropout
    for suffix, key, (stateful, functional) in (
        ("flax.{}", jax.random.key(0), (nnx.Dropout, linen.Dropout)),
        ("jaxdrop.{}, threefry", jax.random.key(0), own),
        ("jaxdrop.{}, jaxdrop.key", jaxdrop.key(0), own),
    ):
        calls[suffix.format("nnx")] = functools.partial(stateful(RATE, rngs=nnx.Rngs(key)), x)
        layer = functional(RATE, deterministic=False)
        calls[suffix.format("linen")] = functools.partial(layer.apply, {}, x, rngs={"dropout": key})
    for name, peer in _peers.peers().items():
        if name in ("equinox", "haiku", SAME_KEY, OWN_KEY):
            calls[name.replace("jaxdrop,", "jaxdrop.dropout,")] = functools.partial(
                peer.drop, peer.keys(1)[0], x
            )
    if torch := _peers.find("torch"):
        calls["torch"] = functools.partial(torch.nn.functional.dropout, torch.ones(256, 1024), RATE)
    times = interleaved(calls, seconds=1 if quick else 20)
    case = _case(x.dtype, (256, 1024))
    yield Table("one eager call", "s", {case: times}, limit=MULTIPLY)
    for kind in ("threefry", "jaxdrop.key"):
        for ours, theirs in (
            ("jaxdrop.nnx", "flax.nnx"),
            ("jaxdrop.linen", FLAX),
            ("jaxdrop.dropout", FLAX),
        ):
            yield Bar(
                f"eager, {case}: {ours} ({kind}) / {theirs}",
                times[f"{ours}, {kind}"] / times[theirs],
                "<=",
                1,
            )


def _by_shape(
    title: str,
    arrays: int,
    build: Callable[[Callable[..., Any]], Callable[..., Any]],
    torch_call: Callable[..., Any],
    quick: bool,
) -> Table:
    """Times of `build(drop)(key, *arrays)` for all peers and of `torch_call(torch, *arrays)`, by
    dtype and shape.
    """
    shapes = [(256, 1024)] if quick else [(256, 1024), (1024, 1024), (4096, 4096)]
    torch = _peers.find("torch")
    figures = {}
    for dtype in (jnp.float32,) if quick else (jnp.float32, jnp.bfloat16):
        for shape in shapes:
            values = [
                jax.random.normal(key, shape, dtype)
                for key in jax.random.split(jax.random.key(1), arrays)
            ]
            calls: dict[str, Callable[[], Any]] = {
                name: functools.partial(jax.jit(build(peer.drop)), peer.keys(2)[1], *values)
                for name, peer in _peers.peers().items()
            }
            if torch:
                calls["torch"] = functools.partial(torch_call, torch, *map(_peers.tensor, values))
            figures[_case(dtype, shape)] = interleaved(calls, seconds=0 if quick else 15)
    return Table(title, "s", figures, limit=MULTIPLY)


def _largest(table: Table) -> tuple[str, Any]:
    return [(case, times) for case, times in table.figures.items() if case.startswith("float32")][
        -1
    ]


def _case(dtype: Any, shape: Shape) -> str:
    return f"{jnp.dtype(dtype).name} {shape[0]} x {shape[1]}"


def _unrolled(drop: Callable[..., Any]) -> Callable[..., Any]:
    def run(keys: jax.Array, x: jax.Array) -> jax.Array:
        for site in range(_SITES):
            x = drop(keys[site], x)
        return x

    return run


def _scanned(drop: Callable[..., Any]) -> Callable[..., Any]:
    def run(keys: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, key: (drop(key, x), None), x, keys)[0]

    return run


def _torch_forward(torch: Any, x: Any) -> Any:
    return torch.nn.functional.dropout(x, RATE)


def torch_both(torch: Any, x: Any, cotangent: Any) -> Any:
    x = x.detach().requires_grad_()
    y = torch.nn.functional.dropout(x, RATE)
    return y, torch.autograd.grad(y, x, cotangent)
