"""Whatever `jax.vmap` runs, `mc.predict` runs by chunks, with the same results; `moments` and the
others run it too.

Here every piece once, under one wrapper or another. `python -m tests.mc.fuzz --programs 200` runs
more of them, and longer ones.
"""

from __future__ import annotations

import itertools

import pytest

from tests.mc import fuzz, pieces

pytestmark = pytest.mark.usefixtures(
    "relaxed", "uncached"
)  # the layers of others promote, and some pieces call back

_GROUP = 20
_PROGRAMS = [*itertools.islice(fuzz.programs(0, longest=1), 60)]
_LONG = [*itertools.islice(fuzz.programs(1, longest=4), 12)]


def test_every_piece_is_among_them() -> None:
    assert all(
        any(f": {name} (" in program.name for program in _PROGRAMS) for name in pieces.PIECES
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("start", range(0, len(_PROGRAMS), _GROUP))
def test_chunks_are_vmap(start: int) -> None:
    fuzz.check_compiled(_PROGRAMS[start : start + _GROUP])


@pytest.mark.sweep(keep=5)
@pytest.mark.parametrize("program", _PROGRAMS[::6] + _LONG, ids=lambda program: program.name)
def test_summaries_take_it(program: fuzz.Program) -> None:
    fuzz.check_summaries(program)


def _eager(name: str) -> fuzz.Program:
    return fuzz.Program(name, lambda key: pieces.dropout(key, pieces.EAGER[name](key, pieces.V)))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", pieces.EAGER)
def test_what_jit_refuses(name: str) -> None:
    """It runs whole, chunk by chunk, as `jax.vmap` runs it."""
    fuzz.check_eager(_eager(name))


@pytest.mark.sweep
def test_what_jit_refuses_in_loops() -> None:
    fuzz.check_eager_loops(_eager("through_numpy"))
