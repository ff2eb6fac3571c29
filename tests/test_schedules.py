"""Schedules against the formulas of their papers and code, at their boundaries, and inside a
compiled step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import strategies as st

import jaxdrop
import jaxdrop.nnx
from jaxdrop import schedules
from jaxdrop.functional.paths import depth_rates
from tests.catalogue import DROPOUT, KEY
from tests.compilation import OPTIMIZED
from tests.oracles import torchtune_scale


class Case(NamedTuple):
    name: str
    schedule: schedules.Schedule
    reference: Callable[[int], float]
    """The rate of a step in float64, as the source writes it."""
    exact: dict[int, float]
    """Rates that must be met to the last bit."""


def _v_shape(count: int) -> float:
    return np.interp(count % 8, [0, 4, 8], [0.3, 0.0, 0.3])


CASES = [
    Case("constant", schedules.constant(0.3), lambda c: 0.3, {0: 0.3, 7: 0.3}),
    Case(
        "linear_up",
        schedules.linear(0.1, 0.7, 7),
        lambda c: np.interp(c, [0, 7], [0.1, 0.7]),
        {0: 0.1, 7: 0.7, 8: 0.7},
    ),
    Case(
        "linear_down",
        schedules.linear(0.5, 0.0, 10, begin=3),
        lambda c: np.interp(c, [3, 13], [0.5, 0.0]),
        {0: 0.5, 3: 0.5, 13: 0.0, 14: 0.0},
    ),
    Case(
        "cosine_up",
        schedules.cosine(0.0, 1.0, 7, begin=1),
        lambda c: (1 - math.cos(math.pi * min(max(c - 1, 0) / 7, 1))) / 2,
        {0: 0.0, 1: 0.0, 8: 1.0, 9: 1.0},
    ),
    Case(
        "cosine_down",
        schedules.cosine(0.4, 0.1, 10),
        lambda c: 0.1 + 0.3 * (1 + math.cos(math.pi * min(c / 10, 1))) / 2,
        {0: 0.4, 10: 0.1, 11: 0.1},
    ),
    Case("cyclic", schedules.cyclic(0.3, 0.0, 8), _v_shape, {0: 0.3, 4: 0.0, 8: 0.3, 12: 0.0}),
    Case(
        "early",
        schedules.early(0.1, 5),
        lambda c: 0.1 if c < 5 else 0.0,
        {0: 0.1, 4: 0.1, 5: 0.0, 6: 0.0},
    ),
    # np.linspace(rate, 0, cutoff), and zeros behind it, is the authors' code.
    Case(
        "early_decay",
        schedules.early(0.5, 6, decay=True),
        lambda c: [*np.linspace(0.5, 0, 6), *np.zeros(20)][c],
        {0: 0.5, 5: 0.0, 6: 0.0},
    ),
    Case(
        "late",
        schedules.late(0.4, 5),
        lambda c: 0.4 if c >= 5 else 0.0,
        {0: 0.0, 4: 0.0, 5: 0.4, 6: 0.4},
    ),
    # The authors of the next three schedule the probability of keeping.
    Case(
        "curriculum",
        schedules.curriculum(0.5, 0.3),
        lambda c: 1 - ((1 - 0.5) * math.exp(-0.3 * c) + 0.5),
        {0: 0.0},
    ),
    Case(
        "annealed",
        schedules.annealed(0.25, 0.3),
        lambda c: 1 - (1 - 0.25 * math.exp(-0.3 * c)),
        {0: 0.25},
    ),
    Case(
        "dropblock",
        schedules.dropblock(0.1, 12, group=3),
        lambda c: 1 - (1 - (1 - (1 - min(c / 12, 1) * (1 - 0.9))) / 4 ** (4 - 3)),
        {0: 0.0, 12: 0.025, 13: 0.025},
    ),
    Case(
        "scheduled_drop_path",
        schedules.scheduled_drop_path(0.4, 12),
        lambda c: 1 - (1 - min(c / 12, 1) * (1 - 0.6)),
        {0: 0.0, 12: 0.4, 13: 0.4},
    ),
    *(
        Case(
            f"layer_skip_{shape}",
            schedules.layer_skip(0.3, 12, shape=shape),
            functools.partial(lambda shape, c: 0.3 * torchtune_scale(shape, 12, min(c, 12)), shape),
            {0: 0.0, 12: 0.3, 13: 0.3},
        )
        for shape in ("exp", "log", "step")
    ),
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# -- values


def test_groups_of_dropblock() -> None:
    """Each drops a quarter of what the next one drops."""
    last = [schedules.dropblock(0.1, 12, group=group)(12) for group in (1, 2, 3, 4)]
    np.testing.assert_allclose(last, [0.1 / 64, 0.1 / 16, 0.1 / 4, 0.1], rtol=1e-6)


@each_case
def test_follows_its_source(case: Case) -> None:
    compiled = jax.jit(case.schedule)
    for count in range(20):
        for value in (
            case.schedule(count),
            compiled(count),
            compiled(jnp.uint32(count)),
            compiled(jnp.float32(count)),
        ):
            np.testing.assert_allclose(value, case.reference(count), rtol=2e-6, atol=2e-7)


@each_case
def test_boundaries_are_exact(case: Case) -> None:
    compiled = jax.jit(case.schedule)
    for count, rate in case.exact.items():
        assert np.float32(case.schedule(count)) == np.float32(rate), count
        assert np.float32(compiled(jnp.int32(count))) == np.float32(rate), count


@each_case
def test_before_the_first_step_it_is_the_first_rate(case: Case) -> None:
    """`optax.join_schedules` asks for that."""
    if case.name != "cyclic":  # which goes on periodically
        assert case.schedule(-3) == case.schedule(0)
        assert jax.jit(case.schedule)(-3) == case.schedule(0)


# XLA on CPU flushes subnormal numbers to 0.
rates = st.floats(0, 1, width=32, allow_subnormal=False)


@hypothesis.given(
    rates, rates, st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 2**31 - 1)
)
def test_rates_stay_between_start_and_end(
    start: float, end: float, steps: int, begin: int, count: int
) -> None:
    for kind in (schedules.linear, schedules.cosine):
        rate = np.float32(kind(start, end, steps, begin=begin)(count))
        assert min(start, end) <= rate <= max(start, end)
        if count <= begin:
            assert rate == np.float32(start)
        if count >= begin + steps:
            assert rate == np.float32(end)


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.constant(0.3), optax.constant_schedule(0.3)),
        (schedules.linear(0.1, 0.7, 7, begin=2), optax.linear_schedule(0.1, 0.7, 7, 2)),
        (schedules.cosine(0.4, 0.1, 7), optax.cosine_decay_schedule(0.4, 7, alpha=0.25)),
        (schedules.annealed(0.4, 0.3), optax.exponential_decay(0.4, 1, math.exp(-0.3))),
        (schedules.early(0.4, 5), optax.piecewise_constant_schedule(0.4, {5: 0.0})),
    ],
    ids=["constant", "linear", "cosine", "annealed", "early"],
)
def test_agrees_with_optax(ours: schedules.Schedule, theirs: optax.Schedule) -> None:
    for count in range(12):
        np.testing.assert_allclose(ours(count), theirs(count), rtol=2e-6, atol=2e-7)


@pytest.mark.usefixtures("relaxed")
def test_optax_misses_the_end() -> None:
    """If this fails, Optax or XLA has changed: change the docs. LLVM joins a product and a sum only
    where it optimizes.
    """
    schedule = jax.jit(
        optax.linear_schedule(0.5, 0.0, 10),
        compiler_options=OPTIMIZED,
    )
    assert schedule(jnp.int32(10)) < 0


# -- composition


def test_optax_joins_these_and_its_own() -> None:
    joined = optax.join_schedules(
        [
            schedules.constant(0.1),
            schedules.linear(0.1, 0.5, 4),
            optax.linear_schedule(0.5, 0.0, 4),
            schedules.late(0.2, 2),
        ],
        [3, 7, 11],
    )
    expected = [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.375, 0.25, 0.125, 0, 0, 0.2, 0.2]
    found = jax.vmap(joined)(jnp.arange(len(expected)))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_scheduled_drop_path_of_all_cells() -> None:
    """NASNet's three versions: by time, by depth, by both. And LayerSkip's product."""
    schedule, cells, rate = schedules.scheduled_drop_path(0.4, 10), 5, 0.4
    for count in (0, 4, 10, 12):
        time = min(count / 10, 1)
        np.testing.assert_allclose(schedule(count), time * rate, rtol=1e-6)
        both = jax.jit(lambda count: depth_rates(schedule(count), cells, rule="paper"))(count)
        np.testing.assert_allclose(
            both, [time * (cell + 1) / cells * rate for cell in range(cells)], rtol=1e-6
        )
        rising = schedules.layer_skip(0.4, 10)(count)
        exponential = [(2 ** (cell / 4) - 1) * (2**time - 1) * rate for cell in range(cells)]
        np.testing.assert_allclose(depth_rates(rising, cells, "exp"), exponential, rtol=1e-5)


# -- in a training step


@each_case
def test_one_trace_for_all_steps(case: Case) -> None:
    x = DROPOUT.example()
    chex.clear_trace_counter()
    step = jax.jit(
        chex.assert_max_traces(lambda count: jaxdrop.dropout(KEY, x, case.schedule(count)), n=1)
    )
    for count in (0, 1, 4, 5, 6, 100):
        known = jaxdrop.dropout(KEY, x, float(case.schedule(count)))
        np.testing.assert_array_equal(step(count) == 0, known == 0)
        np.testing.assert_allclose(step(count), known, rtol=2e-6)


def test_one_trace_through_a_module() -> None:
    schedule, layer, x = (
        schedules.early(0.5, 2),
        jaxdrop.nnx.Dropout(0.1, rngs=nnx.Rngs(KEY)),
        DROPOUT.example(),
    )
    chex.clear_trace_counter()
    step = nnx.jit(chex.assert_max_traces(lambda layer, count: layer(x, rate=schedule(count)), n=1))
    dropped = [bool((step(layer, jnp.int32(count)) == 0).any()) for count in range(4)]
    assert dropped == [True, True, False, False]


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_early_dropout_values_and_gradients_are_the_undropped_ones(
    decay: bool, dtype: str
) -> None:
    schedule, x = schedules.early(0.5, 3, decay=decay), DROPOUT.example(dtype)

    @jax.jit
    def step(count: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pull = jax.vjp(lambda x: jaxdrop.dropout(KEY, x, schedule(count)), x)
        return y, pull(x)[0]

    for count in range(6):
        if count < (2 if decay else 3):
            assert (step(count)[0] == 0).any()
        else:
            chex.assert_trees_all_equal(step(count), (x, x))


def test_a_constant_zero_is_no_operation() -> None:
    x = DROPOUT.example()
    assert jaxdrop.dropout(None, x, schedules.constant(0)(5)) is x


# -- bad input


@pytest.mark.sweep(keep=5)
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: schedules.constant(1.5), ValueError, "1.5"),
        (lambda: schedules.linear(0.1, float("nan"), 5), ValueError, "nan"),
        (lambda: schedules.linear("a", 0.1, 5), TypeError, "'a'"),
        (
            lambda: schedules.linear(jnp.ones(3), 0.1, 5),
            TypeError,
            "start must be one number that is known now",
        ),
        (lambda: schedules.linear(0.1, 0.2, 0), ValueError, "steps must be at least 1, got 0"),
        (
            lambda: schedules.linear(0.1, 0.2, 2.5),
            TypeError,
            "steps must be an integer number of steps, got 2.5",
        ),
        (lambda: schedules.linear(0.1, 0.2, True), TypeError, "got True"),
        (
            lambda: schedules.cosine(0.1, 0.2, 5, begin=-1),
            ValueError,
            "begin must be at least 0, got -1",
        ),
        (lambda: schedules.cyclic(0.1, 0.2, 1), ValueError, "period must be at least 2, got 1"),
        (lambda: schedules.early(-0.1, 5), ValueError, "-0.1"),
        (lambda: schedules.early(0.1, 0), ValueError, "cutoff must be at least 1, got 0"),
        (
            lambda: schedules.early(0.1, 1, decay=True),
            ValueError,
            "cutoff must be at least 2, got 1",
        ),
        (lambda: schedules.late(0.1, -3), ValueError, "cutoff must be at least 1, got -3"),
        (
            lambda: schedules.curriculum(0.5, 0),
            ValueError,
            r"gamma must lie in \(0, infinity\), got 0\. It is how fast",
        ),
        (lambda: schedules.curriculum(2, 0.1), ValueError, "got 2"),
        (
            lambda: schedules.annealed(0.5, float("inf")),
            ValueError,
            r"gamma must lie in \(0, infinity\), got inf",
        ),
        (
            lambda: schedules.annealed(0.5, "fast"),
            TypeError,
            "gamma must be a real number in .*, got 'fast'",
        ),
        (
            lambda: schedules.dropblock(0.1, 5, group=5),
            ValueError,
            "group must be 1, 2, 3 or 4, got 5",
        ),
        (
            lambda: schedules.dropblock(0.1, 5, group=0),
            ValueError,
            "group must be 1, 2, 3 or 4, got 0",
        ),
        (
            lambda: schedules.layer_skip(0.1, 5, shape="cubic"),
            ValueError,
            "shape must be one of 'linear', 'exp', .*, got 'cubic'",
        ),
        (
            lambda: schedules.scheduled_drop_path(0.1, None),
            TypeError,
            "steps must be an integer number of steps, got None",
        ),
    ],
)
def test_bad_input(make: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_stages_have_few_rates_and_both_ends() -> None:
    """Each rate compiles one program."""
    rate = schedules.in_stages(schedules.linear(0.5, 0.0, 100), 100, stages=5)
    found = [rate(count) for count in range(-5, 130)]
    assert [*dict.fromkeys(found)] == [0.5, 0.375, 0.25, 0.125, 0.0]
    assert [found.index(each) - 5 for each in (0.375, 0.25, 0.125, 0.0)] == [20, 40, 60, 80]
    assert all(type(each) is float for each in found)
    assert rate(jnp.int32(20)) == 0.375
    optax_form = schedules.in_stages(optax.linear_schedule(0.0, 0.5, 10), 10, stages=2)
    assert [optax_form(4), optax_form(5)] == [0.0, 0.5]
    with pytest.raises(TypeError, match=r"count must be known(.|\n)*outside of jax.jit"):
        jax.jit(rate)(3)
    with pytest.raises(TypeError, match="count must be the number of steps"):
        rate(2.5)
    with pytest.raises(ValueError, match="steps must be at least 3"):
        schedules.in_stages(schedules.constant(0.5), 2, 3)
    with pytest.raises(ValueError, match="stages must be at least 2"):
        schedules.in_stages(schedules.constant(0.5), 10, 1)
    with pytest.raises(ValueError, match="schedule must lie in"):
        schedules.in_stages(lambda count: 2.0, 10, 2)
    each = schedules.in_stages(schedules.linear(0.0, 1.0, 4), 4, stages=4)
    assert [each(count) for count in range(5)] == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_any_count_of_31_bits() -> None:
    most = 2**31 - 1
    for make in (
        lambda steps: schedules.linear(0.0, 0.5, steps),
        lambda steps: schedules.linear(0.0, 0.5, 4, begin=steps),
        lambda steps: schedules.linear(0.0, 0.5, steps, begin=steps),
        lambda steps: schedules.cyclic(0.0, 0.5, steps),
        lambda steps: schedules.early(0.0, steps),
    ):
        assert make(most)(0) == 0
        with pytest.raises(ValueError, match="must be at most 2147483647, got 2147483648"):
            make(most + 1)
    assert schedules.linear(0.0, 0.5, most)(most) == 0.5


def test_a_constant_rate_stays() -> None:
    """Its two ends are one number, which rounding does not leave."""
    found = jax.vmap(schedules.linear(0.1, 0.1, 1000))(jnp.arange(1000))
    np.testing.assert_array_equal(found, np.float32(0.1))


def test_the_last_group_of_dropblock_is_the_default() -> None:
    assert schedules.dropblock(0.1, 12)(12) == np.float32(0.1)
