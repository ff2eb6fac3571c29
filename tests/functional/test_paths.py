"""Drop path, layer drop, ShakeDrop and the depth rules, against PyTorch and the formulas of their
papers.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

import jaxdrop
from jaxdrop import subsets
from jaxdrop._in_full import in_full
from jaxdrop.functional.paths import depth_rates, drop_path, layer_drop, layer_runs, shake_drop
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE
from tests.compilation import quick
from tests.oracles import require, torch_value_and_pull, torchtune_scale, value_and_pull

Block = Callable[[jax.Array], jax.Array]

LEVELS = {"batch": (0, 1, 2), "image": (1, 2), "channel": (1,), "pixel": ()}
X = jax.device_put(np.linspace(0.5, 2, 8 * 5 * 3, dtype=np.float32).reshape(8, 5, 3))

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


# -- drop path that computes a branch for some examples


def branch(x: jax.Array, gain: jax.Array) -> jax.Array:
    """Sees the examples that it is given: their mean is in its result."""
    return jnp.tanh(x) * jnp.expand_dims(gain, (1, 2)) + 0.1 * x.mean(0, keepdims=True)


def test_the_branch_is_that_of_the_kept_examples() -> None:
    """In values, gradients and tangents, for a pytree with a batch axis that is not the first."""
    gain = jnp.linspace(1.0, 2.0, 8)

    def subset(key: jax.Array, x: jax.Array) -> jax.Array:
        tree = {"x": jnp.swapaxes(x, 0, 1), "sum": x.sum((1, 2))[None]}

        def of_tree(tree: Any, gain: jax.Array) -> Any:
            y = branch(jnp.swapaxes(tree["x"], 0, 1), gain[0])
            return {"x": jnp.swapaxes(y, 0, 1), "sum": 2 * tree["sum"]}

        y = jaxdrop.drop_path_add(key, tree, 0.4, of_tree, args=(gain[None],), batch_axis=1)
        return jnp.swapaxes(y["x"], 0, 1) + jnp.expand_dims(y["sum"][0], (1, 2))

    def reference(key: jax.Array, x: jax.Array) -> jax.Array:
        places = jnp.sort(subsets.draw(key, 8, 0.4).indices[0])
        part = 8 / 5 * branch(x[places], gain[places])
        total = x.sum((1, 2))
        total = total.at[places].add(8 / 5 * 2 * total[places])
        return x.at[places].add(part) + jnp.expand_dims(total, (1, 2))

    @quick
    def both(key: jax.Array) -> Any:
        found = []
        for f in (subset, reference):
            y, pull = jax.vjp(functools.partial(f, key), X)
            tangent = jax.jvp(functools.partial(f, key), (X,), (X,))[1]
            found.append((y, *pull(y), tangent))
        return found

    for seed in range(3):
        for one, other in zip(*both(jaxdrop.key(seed)), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_the_mean_over_all_sets_of_examples_is_the_sum() -> None:
    """Each of the 6 sets of 2 of 4 examples once."""
    x = X[:4]
    keys = jax.random.split(KEY, 64)
    y = quick(jax.vmap(lambda key: jaxdrop.drop_path_add(key, x, 0.5, jnp.tanh)))(keys)
    kept = (np.asarray(y) != np.asarray(x))[..., 0, 0]
    _, first = np.unique(kept, axis=0, return_index=True)
    assert first.size == 6
    np.testing.assert_allclose(np.asarray(y)[first].mean(0), x + jnp.tanh(x), rtol=1e-6)


def test_at_low_rates_examples_are_masked() -> None:
    add = functools.partial(jaxdrop.drop_path_add, KEY, X, 0.09, jnp.tanh)
    np.testing.assert_array_equal(add(), X + drop_path(KEY, jnp.tanh(X), 0.09))
    with pytest.raises(ValueError, match=r"rate=0.05 drops nothing: of 8 members"):
        jaxdrop.drop_path_add(KEY, X, 0.05, jnp.tanh, masked_below=0.0)
    assert (np.asarray(add(masked_below=0.0)) == X).any((1, 2)).sum() == 1
    np.testing.assert_array_equal(add(batch_axis=-3), add())
    ten = X.reshape(10, 12)
    y = jaxdrop.drop_path_add(KEY, ten, 0.1, jnp.tanh)  # no longer low
    assert (np.asarray(y) == ten).all(1).sum() == 1
    for rate in depth_rates(0.3, 4):
        assert jaxdrop.drop_path_add(KEY, X, rate, jnp.tanh).shape == X.shape


@pytest.mark.parametrize("batch_axis", [0, -1])
def test_an_analyzed_program_drops_the_same_examples(batch_axis: int) -> None:
    """By a mask, in place of gathering what is kept."""
    add = functools.partial(jaxdrop.drop_path_add, KEY, X[..., :2], 0.5, jnp.tanh)
    expected = add(batch_axis=batch_axis)
    with in_full(True):
        found = add(batch_axis=batch_axis)
        kept = subsets.draw(KEY, (3, 8), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    chex.assert_trees_all_equal(jnp.sort(kept.indices, -1), subsets.draw(KEY, (3, 8), 0.5).indices)


def test_the_branch_takes_the_share_of_the_work() -> None:
    x = jnp.ones((10, 16, 64))

    def flops(add: Callable[..., jax.Array]) -> float:
        def loss(w: jax.Array) -> jax.Array:
            return add(lambda x: jnp.square(x @ w) @ w.T).sum()

        w = jax.ShapeDtypeStruct((64, 256), jnp.float32)
        analysis: Any = quick(jax.grad(loss)).lower(w).compile().cost_analysis()
        return float(analysis["flops"])

    subset = flops(lambda branch: jaxdrop.drop_path_add(KEY, x, 0.4, branch))
    assert subset <= 0.61 * flops(lambda branch: x + drop_path(KEY, branch(x), 0.4))


@pytest.mark.parametrize(
    ("x", "branch", "options", "error", "message"),
    [
        (X, jnp.tanh, {"rate": 1.0}, ValueError, "rate must be below 1"),
        (X, jnp.tanh, {"groups": 3}, ValueError, "groups=3 do not divide 8 entries"),
        (X, jnp.tanh, {"groups": 8}, ValueError, "drops nothing: of 1 members"),
        (X, jnp.sum, {}, TypeError, "must return what is like its argument"),
        (X, None, {}, TypeError, "branch must be a function of x"),
        (X, jnp.add, {"args": (X[:4],)}, ValueError, "x and args must have one number of examples"),
        (X, jnp.add, {"args": (3.0,)}, ValueError, "batch_axis=0 is no axis of"),
        ((), jnp.tanh, {}, ValueError, "x has no array"),
        (X, jnp.tanh, {"batch_axis": 3}, ValueError, "batch_axis=3 is out of range"),
        (X, jnp.add, {"args": X}, TypeError, "args must be a tuple of arguments of branch"),
        (X, jnp.add, {"args": (X[0],), "batch_axis": 2}, ValueError, "batch_axis=2 is no axis"),
        (X, jnp.add, {"args": (X[0],), "batch_axis": -3}, ValueError, "batch_axis=-3 is no axis"),
        (X[:0], jnp.tanh, {}, ValueError, "x has no examples along batch_axis=0"),
    ],
)
def test_bad_input_of_drop_path_add(
    x: Any, branch: Any, options: Any, error: type[Exception], message: str
) -> None:
    given = {"rate": 0.4} | options
    with pytest.raises(error, match=message):
        jaxdrop.drop_path_add(KEY, x, given.pop("rate"), branch, **given)


# -- drop path


@pytest.mark.sweep(keep=6)
@each_key
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("options", "dims"),
    [
        ({}, (1, 2)),
        ({"mode": "row"}, (1, 2)),
        ({"batch_axis": 1}, (0, 2)),
        ({"batch_axis": -1}, (0, 1)),
        ({"mode": "batch"}, (0, 1, 2)),
        ({"mode": "batch", "batch_axis": 7}, (0, 1, 2)),  # not looked at
    ],
)
def test_drop_path_is_dropout_of_whole_examples(
    key: jax.Array, dtype: str, options: dict[str, Any], dims: tuple[int, ...]
) -> None:
    """And so has all of dropout's properties."""
    x = X.astype(dtype)
    for rate in (RATE, 0.9, jnp.float32(1), 1):
        ours = functools.partial(drop_path, key, rate=rate, **options)
        plain = functools.partial(jaxdrop.dropout, key, rate=rate, broadcast_dims=dims)
        chex.assert_trees_all_equal(value_and_pull(ours, x), value_and_pull(plain, x))


@pytest.mark.parametrize("scale_by_keep", [True, False])
@pytest.mark.parametrize("rate", [RATE, 0.6])
def test_drop_path_equals_the_code_of_timm_and_torchvision(
    rate: float, scale_by_keep: bool
) -> None:
    """`noise = bernoulli(keep)`, divided by `keep`, times x; given our noise."""
    torch = require("torch")
    ours = value_and_pull(lambda x: drop_path(KEY, x, rate, scale_by_keep=scale_by_keep), X)
    noise = torch.from_numpy(np.array(ours[0][:, :1, :1] != 0, np.float32))
    assert 0 < noise.sum() < len(X)
    if scale_by_keep:
        noise.div_(1 - rate)
    for mine, theirs in zip(ours, torch_value_and_pull(lambda x: x * noise, X), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(mine), theirs, maxulp=1)


def test_drop_path_without_scale_returns_what_it_keeps() -> None:
    for rate in (RATE, jnp.float32(RATE)):
        y = drop_path(KEY, X, rate, scale_by_keep=False)
        assert jnp.all((y == X) | (y == 0))
    everything = jax.jit(functools.partial(drop_path, scale_by_keep=False))
    np.testing.assert_array_equal(everything(KEY, X, 0.0), X)
    np.testing.assert_array_equal(everything(KEY, X, 1.0), jnp.zeros_like(X))


def test_drop_path_with_a_rate_for_each_example() -> None:
    rates = jnp.linspace(0, 1, 8)[:, None, None]
    kept = jax.vmap(lambda key: drop_path(key, X, rates)[:, 0, 0] > 0)(
        jax.random.split(KEY, 4096)
    ).mean(0)
    deviation = jnp.sqrt(rates * (1 - rates) / 4096).ravel()
    assert jnp.all(
        jnp.abs(kept - (1 - rates.ravel())) <= 5 * deviation
    )  # ideal coins fail once in 2e5


def test_drop_path_of_a_batch_falls_as_often_as_it_should() -> None:
    """Within 5 standard deviations: ideal coins fail once in 2e6."""
    kept = jax.vmap(lambda key: drop_path(key, X, RATE, mode="batch") > 0)(
        jax.random.split(KEY, 4096)
    ).reshape(4096, -1)
    assert jnp.all(kept.all(1) == kept.any(1))
    assert abs(kept[:, 0].mean() - (1 - RATE)) <= 5 * (RATE * (1 - RATE) / 4096) ** 0.5


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mode": "rows"}, ValueError, "mode must be one of 'row', 'batch', got 'rows'"),
        (
            {"batch_axis": 3},
            ValueError,
            "batch_axis=3 is out of range: with 3 axes, -3 to 2 are allowed",
        ),
        ({"batch_axis": 0.5}, TypeError, "batch_axis must be the number of an axis, got 0.5"),
        ({"rate": 1.5}, ValueError, "1.5"),
        ({"rate": jnp.ones((8, 5, 1))}, ValueError, r"\(8, 1, 1\)"),
        ({"key": None}, ValueError, "drop_path is stochastic here and needs a key"),
        ({"x": jnp.ones((8, 2), int)}, TypeError, "drop_path scales what it keeps"),
        (
            {"x": jnp.float32(1)},
            ValueError,
            "batch_axis=0 is out of range: with 0 axes, there is none to name",
        ),
        (
            {"x": None},
            TypeError,
            "drop_path takes an array x of floating or complex numbers, got None",
        ),
    ],
)
def test_drop_path_bad_input(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        drop_path(**{"key": KEY, "x": X, "rate": RATE} | options)


# -- layer drop


MATRIX = jax.device_put(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))
ROWS = jax.device_put(np.linspace(0.5, 2, 32, dtype=np.float32).reshape(8, 4))


def block(x: jax.Array, matrix: jax.Array = MATRIX) -> jax.Array:
    return x + jnp.tanh(x @ matrix)


def counting() -> tuple[Block, Callable[[], int]]:
    """`block`, and how often it has really been computed."""
    calls: list[None] = []

    def layer(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda _: calls.append(None), x[0, 0])
        return block(x)

    def count() -> int:
        jax.effects_barrier()
        return len(calls)

    return layer, count


def coins(keys: jax.Array, rate: float) -> np.ndarray:
    return np.array([layer_runs(key, rate, deterministic=False) for key in keys])


@each_key
def test_a_layer_runs_as_often_as_it_should(key: jax.Array) -> None:
    """Within 5 standard deviations (ideal coins fail once in 2e6), and so do layers of keys that
    follow each other.
    """
    n = 4096
    runs = np.asarray(
        jax.vmap(lambda key: layer_runs(key, RATE, deterministic=False))(jax.random.split(key, n))
    )
    z = (runs - (1 - RATE)) / (RATE * (1 - RATE)) ** 0.5
    assert abs(z.sum()) / n**0.5 <= 5
    assert abs((z[1:] * z[:-1]).sum()) / n**0.5 <= 5


@each_key
def test_layer_drop_is_the_same_under_all_transformations(key: jax.Array) -> None:
    """What a Python loop with a Python `if` does, `jit`, `vmap`, `lax.map` and `scan` do; in value
    and gradient.
    """
    keys = jax.random.split(key, 8)
    runs = coins(keys, 0.5)
    assert 0 < runs.sum() < 8

    def one(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return value_and_pull(lambda x: layer_drop(key, x, 0.5, block), x)

    stacked = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    expected = stacked(*[value_and_pull(block if run else lambda x: x, ROWS) for run in runs])
    for found in (
        stacked(*[one(key, ROWS) for key in keys]),
        jax.jit(jax.vmap(one, in_axes=(0, None)))(keys, ROWS),
        lax.map(lambda key: one(key, ROWS), keys),
    ):
        chex.assert_trees_all_close(found, expected, rtol=1e-6)

    def loop(x: jax.Array) -> jax.Array:
        for run in runs:
            x = block(x) if run else x
        return x

    def scan(x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, key: (layer_drop(key, x, 0.5, block), None), x, keys)[0]

    def derivatives(f: Block) -> tuple[Any, Any]:
        return jax.jit(lambda x: (value_and_pull(f, x), jax.jvp(f, (x,), (x,))))(ROWS)

    expected = derivatives(loop)
    for f in (scan, jax.checkpoint(scan)):
        chex.assert_trees_all_close(derivatives(f), expected, rtol=1e-5)


@pytest.mark.parametrize("how", ["eager", "jit", "scan", "map", "vmap"])
def test_a_skipped_layer_is_not_computed(how: str) -> None:
    """But under `vmap` over keys, where a `cond` is a `select`."""
    keys = jax.random.split(KEY, 32)
    ran = int(coins(keys, 0.5).sum())
    assert 0 < ran < 32
    layer, count = counting()

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        return layer_drop(key, x, 0.5, layer)

    if how in ("eager", "jit"):
        once = jax.jit(one) if how == "jit" else one
        for key in keys:
            once(key, ROWS)
    elif how == "scan":
        jax.jit(lambda x: lax.scan(lambda x, key: (one(key, x), None), x, keys)[0])(ROWS)
    else:
        over = (
            functools.partial(lax.map, lambda key: one(key, ROWS))
            if how == "map"
            else jax.vmap(lambda key: one(key, ROWS))
        )
        jax.jit(over)(keys)
    assert count() == (32 if how == "vmap" else ran)


@pytest.mark.parametrize("backward", [False, True])
def test_the_layer_stands_in_a_branch_of_the_compiled_program(backward: bool) -> None:
    """Its matrix products are in computations that a `conditional` calls, and nowhere else."""

    def value(key: jax.Array, matrix: jax.Array, x: jax.Array) -> jax.Array:
        return layer_drop(key, x, 0.5, lambda x: block(x, matrix)).sum()

    f = jax.grad(value, argnums=(1, 2)) if backward else value
    text = jax.jit(f).lower(KEY, jnp.ones((64, 64)), jnp.ones((32, 64))).compile().as_text()
    computations = dict(
        re.findall(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    )
    branches = set(
        re.findall(r"%([\w.]+)", " ".join(re.findall(r"branch_computations=\{(.*?)\}", text)))
    )
    multiplies = {
        name
        for name, body in computations.items()
        if re.search(r"= \S+ (dot|custom-call)\(|__onednn|matmul", body)
    }
    called = {
        name: set(re.findall(r"(?:calls|to_apply)=%([\w.]+)", body))
        for name, body in computations.items()
    }
    inside = branches | set().union(*(called[name] for name in branches))
    assert multiplies
    assert multiplies <= inside
    assert len(re.findall(r" conditional\(", text)) == (2 if backward else 1)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_layer_drop_under_a_mesh(axis_type: AxisType) -> None:
    """Under `vmap` over divided keys too, unless x is divided over explicit axes."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    keys = jax.random.split(KEY, 8)

    def place(x: jax.Array, *names: str) -> jax.Array:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*names)))

    one = jax.jit(lambda key, x: layer_drop(key, x, 0.5, lambda x: 2 * x))
    for key in keys:
        y = one(key, place(ROWS, "a", "b"))
        np.testing.assert_array_equal(y, one(key, ROWS))
        assert y.sharding.is_equivalent_to(place(ROWS, "a", "b").sharding, 2)
    many = jax.jit(jax.vmap(one, in_axes=(0, None)))
    if axis_type == AxisType.Auto:
        np.testing.assert_array_equal(many(place(keys, "a"), place(ROWS, "b")), many(keys, ROWS))
    else:  # if this does not raise, JAX has learned it: change the docs and the catalogue
        with pytest.raises(Exception, match="sharding"):
            many(place(keys), place(ROWS, "b"))


def test_parameters_of_a_layer_get_gradients_only_if_it_runs() -> None:
    gradient = jax.jit(
        jax.grad(lambda matrix, key: layer_drop(key, ROWS, 0.5, lambda x: block(x, matrix)).sum())
    )
    whole = jax.grad(lambda matrix: block(ROWS, matrix).sum())(MATRIX)
    keys = jax.random.split(KEY, 8)
    for key, runs in zip(keys, coins(keys, 0.5), strict=True):
        np.testing.assert_allclose(
            gradient(MATRIX, key), whole if runs else jnp.zeros_like(MATRIX), rtol=1e-5
        )


def test_checkpoint_around_layer_drop_stores_no_copies() -> None:
    """But the arguments, by reference; and computes again only what has run."""
    layer, count = counting()

    def f(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.checkpoint(lambda key, x: layer_drop(key, x, 0.5, layer))(key, x)

    stored = jax.tree.leaves(
        jax.eval_shape(lambda key, x: jax.vjp(functools.partial(f, key), x)[1], KEY, ROWS)
    )
    assert {leaf.dtype for leaf in stored if leaf.ndim == 0} == {KEY.dtype}
    assert {leaf.shape for leaf in stored if leaf.ndim} <= {ROWS.shape, MATRIX.shape}
    assert len(stored) <= 3
    gradient = jax.jit(jax.grad(lambda x, key: (f(key, x) ** 2).sum()))
    keys = jax.random.split(KEY, 8)
    for key in keys:
        gradient(ROWS, key)
    assert count() == 2 * coins(keys, 0.5).sum()


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": np.float32(0)}, {"rate": RATE, "deterministic": True}]
)
def test_a_layer_that_always_runs_is_the_layer(options: dict[str, Any]) -> None:
    for wrap in (lambda f: f, lambda f: jax.grad(lambda x: f(x).sum())):
        ours = jax.make_jaxpr(wrap(lambda x: layer_drop(None, x, layer=block, **options)))(ROWS)
        assert str(ours) == str(jax.make_jaxpr(wrap(block))(ROWS))


def test_at_rate_one_the_layer_is_not_even_traced() -> None:
    assert layer_drop(None, ROWS, 1, lambda x: 1 / 0) is ROWS


def test_layer_drop_traces_once_for_all_rates() -> None:
    chex.clear_trace_counter()
    f = jax.jit(chex.assert_max_traces(lambda rate: layer_drop(KEY, ROWS, rate, block), n=1))
    np.testing.assert_allclose(f(0.0), block(ROWS), rtol=1e-6)
    np.testing.assert_array_equal(f(1.0), ROWS)
    for rate in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(f(rate), layer_drop(KEY, ROWS, rate, block), rtol=1e-6)
    assert jax.grad(lambda rate: layer_drop(KEY, ROWS, rate, block).sum())(0.5) == 0


def test_layer_drop_of_a_pytree() -> None:
    x = {"hidden": ROWS, "key": KEY, "length": jnp.int32(3)}

    def grow(x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return x | {"hidden": 2 * x["hidden"], "length": x["length"] + 1}

    for f in (layer_drop, jax.jit(layer_drop, static_argnums=3)):
        found = {int(f(key, x, 0.5, grow)["length"]) for key in jax.random.split(KEY, 8)}
        assert found == {3, 4}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "layer", [lambda x: x[1:], lambda x: x.astype(jnp.bfloat16), lambda x: (x, x), lambda x: None]
)
def test_layers_that_cannot_be_skipped(layer: Any, jit: bool) -> None:
    def call(x: jax.Array, rate: Any) -> jax.Array:
        return layer_drop(KEY, x, rate, layer)

    with pytest.raises(TypeError, match=r"it was given .*\(8, 4\), dtype=float32\) and returned"):
        jax.jit(call)(ROWS, 0.5) if jit else call(ROWS, 0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rate": 1.5}, ValueError, "1.5"),
        (
            {"rate": jnp.ones(8)},
            ValueError,
            r"layer_drop throws one coin and takes one rate, but rate has shape \(8,\)",
        ),
        ({"key": None}, ValueError, "layer_drop is stochastic here and needs a key"),
        ({"key": jax.random.split(KEY)}, ValueError, "array of keys"),
        ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
    ],
)
def test_layer_drop_bad_input(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        layer_drop(**{"key": KEY, "x": ROWS, "rate": RATE, "layer": block} | options)


# -- ShakeDrop


@functools.partial(
    jax.jit,
    static_argnums=1,
    static_argnames=("alpha", "beta", "per", "batch_axis", "channel_axis"),
)
def coefficients(
    key: jax.Array, shape: tuple[int, ...], rate: Any = 0.5, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """Forward and backward."""
    ones = jnp.ones(shape)
    y, pull = jax.vjp(lambda x: shake_drop(key, x, rate, **options), ones)
    return y, pull(ones)[0]


@functools.cache
def shaken() -> jax.Array:
    """A key that drops the branch."""
    return next(key for key in jax.random.split(KEY, 16) if coefficients(key, (1,))[0] != 1)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("per", LEVELS)
def test_who_shares_a_coefficient(per: str) -> None:
    shape = (4, 5, 3)
    units = np.prod(
        [length for axis, length in enumerate(shape) if axis not in LEVELS[per]], dtype=int
    )
    straight = coefficients(shaken(), shape, per=per)
    for found in map(np.asarray, straight):
        assert len(np.unique(found)) == units
        assert np.all(found == np.min(found, axis=LEVELS[per], keepdims=True))
    turned = coefficients(shaken(), (3, 4, 5), per=per, batch_axis=1, channel_axis=0)
    for found, expected in zip(turned, straight, strict=True):
        if per in ("batch", "image"):
            np.testing.assert_array_equal(found, jnp.moveaxis(expected, 2, 0))
        assert len(np.unique(found)) == units


@pytest.mark.sweep
@each_key
@pytest.mark.parametrize(("alpha", "beta"), [((-1.0, 1.0), (0.0, 1.0)), ((0.25, 1.5), (-2.0, 0.5))])
def test_law_of_the_coefficients(
    key: jax.Array, alpha: tuple[float, float], beta: tuple[float, float]
) -> None:
    """One coin for both passes; where it falls on 0, two independent uniform numbers. Ideal ones
    fail with probability 5e-6.
    """
    n = 4096
    sample = jax.vmap(
        lambda key: jnp.stack(coefficients(key, (2, 3), RATE, alpha=alpha, beta=beta))
    )
    found = np.asarray(sample(jax.random.split(key, n)))[..., 0]
    alone = found == 1
    assert np.all(alone == alone[:, :1, :1])
    alone = alone[:, 0, 0]
    assert statistics.normal((alone.sum() - n * (1 - RATE)) / (n * RATE * (1 - RATE)) ** 0.5) > 1e-6
    drawn = found[~alone]
    ranges = np.array([alpha, beta])
    scaled = ((drawn - ranges[:, None, 0]) / np.ptp(ranges, axis=1)[:, None]).reshape(len(drawn), 4)
    assert min(stats.kstest(column, "uniform").pvalue for column in scaled.T) > 1e-6 / 4
    z = (scaled - 0.5) * 12**0.5
    pairs = (
        np.array([(z[:, i] * z[:, j]).sum() for i, j in itertools.combinations(range(4), 2)])
        / len(z) ** 0.5
    )
    assert statistics.normal(pairs) > 1e-6


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("rate", [0.5, 0.2])
@pytest.mark.parametrize("alpha", [(-1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.5, 1.5)])
def test_evaluation_multiplies_by_the_expected_coefficient(
    rate: float, alpha: tuple[float, float]
) -> None:
    """`q + p E[a]`, which is 0.75, not 0.5, for `alpha=(0, 1)` at rate 0.5. Ideal means fail with a
    probability of 6e-7.
    """
    expected = (1 - rate) + rate * sum(alpha) / 2

    def evaluated(rate: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return value_and_pull(
            lambda x: shake_drop(None, x, rate, alpha=alpha, deterministic=True), x
        )

    for found in (
        evaluated(rate, X),
        jax.jit(evaluated)(rate, X),
        evaluated(jnp.full((1,), rate), X),
    ):
        chex.assert_trees_all_close(found, (expected * X, expected * jnp.cos(X)), rtol=1e-6)
    n = 4096
    mean = jax.vmap(lambda key: shake_drop(key, jnp.ones(()), rate, alpha=alpha, per="batch"))(
        jax.random.split(KEY, n)
    ).mean()
    width = alpha[1] - alpha[0]
    variance = rate * width**2 / 12 + rate * (1 - rate) * (1 - sum(alpha) / 2) ** 2
    assert abs(mean - expected) <= 5 * (variance / n) ** 0.5


@pytest.mark.parametrize("per", ["image", "pixel"])
def test_shake_drop_equals_an_autograd_function(per: str) -> None:
    """The usual PyTorch code, given our coefficients."""
    torch = require("torch")
    forward, backward = (
        torch.from_numpy(np.array(found)) for found in coefficients(shaken(), X.shape, per=per)
    )

    class Shake(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return forward * x

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return backward * gradient

    ours = value_and_pull(lambda x: shake_drop(shaken(), x, 0.5, per=per), X)
    for mine, theirs in zip(ours, torch_value_and_pull(Shake.apply, X), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(mine), theirs, maxulp=1)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("per", LEVELS)
def test_forward_mode_is_the_transpose_of_the_backward_pass(per: str) -> None:
    x = jnp.ones((2, 2, 2))
    _, backward = coefficients(shaken(), x.shape, per=per)

    def f(x: jax.Array) -> jax.Array:
        return shake_drop(shaken(), x, 0.5, per=per)

    @jax.jit
    def derivatives(x: jax.Array) -> tuple[jax.Array, ...]:
        half = lambda x: (f(x) ** 2).sum() / 2  # noqa: E731
        return jax.jacfwd(f)(x), jax.jacrev(f)(x), jax.hessian(half)(x)

    first, same, second = (np.reshape(found, (8, 8)) for found in derivatives(x))
    np.testing.assert_array_equal(first, np.diag(np.ravel(backward)))
    np.testing.assert_array_equal(same, first)
    np.testing.assert_allclose(second, first**2, rtol=1e-6)


def test_shake_drop_stores_the_key_alone() -> None:
    for per in LEVELS:
        stored = jax.tree.leaves(
            jax.vjp(lambda x, per=per: shake_drop(KEY, x, RATE, per=per), X)[1]
        )
        assert [(leaf.shape, leaf.dtype) for leaf in stored] == [((), KEY.dtype)]


def test_a_coefficient_of_zero_drops() -> None:
    """`alpha=(0, 0)`, one of the paper's two choices, with the gradient shaken; and gradients
    dropped too.
    """
    x = X.at[0, 0].set(jnp.nan).at[1, 0].set(jnp.inf)
    y, pull = jax.vjp(lambda x: shake_drop(KEY, x, 1.0, alpha=(0, 0), beta=(0, 0)), x)
    chex.assert_trees_all_equal((y, pull(x)[0]), (jnp.zeros_like(x), jnp.zeros_like(x)))
    evaluated = shake_drop(None, x, 1.0, deterministic=True)  # q + p E[a] = 0
    np.testing.assert_array_equal(evaluated, jnp.zeros_like(x))


def test_shake_drop_that_changes_nothing() -> None:
    assert shake_drop(None, X, 0) is X
    assert shake_drop(None, X, 0.5, alpha=(0, 2), deterministic=True) is X
    np.testing.assert_array_equal(
        shake_drop(None, X, 0.5, alpha=(1, 3), deterministic=True), 1.5 * X
    )
    np.testing.assert_array_equal(jax.jit(lambda rate: shake_drop(KEY, X, rate))(0.0), X)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"per": "row"},
            ValueError,
            "per must be one of 'batch', 'image', 'channel', 'pixel', got 'row'",
        ),
        (
            {"alpha": (1, -1)},
            ValueError,
            r"alpha must be two finite numbers, the least and the greatest, got \(1, -1\)",
        ),
        (
            {"beta": 0.5},
            TypeError,
            "beta must be two finite numbers, the least and the greatest, got 0.5",
        ),
        ({"beta": (0, float("nan"))}, ValueError, "beta must be two finite numbers"),
        ({"batch_axis": 3}, ValueError, "batch_axis=3 is out of range"),
        ({"channel_axis": -4, "per": "channel"}, ValueError, "channel_axis=-4 is out of range"),
        ({"rate": jnp.full((8, 1, 1), 0.5)}, ValueError, r"\(1, 1, 1\)"),
        ({"rate": -0.5}, ValueError, "-0.5"),
        ({"rate": 1, "key": None}, ValueError, "shake_drop is stochastic here and needs a key"),
        ({"x": jnp.ones(3, bool)}, TypeError, "bool"),
    ],
)
def test_shake_drop_bad_input(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        shake_drop(**{"key": KEY, "x": X, "rate": RATE} | options)


# -- depth rules


@pytest.mark.parametrize("n", [2, 5, 12])
def test_depth_rates_are_those_of_the_sources(n: int) -> None:
    np.testing.assert_allclose(depth_rates(0.2, n), np.linspace(0, 0.2, n), rtol=1e-15)
    np.testing.assert_allclose(
        depth_rates(0.2, n, "torchvision"), [0.2 * i / (n - 1.0) for i in range(n)], rtol=1e-15
    )
    np.testing.assert_allclose(
        depth_rates(0.2, n, rule="efficientnet"), [0.2 * float(i) / n for i in range(n)], rtol=1e-15
    )
    huang = [1 - (1 - layer / n * (1 - 0.8)) for layer in range(1, n + 1)]
    np.testing.assert_allclose(depth_rates(0.2, n, rule="paper"), huang, rtol=1e-14)
    assert depth_rates(0.2, n)[-1] == depth_rates(0.2, n, rule="paper")[-1] == 0.2
    for rule in ("uniform", "linear", "exp", "log", "sin", "sigmoid", "step"):
        scales = [torchtune_scale(rule, n - 1, layer) for layer in range(n)]
        found = depth_rates(0.2, n, rule)
        np.testing.assert_allclose(found, [0.2 * scale for scale in scales], rtol=1e-14)
        assert all(isinstance(rate, float) for rate in found)


def test_depth_rates_of_one_layer() -> None:
    assert depth_rates(0.2, 1) == depth_rates(0.2, 1, "efficientnet") == (0.0,)
    assert depth_rates(0.2, 1, "paper") == depth_rates(0.2, 1, "exp") == (0.2,)
    assert depth_rates(0.2, 1, "log") == depth_rates(0.2, 1, "step") == (0.2,)


def test_depth_rates_of_a_traced_rate() -> None:
    """The first layer is still no operation."""

    def model(rate: jax.Array) -> jax.Array:
        rates = depth_rates(rate, 5)
        assert rates[0] == 0.0
        assert isinstance(rates[0], float)
        return jnp.stack(rates[1:])

    np.testing.assert_allclose(jax.jit(model)(0.2), depth_rates(0.2, 5)[1:], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0.2, 0), ValueError, "num_layers must be at least 1, got 0"),
        ((0.2, 2.5), TypeError, "num_layers must be an integer, got 2.5"),
        ((20, 5), ValueError, "20"),
        (
            (0.2, 5, "cubic"),
            ValueError,
            "rule must be one of 'timm', 'torchvision', 'efficientnet', .*, got 'cubic'",
        ),
    ],
)
def test_depth_rates_bad_input(arguments: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        depth_rates(*arguments)
