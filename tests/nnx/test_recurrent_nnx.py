"""Recurrent layers against Flax, Keras and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import LSTM, Plan, Rates, Site
from jaxdrop.nnx import RNN, StackedRNN
from tests.catalogue import KEY, RATE
from tests.oracles import require

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
X = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)), jnp.float32)
LENGTHS = jnp.array([5, 2, 3])
CELLS = (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)

pytestmark = pytest.mark.usefixtures("relaxed")
each_cell = pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)


def cell_of(kind: Callable[..., Any]) -> nnx.RNNCellBase:
    """A cell whose biases are not 0."""
    cell = kind(FEATURES, UNITS, rngs=nnx.Rngs(0))
    params = nnx.state(cell, nnx.Param)
    nnx.update(
        cell, jax.tree.map(lambda w: jnp.linspace(-0.5, 0.5, w.size) if w.ndim == 1 else w, params)
    )
    return cell


def all_rates(cell: nnx.RNNCellBase) -> dict[str, float]:
    rates = dict.fromkeys(
        ("input_rate", "recurrent_rate", "output_rate", "hidden_zoneout", "weight_rate"), RATE
    )
    if not isinstance(cell, nnx.SimpleCell):
        rates["candidate_rate"] = RATE
    return rates | (
        {"cell_zoneout": 0.5} if isinstance(cell, (nnx.LSTMCell, nnx.OptimizedLSTMCell)) else {}
    )


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-5, atol=2e-6)


def mask(site: Site, units: int, gate: int = 0, key: jax.Array = KEY) -> np.ndarray:
    """A mask, times the scale: what the layer multiplies with."""
    rates = Rates(input_rate=RATE, recurrent_rate=RATE)
    hooks = Plan(LSTM, rates, key, True, False, False).hooks(jnp.int32(0))
    drop = hooks.input if site is Site.INPUT else hooks.recurrent
    assert drop is not None
    return np.asarray(drop(jnp.ones((BATCH, units)), gate))


# -- against Flax


@pytest.mark.sweep(keep=2)
@each_cell
def test_without_dropout_it_is_flax(kind: Callable[..., Any]) -> None:
    cell = cell_of(kind)
    plain = nnx.RNN(cell, return_carry=True)
    evaluated = RNN(
        cell,
        **(all_rates(cell) | dict.fromkeys(("cell_zoneout", "hidden_zoneout"), 0.0)),
        return_carry=True,
    )
    evaluated.eval()
    options = {"seq_lengths": LENGTHS, "reverse": True, "keep_order": True}
    expected, *found = nnx.jit(lambda layers: [layer(X, **options) for layer in layers])(
        [plain, RNN(cell, return_carry=True), evaluated]
    )
    for one in found:
        jax.tree.map(np.testing.assert_array_equal, one, expected)


@pytest.mark.sweep(keep=2)
@each_cell
def test_own_loop_is_that_of_flax(kind: Callable[..., Any]) -> None:
    """At rates so small that nothing is dropped, time first, and at steps that count."""
    cell = cell_of(kind)
    options = {
        "seq_lengths": LENGTHS,
        "reverse": True,
        "keep_order": True,
        "return_carry": True,
        "time_major": True,
    }
    x = X.swapaxes(0, 1)
    rnn = RNN(cell, **dict.fromkeys(all_rates(cell), 1e-9), per_gate=True)
    (carry, y), (ours, outputs) = nnx.jit(
        lambda flax, rnn: (flax(x, **options), rnn(x, **options, rngs=KEY))
    )(nnx.RNN(cell), rnn)
    jax.tree.map(close, ours, carry)
    valid = np.arange(TIME)[:, None, None] < np.asarray(LENGTHS)[None, :, None]
    close(np.where(valid, outputs, 0), np.where(valid, y, 0))


def test_both_lstm_cells_have_the_same_masks() -> None:
    fused, single = cell_of(nnx.OptimizedLSTMCell), cell_of(nnx.LSTMCell)
    for side in "ih":
        layer = getattr(fused, f"dense_{side}")
        for gate, letter in enumerate("ifgo"):
            own = getattr(single, "if_" if side + letter == "if" else side + letter)
            own.kernel[...] = jnp.split(layer.kernel[...], 4, -1)[gate]
            if own.bias is not None:
                own.bias[...] = jnp.split(layer.bias[...], 4)[gate]
    options = all_rates(fused) | {"per_gate": True}
    close(RNN(fused, **options)(X, rngs=KEY), RNN(single, **options)(X, rngs=KEY))


def test_weight_drop_is_one_mask_for_all_steps_and_sequences() -> None:
    cell = cell_of(nnx.OptimizedLSTMCell)
    dropped = nnx.clone(cell)
    plan = Plan(LSTM, Rates(weight_rate=RATE), KEY, False, False, False)
    kernels = [
        plan.weight(kernel, gate)
        for gate, kernel in enumerate(jnp.split(cell.dense_h.kernel[...], 4, -1))
    ]
    dropped.dense_h.kernel[...] = jnp.concatenate(kernels, -1)
    zeros = np.mean(np.asarray(dropped.dense_h.kernel[...]) == 0)
    assert 0.1 < zeros < 0.6
    close(RNN(cell, weight_rate=RATE)(X, rngs=KEY), nnx.RNN(dropped)(X))
    assert (cell.dense_h.kernel[...] != 0).all()


def test_bidirectional_of_flax() -> None:
    """Its directions have masks of their own, and its stream for carries does not make masks."""
    cell = cell_of(nnx.GRUCell)
    rates = {"recurrent_rate": RATE, "output_rate": RATE}

    def both(seed: int) -> jax.Array:
        layers = [RNN(cell, **rates, rngs=nnx.Rngs(seed)) for _ in range(2)]
        return nnx.Bidirectional(*layers)(X, seq_lengths=LENGTHS)

    forward = RNN(cell, **rates, rngs=nnx.Rngs(3))(X)
    np.testing.assert_array_equal(both(3)[0, :, :UNITS], forward[0])
    assert not np.array_equal(both(3), both(4))
    backward = both(3)[..., UNITS:]
    assert not np.array_equal(np.asarray(backward)[0] == 0, np.asarray(forward)[0] == 0)


def test_directions_with_the_same_key() -> None:
    rnn = RNN(cell_of(nnx.GRUCell), output_rate=RATE)
    forward, backward = (
        np.asarray(rnn(X, rngs=KEY, reverse=reverse)) == 0 for reverse in (False, True)
    )
    assert not np.array_equal(forward, backward)


# -- against others


def flat(cell: Any) -> tuple[list[str], list[Any]]:
    leaves, _ = jax.tree.flatten_with_path(nnx.to_pure_dict(nnx.state(cell, nnx.Param)))
    return ["/".join(str(key.key) for key in path) for path, _ in leaves], [
        leaf for _, leaf in leaves
    ]


def ours(rnn: Callable[..., jax.Array], cell: Any, x: jax.Array) -> tuple[Any, Any, Any]:
    """The outputs, and the gradients of a sum of them with weights: of the parameters and of the
    input.
    """

    @nnx.jit
    def run(rnn: Any, x: jax.Array) -> Any:
        weigh = jnp.cos(jnp.arange(BATCH * TIME)).reshape(BATCH, TIME, 1)
        return rnn(x, rngs=KEY), nnx.grad(
            lambda rnn, x: (rnn(x, rngs=KEY) * weigh).sum(), argnums=(0, 1)
        )(rnn, x)

    y, (grads, grad_x) = run(rnn, x)
    return y, nnx.to_pure_dict(grads)["cell"], grad_x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    "rates", [("input_rate",), ("input_rate", "recurrent_rate")], ids=["tied", "untied"]
)
def test_keras(name: str, rates: tuple[str, ...]) -> None:
    """Keras has one mask for all gates, but one for each as soon as there is
    `recurrent_dropout`.
    """
    keras = require("keras")
    order = {"LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}[name]  # Keras: i, f, c, o and z, r, h
    cell = cell_of({"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell}[name])
    per_gate = len(rates) > 1
    theirs = getattr(keras.layers, name)(
        UNITS,
        return_sequences=True,
        dropout=RATE,
        recurrent_dropout=RATE * per_gate,
        seed=0,
        unroll=True,
    )
    theirs.build(X.shape)
    count = len(order)

    def by_gate(w: Any) -> Any:
        parts = jnp.split(w, count, -1)
        return jnp.concatenate([parts[gate] for gate in order], -1)

    bias = {"LSTM": cell.dense_h.bias, "GRU": cell.dense_i.bias}[name][...]
    biases = by_gate(bias) if name == "LSTM" else jnp.stack([by_gate(bias), jnp.zeros_like(bias)])
    values = [by_gate(cell.dense_i.kernel[...]), by_gate(cell.dense_h.kernel[...]), biases]
    if per_gate:
        inputs, states = (
            [mask(site, n, gate) for gate in order]
            for site, n in ((Site.INPUT, FEATURES), (Site.RECURRENT, UNITS))
        )
    else:
        key = recurrent.fold(KEY, Site.INPUT)
        rows = recurrent.over_time(
            key, jnp.ones((1, BATCH, FEATURES)), RATE, locked=True, deterministic=False
        )
        inputs, states = np.asarray(rows[0]), None
    object.__setattr__(theirs.cell, "get_dropout_mask", lambda _: inputs)
    object.__setattr__(theirs.cell, "get_recurrent_dropout_mask", lambda _: states)
    weigh = jnp.cos(jnp.arange(BATCH * TIME)).reshape(BATCH, TIME, 1)

    @jax.jit
    def run(values: Any, x: jax.Array) -> Any:
        def call(values: Any, x: jax.Array) -> Any:
            return theirs.stateless_call(
                values, [v.value for v in theirs.non_trainable_variables], x, training=True
            )[0]

        return call(values, x), jax.grad(
            lambda values, x: (call(values, x) * weigh).sum(), argnums=(0, 1)
        )(values, x)

    expected, (grads, grad_x) = run(values, X)
    y, own, own_x = ours(RNN(cell, **dict.fromkeys(rates, RATE), per_gate=per_gate), cell, X)
    close(y, expected)
    close(own_x, grad_x)
    close(by_gate(own["dense_i"]["kernel"]), grads[0])
    close(by_gate(own["dense_h"]["kernel"]), grads[1])
    close(
        by_gate(own["dense_h" if name == "LSTM" else "dense_i"]["bias"]),
        grads[2] if name == "LSTM" else grads[2][0],
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_pytorch_stack(bidirectional: bool) -> None:
    """Layer for layer, with our mask between the layers."""
    torch = require("torch")
    directions = 2 if bidirectional else 1
    stack = StackedRNN(
        nnx.OptimizedLSTMCell,
        FEATURES,
        UNITS,
        num_layers=2,
        dropout=RATE,
        bidirectional=bidirectional,
        rngs=nnx.Rngs(0),
    )
    theirs = torch.nn.LSTM(
        FEATURES, UNITS, num_layers=2, batch_first=True, bidirectional=bidirectional
    )
    layers = []
    for number, layer in enumerate(stack.layers):
        one = torch.nn.LSTM(
            FEATURES if number == 0 else UNITS * directions,
            UNITS,
            batch_first=True,
            bidirectional=bidirectional,
        )
        for way, rnn in enumerate(layer):
            end = "_reverse" if way else ""
            for name, w in (
                ("weight_ih", rnn.cell.dense_i.kernel[...].T),
                ("weight_hh", rnn.cell.dense_h.kernel[...].T),
            ):
                getattr(one, f"{name}_l0{end}").data = torch.tensor(np.asarray(w))
                getattr(theirs, f"{name}_l{number}{end}").data = torch.tensor(np.asarray(w))
            for lstm, at in ((one, 0), (theirs, number)):
                for name in ("bias_ih", "bias_hh"):
                    getattr(lstm, f"{name}_l{at}{end}").data.zero_()
        layers.append(one)
    between = recurrent.fold(KEY, 1, Site.BETWEEN)
    shape = jnp.ones((TIME, BATCH, UNITS * directions))
    kept = np.asarray(
        recurrent.over_time(between, shape, RATE, locked=False, deterministic=False)
    ).swapaxes(0, 1)
    assert len({kept[:, t].tobytes() for t in range(TIME)}) == TIME
    x = torch.tensor(np.asarray(X), requires_grad=True)
    y = layers[1](layers[0](x)[0] * torch.tensor(kept))[0]
    y.square().sum().backward()
    gradient = nnx.grad(lambda stack, x: (stack(x, rngs=KEY) ** 2).sum(), argnums=1)
    found, grad = nnx.jit(lambda stack, x: (stack(x, rngs=KEY), gradient(stack, x)))(stack, X)
    close(found, y.detach())
    close(grad, x.grad)
    stack.eval()
    (carry, evaluated), (off, (h, c)) = (
        stack(X, return_carry=True),
        theirs(torch.tensor(np.asarray(X))),
    )
    close(evaluated, off.detach())
    flat_carry = [state for layer in carry for state in layer]
    close(np.stack([state[0] for state in flat_carry]), c.detach())
    close(np.stack([state[1] for state in flat_carry]), h.detach())


# -- keys and transformations


def everything(**options: Any) -> RNN:
    cell = cell_of(nnx.OptimizedLSTMCell)
    return RNN(cell, **all_rates(cell), per_gate=True, **options)


def test_each_call_has_its_masks() -> None:
    rnn = RNN(cell_of(nnx.SimpleCell), output_rate=RATE, rngs=nnx.Rngs(0))
    first = rnn(X)
    assert not np.array_equal(first, rnn(X))
    np.testing.assert_array_equal(rnn(X, rngs=KEY), rnn(X, rngs=KEY))
    assert not np.array_equal(rnn(X, rngs=nnx.Rngs(dropout=1)), rnn(X, rngs=nnx.Rngs(dropout=2)))


def test_windows_of_a_sequence_with_the_same_key() -> None:
    """Masks that hold for all steps hold for windows too."""
    rnn = RNN(cell_of(nnx.GRUCell), recurrent_rate=RATE, input_rate=RATE, return_carry=True)
    whole, y = rnn(X, rngs=KEY)
    carry, first = rnn(X[:, :2], rngs=KEY)
    carry, second = rnn(X[:, 2:], rngs=KEY, initial_carry=carry)
    close(carry, whole)
    close(jnp.concatenate([first, second], 1), y)


def test_rates_of_a_call() -> None:
    rnn = RNN(cell_of(nnx.GRUCell), recurrent_rate=0.9)
    expected = RNN(rnn.cell, recurrent_rate=RATE)(X, rngs=KEY)
    scheduled = jax.jit(lambda rate: rnn(X, rngs=KEY, rates={"recurrent_rate": rate}))
    close(scheduled(RATE), expected)
    close(rnn(X, rngs=KEY, rates={"recurrent_rate": jnp.float32(RATE)}), expected)
    assert not np.array_equal(scheduled(0.5), expected)


def test_vmap_over_keys_and_remat() -> None:
    rnn = everything()
    keys = jnp.stack([jax.random.fold_in(KEY, 0), KEY])
    graph, state = nnx.split(rnn)

    def run(state: Any, key: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(X, rngs=key)

    def loss(state: Any, wrap: Callable[..., Any]) -> tuple[jax.Array, jax.Array]:
        y = wrap(lambda state: run(state, KEY))(state)
        return (y**2).sum(), y

    (plain, y), (again, _) = (
        jax.jit(jax.grad(lambda state, wrap=wrap: loss(state, wrap), has_aux=True))(state)
        for wrap in (lambda f: f, jax.checkpoint)
    )
    jax.tree.map(close, again, plain)
    other, mapped = jax.jit(jax.vmap(lambda key: run(state, key)))(keys)
    close(mapped, y)
    assert not np.array_equal(other, mapped)


def test_sharded_batch() -> None:
    rnn = everything()
    x = jnp.resize(X, (8, TIME, FEATURES))
    run = jax.jit(lambda x: rnn(x, rngs=KEY))
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("batch",)), PartitionSpec("batch"))
    close(run(jax.device_put(x, sharding)), run(x))


@pytest.mark.parametrize("time_major", [False, True], ids=["batch first", "time first"])
def test_shard_map_with_spec_draws_the_whole_masks(time_major: bool) -> None:
    stack = StackedRNN(
        nnx.OptimizedLSTMCell,
        FEATURES,
        UNITS,
        num_layers=2,
        dropout=RATE,
        **all_rates(cell_of(nnx.OptimizedLSTMCell)),
        per_gate=time_major,
        time_major=time_major,
        rngs=nnx.Rngs(0),
    )
    graph, state = nnx.split(stack)
    x = jnp.resize(X, (TIME, 8, FEATURES) if time_major else (8, TIME, FEATURES))
    spec = PartitionSpec(None, "batch") if time_major else PartitionSpec("batch")

    def run(x: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
        return nnx.merge(graph, state)(x, rngs=KEY, spec=spec)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(lambda x: run(x, spec), mesh=mesh, in_specs=spec, out_specs=spec)
    close(jax.jit(local)(x), jax.jit(run)(x))


@pytest.mark.parametrize("per_gate", [False, True], ids=["tied", "untied"])
@pytest.mark.parametrize("per_step", [False, True], ids=["sequence", "step"])
def test_no_masks_are_stored(per_gate: bool, per_step: bool) -> None:
    """What the backward pass gets of each step are no more numbers than without dropout, and no
    masks.
    """
    cell = cell_of(nnx.OptimizedLSTMCell)
    graph, state = nnx.split(cell)

    def stored(**options: Any) -> list[Any]:
        def run(state: Any, x: jax.Array) -> Any:
            return jax.vjp(
                lambda state, x: RNN(nnx.merge(graph, state), **options)(x, rngs=KEY), state, x
            )[1]

        return [
            leaf
            for leaf in jax.tree.leaves(jax.eval_shape(run, state, X))
            if leaf.size >= TIME * BATCH * FEATURES
        ]

    ours, plain = stored(**all_rates(cell), per_gate=per_gate, per_step=per_step), stored()
    assert {leaf.dtype for leaf in ours} == {np.dtype("float32")}
    assert sum(leaf.size for leaf in ours) <= sum(leaf.size for leaf in plain)


# -- stacks


def test_stack_is_its_layers() -> None:
    rates = {"input_rate": 0.2, "recurrent_rate": RATE, "output_rate": 0.4}
    stack = StackedRNN(
        nnx.GRUCell,
        FEATURES,
        UNITS,
        num_layers=2,
        dropout=RATE,
        locked=True,
        **rates,
        rngs=nnx.Rngs(0),
    )
    first, second = (layer[0].cell for layer in stack.layers)
    y = RNN(first, input_rate=0.2, recurrent_rate=RATE)(
        X, rngs=jax.random.fold_in(KEY, 0), seq_lengths=LENGTHS
    )
    y = recurrent.over_time(
        recurrent.fold(KEY, 1, Site.BETWEEN), y, RATE, locked=True, deterministic=False, time_axis=1
    )
    dropped = np.asarray(y == 0)
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    y = RNN(second, recurrent_rate=RATE, output_rate=0.4)(
        y, rngs=jax.random.fold_in(KEY, 1), seq_lengths=LENGTHS
    )
    close(stack(X, rngs=KEY, seq_lengths=LENGTHS), y)
    first_call = stack(X)
    assert not np.array_equal(first_call, stack(X))
    higher = stack(X, rngs=KEY, rates={"dropout": 0.0, **dict.fromkeys(rates, 0.0)})
    np.testing.assert_array_equal(higher, nnx.RNN(second)(nnx.RNN(first)(X)))


def test_stack_carries_on_and_takes_time_first() -> None:
    stack = StackedRNN(
        nnx.LSTMCell,
        FEATURES,
        UNITS,
        num_layers=2,
        recurrent_rate=RATE,
        time_major=True,
        return_carry=True,
        rngs=nnx.Rngs(0),
    )
    x = X.swapaxes(0, 1)
    whole, y = stack(x, rngs=KEY)
    carry, first = stack(x[:2], rngs=KEY)
    carry, second = stack(x[2:], rngs=KEY, initial_carry=carry)
    jax.tree.map(close, carry, whole)
    close(jnp.concatenate([first, second]), y)


# -- bad input


def test_bad_input() -> None:
    cell = cell_of(nnx.GRUCell)
    with pytest.raises(ValueError, match="recurrent_rate must lie in"):
        RNN(cell, recurrent_rate=1.5)
    with pytest.raises(ValueError, match="a GRU cell has one state"):
        RNN(cell, cell_zoneout=0.5)
    with pytest.raises(ValueError, match="RNN is stochastic here and has no key"):
        RNN(cell, recurrent_rate=0.5)(X)
    with pytest.raises(ValueError, match="divides time or features"):
        RNN(cell, recurrent_rate=0.5)(X, rngs=KEY, spec=PartitionSpec("batch", "time"))
    with pytest.raises(ValueError, match="rates names recurrent"):
        RNN(cell)(X, rates={"recurrent": 0.5})
    with pytest.raises(ValueError, match="acts between layers, and there is one layer"):
        StackedRNN(nnx.GRUCell, FEATURES, UNITS, dropout=0.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="a simple cell has no memory"):
        StackedRNN(nnx.SimpleCell, FEATURES, UNITS, candidate_rate=0.5, rngs=nnx.Rngs(0))
    stack = StackedRNN(nnx.GRUCell, FEATURES, UNITS, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="acts between layers"):
        stack(X, rates={"dropout": 0.5})
