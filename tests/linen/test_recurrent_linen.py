"""Linen's recurrent layers against NNX's, which are held against others, and against Flax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from jaxdrop import linen
from jaxdrop import nnx as of_nnx
from jaxdrop.functional.recurrent import MGU, Plan, Rates
from jaxdrop.linen import RNN, StackedRNN
from tests.catalogue import KEY, RATE
from tests.compilation import quick

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
X = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)), jnp.float32)
LENGTHS = jnp.array([5, 2, 3])
CELLS = {"LSTMCell": "ifgo", "OptimizedLSTMCell": "ifgo", "GRUCell": "rzn", "SimpleCell": " "}

pytestmark = pytest.mark.usefixtures("relaxed")


def cell_of(name: str) -> nnx.RNNCellBase:
    return getattr(nnx, name)(FEATURES, UNITS, rngs=nnx.Rngs(0))


def params_of(cell: Any) -> dict[str, Any]:
    """The parameters of an NNX cell, as Linen has them: a layer for each gate."""
    gates = CELLS[type(cell).__name__].split(" ")[0] or [""]
    params: dict[str, Any] = {}
    for side in "ih":
        for number, gate in enumerate(gates):
            fused = getattr(cell, f"dense_{side}", None)
            layer = fused or getattr(cell, "if_" if side + gate == "if" else side + gate)
            count, place = (len(gates), number) if fused else (1, 0)
            params[side + gate] = {"kernel": jnp.split(layer.kernel[...], count, -1)[place]}
            if layer.bias is not None:
                params[side + gate]["bias"] = jnp.split(layer.bias[...], count)[place]
    if len(gates) == 3:
        params["hn"]["bias"] = jnp.zeros(UNITS)
    return params


def all_rates(name: str) -> dict[str, float]:
    rates = dict.fromkeys(
        ("input_rate", "recurrent_rate", "output_rate", "hidden_zoneout", "weight_rate"), RATE
    )
    rates |= {"candidate_rate": RATE} if name != "SimpleCell" else {}
    return rates | ({"cell_zoneout": 0.5} if "LSTM" in name else {})


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-5, atol=2e-6)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in CELLS), ("OptimizedLSTMCell", {"per_gate": True, "per_step": True})],
)
def test_the_same_key_gives_what_nnx_gives(name: str, options: dict[str, bool]) -> None:
    """Outputs, states and gradients."""
    cell = cell_of(name)
    ours = RNN(getattr(nn, name)(UNITS), **all_rates(name), **options, deterministic=False)
    theirs = of_nnx.RNN(cell, **all_rates(name), **options)
    run = {"seq_lengths": LENGTHS, "reverse": True, "return_carry": True}
    params = {"params": {"cell": params_of(cell)}}

    def value(y: Any) -> jax.Array:
        return sum(
            (leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum()
            for leaf in jax.tree.leaves(y)
        )

    @jax.jit
    def both(params: Any, x: jax.Array) -> Any:
        def mine(x: jax.Array) -> Any:
            return ours.apply(params, x, rng=KEY, **run)

        def other(x: jax.Array) -> Any:
            return theirs(x, rngs=KEY, **run)

        def with_gradient(f: Callable[[jax.Array], Any]) -> Any:
            def valued(x: jax.Array) -> tuple[jax.Array, Any]:
                y = f(x)
                return value(y), y

            return jax.value_and_grad(valued, has_aux=True)(x)

        return [with_gradient(f) for f in (mine, other)]

    mine, other = both(params, X)
    jax.tree.map(close, mine, other)


def test_the_same_key_gives_the_same_stack() -> None:
    options = {"num_layers": 2, "dropout": RATE, "bidirectional": True, **all_rates("GRUCell")}
    theirs = of_nnx.StackedRNN(nnx.GRUCell, FEATURES, UNITS, **options, rngs=nnx.Rngs(0))
    ours = StackedRNN(nn.GRUCell, UNITS, **options, return_carry=True)
    params = {
        f"layers_{number}_{way}": {"cell": params_of(rnn.cell)}
        for number, layer in enumerate(theirs.layers)
        for way, rnn in enumerate(layer)
    }
    shapes = jax.eval_shape(lambda: ours.init(KEY, X, deterministic=False))
    assert jax.tree.map(jnp.shape, shapes["params"]) == jax.tree.map(jnp.shape, params)
    mine, other = jax.jit(
        lambda params: (
            ours.apply({"params": params}, X, rng=KEY, deterministic=False, seq_lengths=LENGTHS),
            theirs(X, rngs=KEY, seq_lengths=LENGTHS, return_carry=True),
        )
    )(params)
    jax.tree.map(close, mine, other)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("cell", "shape", "options"),
    [
        (
            nn.LSTMCell(UNITS),
            X.shape,
            {"reverse": True, "keep_order": True, "seq_lengths": LENGTHS},
        ),
        (
            nn.OptimizedLSTMCell(UNITS),
            X.shape,
            {"time_major": True, "seq_lengths": jnp.array([2, 1, 3, 3, 1])},
        ),
        (nn.GRUCell(UNITS), (2, *X.shape), {"reverse": True}),
        (nn.MGUCell(UNITS), X.shape, {}),
        (nn.ConvLSTMCell(2, (2,)), (3, 5, 4, 2), {"seq_lengths": LENGTHS}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_without_dropout_it_is_flax(
    cell: nn.RNNCellBase, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Parameters, outputs and states, without a word on `deterministic`."""
    x = jax.random.normal(jax.random.key(1), shape)
    layer = RNN(cell, input_rate=RATE, output_rate=RATE, return_carry=True)

    @quick
    def run(x: jax.Array) -> Any:
        made = [
            kind(cell, return_carry=True, unroll=2).init_with_output(KEY, x, **options)
            for kind in (RNN, nn.RNN)
        ]
        variables = made[0][1]
        evaluated = layer.apply(variables, x, **options, deterministic=True)
        return (
            made,
            evaluated,
            layer.apply(variables, x, deterministic=False, rngs={"dropout": KEY}, **options),
        )

    (ours, theirs), evaluated, (_, dropped) = run(x)
    jax.tree.map(close, ours, theirs)
    jax.tree.map(close, evaluated, theirs[0])
    assert not np.allclose(dropped, evaluated[1])


def test_a_cell_with_variables_is_that_of_flax() -> None:
    class Noisy(nn.GRUCell):
        @nn.compact
        def __call__(self, carry: Any, inputs: jax.Array) -> Any:
            self.variable("noise", "scale", jnp.ones, ())
            return super().__call__(carry, linen.Dropout(RATE, deterministic=False)(inputs))

    lifted = {
        "variable_broadcast": ["params", "noise"],
        "split_rngs": {"params": False, "dropout": True},
    }
    ours, theirs = (kind(Noisy(UNITS), **lifted) for kind in (RNN, nn.RNN))
    keys = {"params": KEY, "dropout": KEY}
    variables = theirs.init(keys, X)
    jax.tree.map(np.testing.assert_array_equal, ours.init(keys, X), variables)

    def run(layer: nn.Module) -> Any:
        return quick(lambda: layer.apply(variables, X, rngs={"dropout": KEY}))()

    close(run(ours), run(theirs))
    dropping = RNN(
        Noisy(UNITS),
        **lifted,
        recurrent_rate=RATE,
        candidate_rate=RATE,
        weight_rate=RATE,
        deterministic=False,
    )
    assert not np.allclose(run(dropping), run(theirs))


def test_layers_of_flax_that_share_a_cell() -> None:
    cell = nn.GRUCell(UNITS)
    ours, theirs = (
        nn.Bidirectional(kind(cell), kind(cell), return_carry=True) for kind in (RNN, nn.RNN)
    )
    run = quick(
        lambda: [both.init_with_output(KEY, X, seq_lengths=LENGTHS) for both in (ours, theirs)]
    )
    jax.tree.map(close, *run())


def test_masks_of_a_minimal_gated_unit() -> None:
    """At a rate of weights: it is Flax's cell, with other parameters."""
    layer = RNN(nn.MGUCell(UNITS), weight_rate=RATE, deterministic=False)
    variables = layer.init(jax.random.key(0), X)
    plan = Plan(MGU, Rates(weight_rate=RATE), KEY, False, False, False)
    cell = variables["params"]["cell"]
    dropped = {
        f"h{gate}": {**cell[f"h{gate}"], "kernel": plan.weight(cell[f"h{gate}"]["kernel"], at)}
        for at, gate in enumerate("fn")
    }
    close(
        layer.apply(variables, X, rng=KEY),
        nn.RNN(nn.MGUCell(UNITS)).apply({"params": {"cell": {**cell, **dropped}}}, X),
    )
    every = RNN(nn.MGUCell(UNITS), **all_rates("MGUCell"), per_gate=True, deterministic=False)
    assert jnp.isfinite(every.apply(variables, X, rng=KEY)).all()


def test_keys_come_from_the_collection() -> None:
    layer = RNN(nn.GRUCell(UNITS), recurrent_rate=RATE, rng_collection="noise")
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    run = jax.jit(lambda key: layer.apply(variables, X, deterministic=False, rngs={"noise": key}))
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert not np.array_equal(run(KEY), run(jax.random.fold_in(KEY, 1)))
    scheduled = layer.apply(
        variables, X, deterministic=False, rngs={"noise": KEY}, rates={"recurrent_rate": 0.0}
    )
    np.testing.assert_array_equal(scheduled, nn.RNN(nn.GRUCell(UNITS)).apply(variables, X))


def test_shard_map_with_spec_draws_the_whole_masks() -> None:
    stack = StackedRNN(
        nn.GRUCell, UNITS, num_layers=2, dropout=RATE, **all_rates("GRUCell"), deterministic=False
    )
    x = jnp.resize(X, (8, TIME, FEATURES))
    variables = stack.init(jax.random.key(0), x)
    mesh, spec = (
        jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,)),
        PartitionSpec("batch"),
    )
    local = jax.shard_map(
        lambda x: stack.apply(variables, x, rng=KEY, spec=spec),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )
    close(jax.jit(local)(x), jax.jit(lambda x: stack.apply(variables, x, rng=KEY))(x))


def test_bidirectional_of_flax() -> None:
    layers = [RNN(nn.GRUCell(UNITS), output_rate=RATE, deterministic=False) for _ in range(2)]
    both = nn.Bidirectional(*layers)
    variables = both.init({"params": KEY, "dropout": KEY}, X)
    y = np.asarray(both.apply(variables, X, seq_lengths=LENGTHS, rngs={"dropout": KEY}))
    forward, backward = y[..., :UNITS] == 0, y[..., UNITS:] == 0
    assert not np.array_equal(forward, backward)
    for dropped in (forward, backward):
        np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))


def test_zoneout_in_evaluation_needs_no_key() -> None:
    layer = RNN(nn.GRUCell(UNITS), hidden_zoneout=RATE)
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    y = layer.apply(variables, X[:, :1], deterministic=True)
    close(y, (1 - RATE) * nn.RNN(nn.GRUCell(UNITS)).apply(variables, X[:, :1]))


def test_bad_input() -> None:
    with pytest.raises(
        ValueError,
        match=r"^recurrent_rate=0.5 acts inside the cell, and how a ConvLSTMCell is made",
    ):
        RNN(nn.ConvLSTMCell(UNITS, (2,)), recurrent_rate=0.5, deterministic=False).init(
            KEY, X[..., None]
        )
    with pytest.raises(ValueError, match="deterministic"):
        RNN(nn.GRUCell(UNITS), recurrent_rate=0.5).init(KEY, X)
    with pytest.raises(ValueError, match="recurrent_rate must lie in"):
        RNN(nn.GRUCell(UNITS), recurrent_rate=1.5, deterministic=False).init(KEY, X)
    with pytest.raises(ValueError, match="a GRU cell has one state"):
        RNN(nn.GRUCell(UNITS), cell_zoneout=0.5, deterministic=False).init(KEY, X)
    with pytest.raises(ValueError, match="acts between layers, and there is one layer"):
        StackedRNN(nn.GRUCell, UNITS, dropout=0.5, deterministic=False).init(KEY, X)
