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

from jaxdrop.linen.recurrent import RNN, StackedRNN
from jaxdrop.nnx import recurrent as of_nnx
from tests.catalogue import KEY, RATE

BATCH, TIME, FEATURES, UNITS = 3, 5, 4, 6
X = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)), jnp.float32)
LENGTHS = jnp.array([5, 2, 3])
CELLS = {"LSTMCell": "ifgo", "OptimizedLSTMCell": "ifgo", "GRUCell": "rzn", "SimpleCell": " "}

pytestmark = pytest.mark.usefixtures("relaxed")
each_cell = pytest.mark.parametrize("name", CELLS)


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
    rates = dict.fromkeys(("input_rate", "recurrent_rate", "output_rate", "hidden_zoneout", "weight_rate"), RATE)
    rates |= {"candidate_rate": RATE} if name != "SimpleCell" else {}
    return rates | ({"cell_zoneout": 0.5} if "LSTM" in name else {})


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in CELLS), ("OptimizedLSTMCell", {"per_gate": True, "per_step": True})]
)
def test_the_same_key_gives_what_nnx_gives(name: str, options: dict[str, bool]) -> None:
    """Outputs, states and gradients."""
    cell = cell_of(name)
    ours = RNN(getattr(nn, name)(UNITS), **all_rates(name), **options, deterministic=False)
    theirs = of_nnx.RNN(cell, **all_rates(name), **options)
    run = {"seq_lengths": LENGTHS, "reverse": True, "return_carry": True}
    params = {"params": {"cell": params_of(cell)}}

    def value(y: Any) -> jax.Array:
        return sum((leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in jax.tree.leaves(y))

    @jax.jit
    def both(params: Any, x: jax.Array) -> Any:
        def mine(x: jax.Array) -> Any:
            return ours.apply(params, x, rng=KEY, **run)

        def other(x: jax.Array) -> Any:
            return theirs(x, rngs=KEY, **run)

        return [(f(x), jax.grad(lambda x, f=f: value(f(x)))(x)) for f in (mine, other)]

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


@each_cell
def test_without_dropout_it_is_flax(name: str) -> None:
    cell: Callable[[], Any] = lambda: getattr(nn, name)(UNITS)  # noqa: E731
    plain = nn.RNN(cell(), return_carry=True)
    variables = plain.init(jax.random.key(0), X)
    rates = all_rates(name) | {"hidden_zoneout": 0.0} | ({"cell_zoneout": 0.0} if "LSTM" in name else {})
    for layer in (
        RNN(cell(), deterministic=False, return_carry=True),
        RNN(cell(), **rates, deterministic=True, return_carry=True),
    ):
        assert str(jax.make_jaxpr(layer.apply)(variables, X)) == str(jax.make_jaxpr(plain.apply)(variables, X))
    layer = RNN(cell(), **rates)
    made = jax.eval_shape(lambda: layer.init(jax.random.key(0), X, deterministic=False))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)


def test_keys_come_from_the_collection() -> None:
    layer = RNN(nn.GRUCell(UNITS), recurrent_rate=RATE, rng_collection="noise")
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    run = jax.jit(lambda key: layer.apply(variables, X, deterministic=False, rngs={"noise": key}))
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert not np.array_equal(run(KEY), run(jax.random.fold_in(KEY, 1)))
    scheduled = layer.apply(variables, X, deterministic=False, rngs={"noise": KEY}, rates={"recurrent_rate": 0.0})
    np.testing.assert_array_equal(scheduled, nn.RNN(nn.GRUCell(UNITS)).apply(variables, X))


def test_shard_map_with_spec_draws_the_whole_masks() -> None:
    stack = StackedRNN(nn.GRUCell, UNITS, num_layers=2, dropout=RATE, **all_rates("GRUCell"), deterministic=False)
    x = jnp.resize(X, (8, TIME, FEATURES))
    variables = stack.init(jax.random.key(0), x)
    mesh, spec = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,)), PartitionSpec("batch")
    local = jax.shard_map(lambda x: stack.apply(variables, x, rng=KEY, spec=spec), mesh=mesh, in_specs=spec, out_specs=spec)
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
    with pytest.raises(TypeError, match="cell must be one of LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell, got MGUCell"):
        RNN(nn.MGUCell(UNITS), deterministic=False).init(KEY, X)
    with pytest.raises(ValueError, match="recurrent_rate must lie in"):
        RNN(nn.GRUCell(UNITS), recurrent_rate=1.5, deterministic=False).init(KEY, X)
    with pytest.raises(ValueError, match="a GRU cell has one state"):
        RNN(nn.GRUCell(UNITS), cell_zoneout=0.5, deterministic=False).init(KEY, X)
    with pytest.raises(ValueError, match="acts between layers, and there is one layer"):
        StackedRNN(nn.GRUCell, UNITS, dropout=0.5, deterministic=False).init(KEY, X)
