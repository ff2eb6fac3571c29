"""What is dropped around a cell, when, and with which key: with cells so small that the masks can
be seen.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import (
    GRU,
    LSTM,
    SIMPLE,
    Carry,
    Family,
    Hooks,
    Plan,
    Rates,
    Site,
    _arguments,
    _time,
)
from tests import statistics
from tests.catalogue import KEY, RATE, pure_loop

BATCH, TIME, UNITS = 4, 6, 16
ONES = jnp.ones((BATCH, TIME, UNITS))
ZEROS = jnp.zeros((BATCH, UNITS))


def plan(
    key: jax.Array | None = KEY,
    family: Family = GRU,
    per_gate: bool = False,
    per_step: bool = False,
    deterministic: bool = False,
    **rates: Any,
) -> Plan:
    return Plan(family, Rates(**rates), key, per_gate, per_step, deterministic)


def shown(gate: int = 0) -> recurrent.Cell:
    """A cell whose output is the mask on its hidden state, times the scale."""

    def cell(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
        assert hooks.recurrent is not None
        return hooks.recurrent(jnp.ones_like(carry), gate)

    return cell


def run(
    plan: Plan, cell: Callable[[Carry, jax.Array, Hooks], Carry], *args: Any, **kwargs: Any
) -> tuple[Carry, jax.Array]:
    return recurrent.run(plan, pure_loop(cell), *args, **kwargs)


def counting(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
    return jax.tree.map(lambda state: state + 1, carry)


def masks(gate: int = 0, x: jax.Array = ONES, **options: Any) -> np.ndarray:
    return np.asarray(
        run(plan(recurrent_rate=RATE, **options), shown(gate), ZEROS, x, time_axis=1)[1]
    )


# -- masks


def test_one_mask_for_all_steps_and_another_for_each_sequence() -> None:
    found = masks()
    expected = jaxdrop.dropout(
        recurrent.fold(KEY, Site.RECURRENT, 0), jnp.ones((BATCH, UNITS)), RATE
    )
    np.testing.assert_array_equal(
        found, np.broadcast_to(np.asarray(expected)[:, None], found.shape)
    )
    assert len({row.tobytes() for row in found[:, 0]}) == BATCH
    np.testing.assert_array_equal(masks(gate=2), found)


def test_masks_of_gates_where_asked() -> None:
    found = [masks(gate, per_gate=True) for gate in range(3)]
    for one, other in itertools.combinations(found, 2):
        assert not np.array_equal(one, other)
    for mask in found:
        np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1], mask.shape))


@pytest.mark.parametrize("per_gate", [False, True], ids=["tied", "untied"])
def test_masks_of_steps_where_asked(per_gate: bool) -> None:
    found = masks(1, per_gate=per_gate, per_step=True)
    assert len({found[:, t].tobytes() for t in range(TIME)}) == TIME
    longer = masks(1, jnp.ones((BATCH, TIME + 1, UNITS)), per_gate=per_gate, per_step=True)
    np.testing.assert_array_equal(longer[:, :TIME], found)


@pytest.mark.parametrize("site", ["input_rate", "output_rate"])
@pytest.mark.parametrize("per_step", [False, True])
def test_masks_of_inputs_and_outputs(site: str, per_step: bool) -> None:
    def seen(x: jax.Array) -> np.ndarray:
        settled = plan(per_step=per_step, **{site: RATE})
        return np.asarray(run(settled, lambda carry, x, hooks: x, ZEROS, x, time_axis=1)[1])

    found, longer = seen(ONES), seen(jnp.ones((BATCH, TIME + 1, UNITS)))
    assert len({found[:, t].tobytes() for t in range(TIME)}) == (TIME if per_step else 1)
    assert len({row.tobytes() for row in found[:, 0]}) == BATCH
    np.testing.assert_array_equal(longer[:, :TIME], found)


def test_rates_of_masks() -> None:
    """Right code fails with a probability of 1e-6."""
    found = jax.vmap(
        lambda key: run(plan(key, recurrent_rate=RATE), shown(), ZEROS, ONES, time_axis=1)[0]
    )
    dropped = np.asarray(found(jax.random.split(KEY, 256)) == 0)
    assert (
        statistics.normal(
            (dropped.sum() - dropped.size * RATE) / np.sqrt(dropped.size * RATE * (1 - RATE))
        )
        > 1e-6
    )


def test_no_two_sites_have_the_same_key() -> None:
    words = set()
    layers, gates, steps = 12, 4, 3
    for layer, backward in itertools.product(range(layers), (False, True)):
        own = recurrent.directed(recurrent.fold(KEY, layer), backward)
        for site in Site:
            if site is Site.BACKWARD or (site is Site.BETWEEN and backward):
                continue
            words.add(jax.random.key_data(recurrent.fold(own, site)).tobytes())
            for gate in range(gates):
                gated = recurrent.fold(own, site, gate)
                words.add(jax.random.key_data(gated).tobytes())
                words |= {
                    jax.random.key_data(recurrent.fold(gated, t)).tobytes() for t in range(steps)
                }
    sites = 2 * layers * (len(Site) - 2) + layers
    assert len(words) == sites * (1 + gates * (1 + steps))


# -- zoneout and candidates


def zoned(key: jax.Array | None, rate: float = RATE, **options: Any) -> Carry:
    return run(plan(key, hidden_zoneout=rate, **options), counting, ZEROS, ONES, time_axis=1)


def test_zoneout_counts_the_steps_that_are_not_skipped() -> None:
    """The number of steps is binomial: its mean and its variance. Right code fails with a
    probability of 2e-6.
    """
    keys = jax.random.split(KEY, 256)
    counts = np.asarray(jax.jit(jax.vmap(lambda key: zoned(key)[0]))(keys), np.float64).ravel()
    mean, variance = TIME * (1 - RATE), TIME * RATE * (1 - RATE)
    assert statistics.normal((counts.mean() - mean) / np.sqrt(variance / counts.size)) > 1e-6
    squares = (counts - mean) ** 2
    assert (
        statistics.normal((squares.mean() - variance) / (squares.std() / np.sqrt(counts.size)))
        > 1e-6
    )


def test_zoneout_evaluates_to_its_expectation() -> None:
    final, outputs = zoned(None, deterministic=True)
    np.testing.assert_allclose(final, np.full((BATCH, UNITS), TIME * (1 - RATE)), rtol=1e-6)
    np.testing.assert_allclose(outputs[0, :, 0], (1 - RATE) * np.arange(1, TIME + 1), rtol=1e-6)


def test_cell_and_hidden_state_zone_out_by_themselves() -> None:
    start = (ZEROS, ZEROS)

    def end(**rates: float) -> Carry:
        return run(plan(family=LSTM, **rates), counting, start, ONES, time_axis=1)[0]

    cell, hidden = end(cell_zoneout=1.0)
    assert (cell == 0).all()
    assert (hidden == TIME).all()
    cell, hidden = end(cell_zoneout=RATE, hidden_zoneout=RATE)
    assert not np.array_equal(cell, hidden)


@pytest.mark.parametrize("per_step", [False, True], ids=["sequence", "step"])
def test_candidates_keep_the_expectation(per_step: bool) -> None:
    """A memory c = f c + d(1): its mean is that without dropout, its variance rate / (1 - rate)
    times the square of the sum of the powers of f with one mask, the sum of their squares with one
    for each step. Right code fails with a probability of 2e-6.
    """
    powers = 0.5 ** np.arange(TIME)

    def memory(key: jax.Array | None, **options: Any) -> jax.Array:
        def cell(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
            drop = hooks.candidate or (lambda y: y)
            return 0.5 * carry + drop(x)

        return run(plan(key, candidate_rate=RATE, **options), cell, ZEROS, ONES, time_axis=1)[0]

    np.testing.assert_allclose(
        memory(None, deterministic=True), np.full((BATCH, UNITS), powers.sum()), rtol=1e-6
    )
    draw = jax.jit(jax.vmap(lambda key: memory(key, per_step=per_step)))
    found = np.asarray(draw(jax.random.split(KEY, 256)), np.float64).ravel()
    variance = RATE / (1 - RATE) * ((powers**2).sum() if per_step else powers.sum() ** 2)
    assert statistics.normal((found.mean() - powers.sum()) / np.sqrt(variance / found.size)) > 1e-6
    squares = (found - powers.sum()) ** 2
    assert (
        statistics.normal((squares.mean() - variance) / (squares.std() / np.sqrt(found.size)))
        > 1e-6
    )


def test_the_first_activation_of_a_step_is_the_candidates() -> None:
    activation = recurrent.on_candidate(jnp.tanh, lambda y: 2 * y)
    assert (activation(ONES) == 2 * jnp.tanh(ONES)).all()
    assert (activation(ONES) == jnp.tanh(ONES)).all()


# -- time


@pytest.mark.parametrize("per_step", [False, True])
def test_padding_leaves_the_state_and_the_masks_of_other_steps(per_step: bool) -> None:
    lengths = jnp.array([6, 1, 3, 5])

    def cell(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
        assert hooks.recurrent is not None
        return hooks.recurrent(carry, 0) + x

    settled = plan(recurrent_rate=RATE, hidden_zoneout=RATE, per_step=per_step)
    x = jnp.arange(ONES.size, dtype=jnp.float32).reshape(ONES.shape)
    _, whole = run(settled, cell, ZEROS, x, time_axis=1)
    final, outputs = run(settled, cell, ZEROS, x, time_axis=1, lengths=lengths)
    for row, length in enumerate(np.asarray(lengths)):
        np.testing.assert_array_equal(outputs[row, :length], whole[row, :length])
        np.testing.assert_array_equal(final[row], whole[row, length - 1])


@pytest.mark.parametrize("lengths", [None, [6, 1, 3, 5]], ids=["full", "padded"])
def test_flipped(lengths: list[int] | None) -> None:
    x = np.arange(TIME * BATCH * 2).reshape(TIME, BATCH, 2)
    found = _time.flipped(jnp.asarray(x), None if lengths is None else jnp.asarray(lengths))
    for row, length in enumerate(lengths or [TIME] * BATCH):
        np.testing.assert_array_equal(found[:length, row], x[:length, row][::-1])


def test_a_reversed_run_is_a_run_of_the_reversed_sequence() -> None:
    x, lengths = jnp.arange(BATCH * TIME * 1.0).reshape(BATCH, TIME, 1), jnp.array([6, 1, 3, 5])
    start = jnp.zeros((BATCH, 1))

    def cell(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
        return 0.5 * carry + x

    final, outputs = run(
        plan(), cell, start, x, time_axis=1, lengths=lengths, reverse=True, keep_order=True
    )
    for row, length in enumerate(np.asarray(lengths)):
        one, ones = run(plan(), cell, start[:1], x[row : row + 1, :length][:, ::-1], time_axis=1)
        np.testing.assert_array_equal(final[row], one[0])
        np.testing.assert_array_equal(outputs[row, :length], ones[0, ::-1])


# -- bad input


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), "half"])
@pytest.mark.parametrize("name", Rates._fields)
def test_rates_are_checked_by_name(name: str, rate: Any) -> None:
    layer = types.SimpleNamespace(**{**Rates()._asdict(), name: rate})
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must"):
        Rates.of(layer)


def test_rates_that_a_cell_has_no_place_for() -> None:
    for family in (GRU, recurrent.MGU, SIMPLE):
        with pytest.raises(
            ValueError, match=f"a {family.name} cell has one state. Pass hidden_zoneout"
        ):
            Rates(cell_zoneout=0.5).checked(family)
    with pytest.raises(ValueError, match="no memory that a candidate is added to"):
        Rates(candidate_rate=0.5).checked(SIMPLE)
    with pytest.raises(ValueError, match=r"rates names zoneout\. There are input_rate"):
        Rates().replaced({"zoneout": 0.5})


def test_dropout_between_layers_needs_two() -> None:
    with pytest.raises(
        ValueError,
        match=r"dropout=0.5 acts between layers, and there is one layer\. Pass output_rate",
    ):
        recurrent.check_between(0.5, 1)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        recurrent.check_between(0.0, 0)
    with pytest.raises(ValueError, match="dropout must lie in"):
        recurrent.check_between(2.0, 2)
    assert recurrent.check_between(0.0, 1) == 0


def test_lengths_are_checked() -> None:
    for lengths in (
        jnp.ones(BATCH),
        jnp.ones(BATCH - 1, jnp.int32),
        jnp.ones((BATCH, 1), jnp.int32),
    ):
        with pytest.raises(ValueError, match=r"seq_lengths must be integers.* of shape \(4,\)"):
            run(plan(), counting, ZEROS, ONES, time_axis=1, lengths=lengths)


@pytest.mark.parametrize("length", [-1, TIME + 1])
def test_lengths_lie_within_the_sequence(length: int) -> None:
    lengths = np.array([0, TIME, length, 1])
    with pytest.raises(ValueError, match=rf"must lie in \[0, 6\], .* inputs, got {length}\."):
        run(plan(), counting, ZEROS, ONES, time_axis=1, lengths=lengths)


def test_no_step_leaves_the_first_state() -> None:
    start = ZEROS + 7
    lengths = np.array([6, 0, 1, 0])
    final, _ = run(plan(), counting, start, ONES, time_axis=1, lengths=lengths)
    np.testing.assert_array_equal(final[:, 0], 7 + lengths)
    none = np.zeros(BATCH, int)
    final, outputs = run(plan(), counting, start, ONES[:, :0], time_axis=1, lengths=none)
    np.testing.assert_array_equal(final, start)
    assert outputs.shape == (BATCH, 0, UNITS)


def test_outputs_of_a_reversed_run_come_in_its_order() -> None:
    final, outputs = run(plan(), counting, ZEROS, ONES, time_axis=1, reverse=True)
    np.testing.assert_array_equal(outputs[0, :, 0], np.arange(1, TIME + 1))
    _, kept = run(plan(), counting, ZEROS, ONES, time_axis=1, reverse=True, keep_order=True)
    np.testing.assert_array_equal(kept, outputs[:, ::-1])
    np.testing.assert_array_equal(final, outputs[:, -1])


def test_a_layout_of_steps() -> None:
    """The axis of time is taken out. It is not divided, nor are the last axes, of features."""
    p = jax.sharding.PartitionSpec
    assert recurrent.spec_of_steps(None, 3, 1, 1) is None
    assert recurrent.spec_of_steps(p("a"), 3, 1, 1) == p("a", None)
    assert recurrent.spec_of_steps(p(None, "a"), 3, 0, 1) == p("a", None)
    assert recurrent.spec_of_steps(p("a", "b"), 5, 2, 2) == p("a", "b", None, None)
    for spec, ndim, features in (
        (p(None, "a"), 3, 1),
        (p(None, None, "a"), 3, 1),
        (p(None, None, "a"), 4, 2),
        (p(None, None, None, "a"), 4, 2),
    ):
        with pytest.raises(ValueError, match="divides time or features"):
            recurrent.spec_of_steps(spec, ndim, 1, features)


@pytest.mark.parametrize("features", [(3,), (3, 2)], ids=["vectors", "maps"])
def test_a_whole_first_state_is_divided_as_the_sequences_are(features: tuple[int, ...]) -> None:
    """On explicit meshes, where a loop keeps the layout of its state."""
    mesh = jax.make_mesh((4, 2), ("d", "e"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    p = jax.sharding.PartitionSpec
    x = np.ones((4, 2, TIME, *features), np.float32)
    start = np.zeros((4, 2, *features), np.float32)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, p("d", "e")))
        final, outputs = jax.jit(
            lambda start, x: run(
                plan(), counting, start, x, time_axis=2, feature_axes=len(features)
            )
        )(start, placed)
    np.testing.assert_array_equal(final, start + TIME)
    assert final.sharding.spec[:2] == outputs.sharding.spec[:2] == ("d", "e")


# -- arguments of layers

JOINT = Family("Joint", (), has_cell=False)


def test_the_call_comes_before_the_layer() -> None:
    for module, call, expected in ((True, None, True), (True, False, False), (False, True, True)):
        assert recurrent.flag(call, module, "reverse") is expected
    for module, call in ((1, None), (True, 0), ("no", True)):
        with pytest.raises(TypeError, match="reverse must be True or False"):
            recurrent.flag(call, module, "reverse")  # type: ignore[arg-type]


def test_settings_of_a_layer() -> None:
    for unroll in (True, False, 1, 5):
        recurrent.check_settings(types.SimpleNamespace(unroll=unroll, per_gate=True), "per_gate")
    with pytest.raises(ValueError, match="unroll must be at least 1, got 0"):
        recurrent.check_settings(types.SimpleNamespace(unroll=0))
    with pytest.raises(TypeError, match="per_gate must be True or False, got 1"):
        recurrent.check_settings(types.SimpleNamespace(unroll=1, per_gate=1), "per_gate")


def test_inputs_have_the_features_of_the_cell() -> None:
    cell = types.SimpleNamespace(in_features=UNITS)
    for own in (cell, types.SimpleNamespace(), types.SimpleNamespace(in_features=(3, 4))):
        assert recurrent.checked_inputs(ONES, own) is ONES
    number = jnp.float32(0)
    assert recurrent.checked_inputs(number, cell) is number  # has no axis, which is said later
    with pytest.raises(ValueError, match=r"in_features=16 features, .* got shape \(4, 6, 15\)"):
        recurrent.checked_inputs(ONES[..., :15], cell)
    with pytest.raises(TypeError, match="RNN takes an array inputs of floating numbers, got 'x'"):
        recurrent.checked_inputs("x", cell)


def test_a_first_state_is_like_that_of_the_cell() -> None:
    shape, pair = ZEROS.shape, (ZEROS, ZEROS)
    assert recurrent.checked_carry(ZEROS, GRU, shape) is ZEROS
    assert recurrent.checked_carry([*pair], LSTM, shape) == pair
    tree = {"a": ZEROS, "b": (np.ones(3, int),)}
    assert recurrent.checked_carry(tree, JOINT, shape) == tree
    for wrong in (ZEROS, (ZEROS,), (*pair, ZEROS), None, {"c": ZEROS, "h": ZEROS}):
        with pytest.raises(TypeError, match=r"a pair of arrays .*, of shape \(4, 16\), got"):
            recurrent.checked_carry(wrong, LSTM, shape)
    for wrong in (ZEROS[:3], jnp.zeros(shape, int)):
        with pytest.raises(ValueError, match=r"initial_carry must be an array of floating numbers"):
            recurrent.checked_carry(wrong, GRU, shape)
        with pytest.raises(ValueError, match="initial_carry must be a pair of arrays"):
            recurrent.checked_carry((ZEROS, wrong), LSTM, shape)
    for family, wrong in ((GRU, None), (JOINT, None), (JOINT, (ZEROS, "x")), (LSTM, (ZEROS, None))):
        with pytest.raises(TypeError, match="initial_carry must be an array of numbers"):
            recurrent.checked_carry(wrong, family, shape)


def test_first_states_of_a_stack_are_those_of_its_directions() -> None:
    layers = [["forward", "backward"]] * 3
    assert _arguments.checked_carries(None, layers) == [[None, None]] * 3
    states = [(ZEROS, ZEROS)] * 3
    assert _arguments.checked_carries(states, layers) is states
    for wrong in (states[:2], [(ZEROS,)] * 3, [ZEROS] * 3, ZEROS, {0: states[0]}):
        with pytest.raises(TypeError, match=r"for each of the 3 layers a tuple of .* 2 dir"):
            _arguments.checked_carries(wrong, layers)


def test_rates_of_a_call_and_of_a_layer() -> None:
    rates = Rates(input_rate=0.1, output_rate=0.2, weight_rate=1.0)
    assert rates.replaced(None) == rates.replaced({}) == rates
    assert rates.replaced({"output_rate": 0}) == rates._replace(output_rate=0.0)
    with pytest.raises(ValueError, match=r"^rates\['input_rate'\] must lie in \[0, 1\], got 1.5"):
        rates.replaced({"input_rate": 1.5})
    with pytest.raises(ValueError, match=r"a recurrent layer takes one input_rate, but .* shape"):
        Rates.of(types.SimpleNamespace(**rates._replace(input_rate=np.full(2, 0.5))._asdict()))
    with pytest.raises(TypeError, match="rates must be a dict of rates by name"):
        rates.replaced([("input_rate", 0.1)])
    edges = [
        (each.input_rate, each.output_rate) for each in (rates.of_layer(i, 3) for i in range(3))
    ]
    assert edges == [(0.1, 0.0), (0.0, 0.0), (0.0, 0.2)]
    assert rates.of_layer(0, 1) == rates
    assert Rates().all_zero()
    assert Rates().all_zero(0.0)
    assert not Rates().all_zero(0.1)
    assert not rates.all_zero()
    assert rates.first_drawn() == 0.1
    assert Rates(weight_rate=1.0).first_drawn(0.3) == 0.3
    assert Rates(weight_rate=1.0).first_drawn(1.0, 0.0) == 0.0


def test_an_unknown_cell_takes_rates_around_it() -> None:
    around = Rates(input_rate=0.1, output_rate=0.2)
    assert around.checked(JOINT) == around
    with pytest.raises(ValueError, match=r"input_rate=0\.1 acts inside the cell with per_gate=T"):
        around.checked(JOINT, per_gate=True)
    assert around._replace(input_rate=0.0).checked(JOINT, per_gate=True).output_rate == 0.2
    for name in set(Rates._fields) - {"input_rate", "output_rate"}:
        with pytest.raises(ValueError, match=f"{name}=0.5 acts inside the cell, and how a Joint"):
            Rates(**{name: 0.5}).checked(JOINT)
        known = LSTM if name == "cell_zoneout" else GRU
        assert Rates(**{name: 0.5}).checked(known) == Rates(**{name: 0.5})


def test_families_of_cells() -> None:
    class Cell:
        def initialize_carry(self) -> None: ...

        def __call__(self) -> None: ...

    class Kind(Cell): ...

    kinds = {Kind: GRU}
    assert recurrent.family_of(Kind(), kinds) is GRU
    assert recurrent.family_of(Cell(), kinds) == Family("Cell", (), has_cell=False)
    for wrong, got in ((Kind, "the class Kind: make one"), (3, "int"), (len, "builtin")):
        with pytest.raises(TypeError, match=f"cell, such as an Kind, got {got}"):
            recurrent.family_of(wrong, kinds)
