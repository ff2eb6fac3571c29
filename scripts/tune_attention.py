#!/usr/bin/env python3
"""Finds the fastest tiles of attention's kernels on the GPU that JAX finds, in about a minute.

    python scripts/tune_attention.py  # prints them, and the time of each candidate
    python scripts/tune_attention.py --write  # also writes them into the kernels' table

A tile is how a kernel divides its work: queries and keys in a block, warps of a program, and stages
of the software pipeline. Which is fastest depends on the registers and the shared memory that are
left, and so on every change to a kernel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from jaxdrop.functional.attention import _sight, _triton
from jaxdrop.functional.attention._block import Operands, Plan
from jaxdrop.functional.attention._problem import (
    Cotangents,
    Inputs,
    Mask,
    Place,
    Problem,
    Sides,
    Tiles,
)
from jaxdrop.functional.attention._triton_kernels import Tile
from jaxdrop.random import _drawing

_CANDIDATES = {
    "forward": [(128, 64, 8), (128, 128, 8), (64, 64, 4), (64, 128, 4), (128, 64, 4)],
    "of_queries": [(64, 64, 4), (128, 64, 8), (64, 128, 8), (64, 32, 4), (128, 32, 8)],
    "of_keys": [(64, 128, 8), (64, 64, 4), (32, 128, 8), (32, 64, 4), (32, 128, 4), (64, 64, 8)],
}
"""Queries, keys and warps."""
_STAGES = (2, 3, 4)
_HEADS, _LENGTH = 16, 8192


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the fastest into _triton.py")
    arguments = parser.parse_args()
    begin = time.monotonic()
    lines = []
    for depth in _triton.TILES:
        best = {kernel: _fastest(kernel, depth) for kernel in Tiles._fields}
        tiles = ", ".join(f"Tile({', '.join(map(str, tile))})" for tile in best.values())
        lines.append(f"    {depth}: Tiles({tiles}),")
    print("\n".join(lines))
    print(f"{time.monotonic() - begin:.0f} s")
    if arguments.write:
        path = Path(_triton.__file__)
        text = path.read_text()
        table = "TILES = {\n" + "\n".join(lines) + "\n}\n"
        path.write_text(re.sub(r"TILES = \{\n.*?\n\}\n", table, text, flags=re.DOTALL))


def _fastest(kernel: str, depth: int) -> Tile:
    now = getattr(_triton.TILES[depth], kernel)
    tiles = [Tile(*sizes, stages) for sizes in _CANDIDATES[kernel] for stages in _STAGES]
    tiles = list(dict.fromkeys([now, *tiles]))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        programs = list(pool.map(functools.partial(_compiled, kernel, depth), tiles))
    times = {}
    for tile, program in zip(tiles, programs, strict=True):
        if program is not None and (seconds := _seconds(program)) is not None:
            times[tile] = seconds
            print(f"{depth} {kernel} {tuple(tile)}: {1e3 * seconds:.3f} ms", flush=True)
    best = min(times, key=times.__getitem__)
    print(f"{depth} {kernel}: {times[now] / times[best]:.2f} times as fast by {tuple(best)}\n")
    return best


def _compiled(kernel: str, depth: int, tile: Tile) -> Callable[[], Any] | None:
    """One kernel with this tile, causal, with dropout; None if there is too little room for it."""
    words, draw = _drawing.words_and_draw(jaxdrop.key(0))
    problem = Problem(
        lengths=(_LENGTH, _LENGTH),
        share=1,
        scale=depth**-0.5,
        before=None,
        after=0,
        mask_size=_HEADS * _LENGTH**2,
        draw=draw,
        precision=None,
        tiles=_triton.TILES[depth]._replace(**{kernel: tile}),
        interpret=False,
    )
    shape = (_HEADS, _LENGTH, depth)
    q, k, v, dout = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(4))
    head = jnp.arange(_HEADS, dtype=jnp.uint32)[:, None]
    mask = Mask(words, jnp.full(1, 0xE6666665, jnp.uint32), head * jnp.uint32(_LENGTH**2), 0 * head)
    plan = Plan((_LENGTH, _LENGTH), (1, 1), 1.0, None, 0, (), None, None)
    operands = Operands(None, None, None, q, k, v, None, (), None, None)
    seen = _sight.stretches(
        plan, operands, np.int32(0), (tile.queries, tile.keys), of_keys=kernel == "of_keys"
    )
    place = Place(
        head.astype(jnp.int32) * 0,
        jnp.broadcast_to(seen, (_HEADS, *seen.shape[-2:])),
        jnp.full(1, 1 / 0.9, jnp.float32),
    )
    rows = jnp.zeros(shape[:2], jnp.float32)
    given = () if kernel == "forward" else (Cotangents(rows, dout, rows),)

    def run(mask: Any, place: Any, q: Any, k: Any, v: Any, *given: Any) -> Any:
        inputs = Inputs(place, Sides(), (_HEADS,), q, k, v)
        return getattr(_triton, kernel)(problem, mask, inputs, *given)

    args = mask, place, q, k, v, *given
    try:
        return functools.partial(jax.jit(run).lower(*args).compile(), *args)
    except Exception as error:
        print(f"{depth} {kernel} {tuple(tile)}: {str(error).splitlines()[0][:100]}")
        return None


def _seconds(program: Callable[[], Any]) -> float | None:
    try:
        jax.block_until_ready(program())
        times = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready([program() for _ in range(4)])
            times.append((time.perf_counter() - start) / 4)
    except Exception as error:  # too much shared memory shows at the launch
        print(str(error).splitlines()[0][:100])
        return None
    return min(times)


if __name__ == "__main__":
    main()
