"""One loop over time for all rates: cells with variables of their own, cells of any kind, empty
sequences, and divided ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop.nnx
from jaxdrop import mc
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import Site
from jaxdrop.nnx import RNN, StackedRNN
from tests.catalogue import KEY, RATE
from tests.compilation import quick

FEATURES, UNITS = 4, 6
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, FEATURES)), jnp.float32)

pytestmark = pytest.mark.usefixtures("relaxed")


def close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected
    )


def gru(seed: int = 0) -> nnx.GRUCell:
    return nnx.GRUCell(FEATURES, UNITS, rngs=nnx.Rngs(seed))


def stack(**options: Any) -> StackedRNN:
    return StackedRNN(nnx.SimpleCell, FEATURES, UNITS, num_layers=2, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "rnn",
    [stack(dropout=RATE), RNN(gru(), input_rate=RATE)],
    ids=["between", "input"],
)
def test_a_key_in_the_call(rnn: Any) -> None:
    """The layer is a constant of functions that JAX transforms, also where nothing is dropped
    inside of a cell.
    """
    keys = mc.keys(KEY, 3)
    samples = mc.predict(lambda key: rnn(X, rngs=key), keys)
    assert samples.std(0).max() > 0
    value, gradient = quick(jax.value_and_grad(lambda x: (rnn(x, rngs=keys[1]) ** 2).sum()))(X)
    close(value, (samples[1] ** 2).sum())
    assert jnp.isfinite(gradient).all()
    jax.eval_shape(lambda x: rnn(x, deterministic=True), X)


# -- cells with variables


class Noisy(nnx.OptimizedLSTMCell):
    """A cell that drops from its input by itself, and counts its steps."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(FEATURES, UNITS, rngs=rngs)
        self.drop = jaxdrop.nnx.Dropout(RATE, rng_collection="noise", rngs=rngs)
        self.steps = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, carry: Any, inputs: jax.Array) -> Any:
        self.steps[...] += 1
        return super().__call__(carry, self.drop(inputs))


def noisy() -> Noisy:
    return Noisy(nnx.Rngs(0, noise=1))


@pytest.mark.parametrize("broadcast", [None, "noise"])
def test_variables_of_a_cell_are_those_of_flax(broadcast: str | None) -> None:
    ours, theirs = noisy(), noisy()
    for _ in range(2):
        close(RNN(ours, broadcast_rngs=broadcast)(X), nnx.RNN(theirs, broadcast_rngs=broadcast)(X))
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.state(ours, nnx.RngCount, nnx.Param),
        nnx.state(theirs, nnx.RngCount, nnx.Param),
    )
    assert ours.steps[...] == theirs.steps[...] == 2 * X.shape[1]


def test_variables_of_a_cell_in_which_something_is_dropped() -> None:
    rates = dict.fromkeys(
        ("input_rate", "recurrent_rate", "candidate_rate", "hidden_zoneout", "weight_rate"), RATE
    )
    cell = noisy()
    kernel = cell.dense_h.kernel[...]
    rnn = RNN(cell, **rates, per_gate=True)
    run = nnx.jit(lambda rnn: rnn(X, rngs=KEY))
    first, second = run(rnn), run(rnn)
    assert not np.array_equal(first, second)
    assert cell.steps[...] == cell.drop.rngs.count[...] == 2 * X.shape[1]
    np.testing.assert_array_equal(cell.dense_h.kernel[...], kernel)
    assert isinstance(cell.dense_h, nnx.Linear)


class Calling(nnx.OptimizedLSTMCell):
    """A cell with a call of its own, which calls that of Flax."""

    def __call__(self, carry: Any, inputs: jax.Array) -> Any:
        return super().__call__(carry, inputs)


def test_something_is_dropped_inside_of_a_subclass_too() -> None:
    rates = dict.fromkeys(("input_rate", "recurrent_rate", "candidate_rate"), RATE)
    ours, theirs = (
        RNN(kind(FEATURES, UNITS, rngs=nnx.Rngs(0)), **rates, per_gate=True)
        for kind in (Calling, nnx.OptimizedLSTMCell)
    )
    found, expected = quick(lambda x: (ours(x, rngs=KEY), theirs(x, rngs=KEY)))(X)
    np.testing.assert_array_equal(found, expected)
    assert not np.allclose(found, ours(X, deterministic=True))


# -- cells of any kind


class Joint(nnx.Module):
    """A cell that is none of Flax's, whose output is not its state."""

    num_feature_axes = 1

    def __init__(self, rngs: nnx.Rngs, wrap: Callable[[jax.Array], Any] = jnp.square) -> None:
        self.dense = nnx.Linear(FEATURES + UNITS, UNITS, rngs=rngs)
        self.wrap = wrap

    def __call__(self, carry: jax.Array, x: jax.Array) -> Any:
        new = jnp.tanh(self.dense(jnp.concatenate([x, carry], -1)))
        return new, self.wrap(new)

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any) -> jax.Array:
        return jnp.zeros((*input_shape[:-1], UNITS))


def test_any_cell_takes_rates_around_it() -> None:
    cell = Joint(nnx.Rngs(0))
    rnn = RNN(cell, input_rate=RATE, output_rate=RATE, return_carry=True)

    def dropped(site: Site, x: jax.Array) -> jax.Array:
        return recurrent.over_time(
            recurrent.fold(KEY, site), x, RATE, locked=True, deterministic=False, time_axis=1
        )

    carry, y = nnx.RNN(cell, return_carry=True)(dropped(Site.INPUT, X))
    close(rnn(X, rngs=KEY), (carry, dropped(Site.OUTPUT, y)))
    for name in (
        "recurrent_rate",
        "candidate_rate",
        "cell_zoneout",
        "hidden_zoneout",
        "weight_rate",
    ):
        with pytest.raises(
            ValueError,
            match=rf"^{name}=0.5 acts inside the cell, and how a Joint is made is not known",
        ):
            RNN(cell, **{name: 0.5})
    with pytest.raises(
        ValueError, match=r"^input_rate=0.5 acts inside the cell with per_gate=True"
    ):
        RNN(cell, input_rate=0.5, per_gate=True)


def test_outputs_that_are_a_tree() -> None:
    cell = Joint(nnx.Rngs(0), wrap=lambda new: {"new": new})
    options = {"reverse": True, "keep_order": True, "time_major": True}
    close(RNN(cell)(X, **options), nnx.RNN(cell)(X, **options))
    with pytest.raises(
        TypeError, match="output_rate drops from one array, and the cell puts out a dict"
    ):
        RNN(cell, output_rate=RATE)(X, rngs=KEY)


# -- empty sequences, and shapes that Flax does not take


def empty(rates: dict[str, float], off: bool, zero: bool) -> None:
    cell = nnx.LSTMCell(FEATURES, UNITS, rngs=nnx.Rngs(0))
    start = tuple(jnp.full((2, 3, UNITS), value) for value in (0.5, -0.5))
    rnn = RNN(cell, **rates, return_carry=True)
    x, lengths = jnp.stack([X, -X]), jnp.array([[5, 0, 3], [0, 1, 2]])
    x, lengths = (x[..., :0, :], jnp.zeros_like(lengths)) if zero else (x, lengths)
    run = quick(
        lambda x, lengths: rnn(
            x, initial_carry=start, seq_lengths=lengths, deterministic=off, rngs=KEY
        )
    )
    carry, y = run(x, lengths)
    assert y.shape == (*x.shape[:-1], UNITS)
    for end, first in zip(carry, start, strict=True):
        np.testing.assert_array_equal(end[lengths == 0], first[lengths == 0])
        assert zero or not np.isclose(end[lengths > 0], first[lengths > 0]).any()


@pytest.mark.parametrize("zero", [False, True], ids=["of some", "of all"])
def test_a_sequence_of_length_0_keeps_its_state(zero: bool) -> None:
    """In training and in evaluation, whatever is dropped."""
    for rates, off in (
        ({}, False),
        ({"input_rate": RATE, "recurrent_rate": RATE}, False),
        ({"cell_zoneout": RATE}, True),
    ):
        empty(rates, off, zero)


def test_one_sequence_without_a_batch() -> None:
    rnn = RNN(gru(), recurrent_rate=RATE, input_rate=RATE, return_carry=True, reverse=True)
    run = quick(lambda x, lengths=None: rnn(x, rngs=KEY, seq_lengths=lengths, keep_order=True))
    carry, y = run(X[0], jnp.array(2))
    expected, outputs = run(X[0, :2])
    close((carry, y[:2]), (expected, outputs))


# -- devices


def test_keys_divided_over_devices() -> None:
    """The state before the first step is made to vary as the keys do."""
    mesh, spec = (
        jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Auto,)),
        PartitionSpec("samples"),
    )
    rnn = RNN(gru(), recurrent_rate=RATE)
    keys = jax.random.split(KEY, 8)
    samples = jax.vmap(lambda key: rnn(X, rngs=key))
    close(
        quick(jax.shard_map(samples, mesh=mesh, in_specs=spec, out_specs=spec))(keys),
        quick(samples)(keys),
    )


def test_sequences_divided_on_an_explicit_mesh() -> None:
    rnn = RNN(gru(), recurrent_rate=RATE, hidden_zoneout=RATE, return_carry=True)
    x, lengths = jnp.resize(X, (8, 5, FEATURES)), jnp.arange(8) % 6
    graph, state = nnx.split(rnn)
    run = quick(
        lambda state, *args: nnx.merge(graph, state)(
            args[0], rngs=KEY, seq_lengths=args[1], reverse=True
        )
    )
    expected = jax.device_get(run(state, x, lengths))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        divided = [
            jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch"))) for a in (x, lengths)
        ]
        close(
            jax.device_get(
                run(jax.device_put(state, NamedSharding(mesh, PartitionSpec())), *divided)
            ),
            expected,
        )


# -- bad input


def test_what_is_no_cell() -> None:
    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    for cell, got in (
        (nnx.GRUCell, "the class GRUCell: make one"),
        (linear, "Linear"),
        (None, "NoneType"),
    ):
        with pytest.raises(
            TypeError, match=f"cell must be a recurrent cell, such as an LSTMCell, got {got}"
        ):
            RNN(cell)
    for lengths in ([5, 6, 0], jnp.array([5, -1, 0])):
        with pytest.raises(
            ValueError,
            match=r"seq_lengths must lie in \[0, 5\], the number of steps of inputs, got (6|-1)",
        ):
            RNN(gru())(X, seq_lengths=lengths)
    with pytest.raises(
        ValueError, match=r"inputs must have an axis of time and features, got shape \(4,\)"
    ):
        RNN(gru())(X[0, 0])
