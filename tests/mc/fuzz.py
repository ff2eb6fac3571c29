"""Random programs by chunks, against `jax.vmap`.

python -m tests.mc.fuzz --programs 1000 --seed 7
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from jaxdrop import mc
from tests.compilation import OPTIONS
from tests.mc.pieces import EAGER, PIECES, SHAPE, Array, Piece, V

KEYS = mc.keys(jaxdrop.key(0), 4)
BATCH = 2

WRAPPERS: dict[str, Callable[[Piece], Piece]] = {
    "plain": lambda fn: fn,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "jit of checkpoint": lambda fn: jax.jit(jax.checkpoint(fn)),
    "scan": lambda fn: (
        lambda key, x: jax.lax.scan(lambda x, k: (fn(k, x), None), x, jnp.stack([key, key]))[0]
    ),
    "cond": lambda fn: lambda key, x: jax.lax.cond(V[0, 0] > -9, fn, lambda key, x: x, key, x),
}
_ALONE = {"references", "calls_the_host_with_effects", *EAGER}
"""What is not allowed under these, whoever asks."""
OUTPUTS: dict[str, Callable[[Array, Array], Any]] = {
    "array": lambda key, x: x,
    "parts": lambda key, x: {"x": x, "parts": (x[0], x.sum()), "nothing": None},
    "constants": lambda key, x: (x, V, 2.0, jnp.arange(3), jnp.sin(V)),
    "narrow": lambda key, x: (x.astype(jnp.bfloat16), x[:0], x[None]),
}


class Program(NamedTuple):
    """A function of a key."""

    name: str
    run: Callable[[Array], Any]


def programs(seed: int, pieces: dict[str, Piece] = PIECES, *, longest: int) -> Iterator[Program]:
    """Programs without end. Every piece comes up as often as every other."""
    rng = random.Random(seed)
    deck: list[str] = []
    for number in itertools.count():
        chosen: list[tuple[str, str]] = []
        for _ in range(rng.randint(1, longest)):
            deck = deck or rng.sample(list(pieces), len(pieces))
            name = deck.pop()
            wrapper = "plain" if name in _ALONE else rng.choice([*WRAPPERS])
            chosen.append((name, wrapper))
        if rng.random() < 0.3:
            chosen.append(("dropout", "plain"))
        output = rng.choice([*OUTPUTS])
        text = (
            f"{seed}/{number}: "
            + ", ".join(f"{name} ({wrapper})" for name, wrapper in chosen)
            + f" -> {output}"
        )
        yield Program(text, _compose(chosen, output, pieces))


def _compose(
    chosen: list[tuple[str, str]], output: str, pieces: dict[str, Piece]
) -> Callable[[Array], Any]:
    steps = [WRAPPERS[wrapper]((PIECES | pieces)[name]) for name, wrapper in chosen]

    def run(key: Array) -> Any:
        x = V
        for step in steps:
            x = jnp.tanh(step(key, x))
            assert x.shape == SHAPE
        return OUTPUTS[output](key, x)

    return run


def assert_close(found: Any, expected: Any) -> None:
    """Up to rounding: XLA fuses the loop over chunks otherwise than one batch, and contracts
    products and sums otherwise.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        tolerance = 2e-2 if x.dtype == jnp.bfloat16 else 2e-5
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=tolerance, atol=tolerance
        )


def _by_chunks(fn: Callable[[Array], Any]) -> Any:
    return mc.predict(fn, KEYS, batch_size=BATCH, allow_deterministic=True)


def check_compiled(group: list[Program]) -> None:
    """Several programs in one compilation, and without any, that `moments` and `until` can be
    traced.
    """

    def both() -> Any:
        return [(_by_chunks(program.run), jax.vmap(program.run)(KEYS)) for program in group]

    compiled = jax.jit(both).lower().compile(OPTIONS)
    for program, (found, expected) in zip(group, compiled(), strict=True):
        try:
            assert_close(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{program.name}: {error}") from None


def check_summaries(program: Program) -> None:
    """`moments` and `until` accept it. Nothing is compiled."""
    jax.eval_shape(
        lambda: mc.moments(program.run, KEYS, batch_size=BATCH, allow_deterministic=True)
    )
    until = {"tolerance": 0.1, "max_samples": 10, "batch_size": BATCH, "allow_deterministic": True}
    jax.eval_shape(lambda: mc.until(program.run, jaxdrop.key(0), **until))


def check_eager(program: Program) -> None:
    """As users call it outside `jax.jit`."""
    assert_close(_by_chunks(program.run), jax.vmap(program.run)(KEYS))
    mc.moments(program.run, KEYS, batch_size=BATCH, allow_deterministic=True)


def check_eager_loops(program: Program) -> None:
    """`until` and `predict_dataset`, outside `jax.jit`."""
    mc.until(
        program.run,
        jaxdrop.key(0),
        tolerance=0.1,
        max_samples=9,
        batch_size=BATCH,
        allow_deterministic=True,
    )

    def fn(key, x):
        return jax.tree.map(lambda y: jnp.zeros((len(x), 1)) + jnp.sum(y), program.run(key))

    results = mc.predict_dataset(
        fn, [V, V[:2]], KEYS, batch_size=BATCH, progress=False, allow_deterministic=True
    )
    assert len(results.concatenate()[0]) == len(V) + 2


def main(arguments: list[str]) -> int:
    """Runs many, one at a time, and returns how many fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--longest", type=int, default=4, help="pieces of a program")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    failed = done = 0
    left = itertools.islice(programs(options.seed, longest=options.longest), options.programs)
    while group := [*itertools.islice(left, 20)]:
        try:
            check_compiled(group)
        except Exception:
            for program in group:
                try:
                    check_compiled([program])
                except Exception:
                    failed += 1
                    print(f"FAILS {program.name}\n{traceback.format_exc(limit=-3)}", flush=True)
        done += len(group)
        print(f"{done - failed} of {done} programs hold", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
