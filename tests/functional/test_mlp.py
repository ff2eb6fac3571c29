"""MLPs that compute only the hidden units which they keep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
import jaxdrop.nnx
from jaxdrop import subsets
from tests.catalogue import KEY
from tests.compilation import quick
from tests.test_sharding import COLLECTIVES

P = PartitionSpec
BATCH, IN, UNITS, OUT = 8, 6, 16, 4
SIZES = {
    "w_in": (IN, UNITS),
    "w_out": (UNITS, OUT),
    "b_in": (UNITS,),
    "b_out": (OUT,),
    "w_gate": (IN, UNITS),
    "b_gate": (UNITS,),
}
Weights = dict[str, Any]
CASES: list[tuple[list[str], dict[str, Any]]] = [
    (["w_in", "w_out"], {}),
    ([*SIZES], {"activation": jax.nn.silu, "num_masks": 4}),
    (["w_in", "w_out", "w_gate"], {"pattern": "block", "block_size": 2, "groups": 2}),
    (
        ["w_in", "w_out", "b_in", "b_out"],
        {"activation": jax.nn.gelu, "pattern": "slice", "groups": 4, "num_masks": 2},
    ),
]


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


X = normal(0, BATCH, 3, IN)
INTEGERS = np.ones((IN, UNITS), np.int32)
WEIGHTS = {name: normal(seed, *shape) for seed, (name, shape) in enumerate(SIZES.items())}


def mlp(key: jax.Array | None, x: Any, weights: Weights, rate: float = 0.5, **more: Any) -> Any:
    others = {name: w for name, w in weights.items() if name not in ("w_in", "w_out")}
    return jaxdrop.dropout_mlp(key, x, weights["w_in"], weights["w_out"], rate, **others, **more)


def masked(
    key: jax.Array, x: jax.Array, weights: Weights, *, num_masks: int = 1, **options: Any
) -> jax.Array:
    """All units, and then a mask of the same subset."""
    activation = options.pop("activation", jax.nn.relu)
    shape = UNITS if num_masks == 1 else (num_masks, UNITS)
    kept = subsets.draw(key, shape, 0.5, **options)
    keep = (kept.ranks < kept.indices.shape[-1]).reshape(num_masks, -1)
    keep = jnp.repeat(keep, UNITS // keep.shape[1], axis=1)
    zero = jnp.zeros(())
    hidden = x @ weights["w_in"] + weights.get("b_in", zero)
    if "w_gate" in weights:
        hidden = activation(x @ weights["w_gate"] + weights.get("b_gate", zero)) * hidden
    else:
        hidden = activation(hidden)
    keep = jnp.repeat(keep, BATCH // num_masks, axis=0).reshape(BATCH, 1, UNITS)
    return jnp.where(keep, 2 * hidden, 0) @ weights["w_out"] + weights.get("b_out", zero)


def value_and_gradients(f: Callable[..., jax.Array], *arguments: Any) -> Any:
    y, pull = jax.vjp(f, *arguments)
    return y, *pull(y)


def assert_close(found: Any, expected: Any) -> None:
    """To rounding of the largest value. What is 0, such as the gradients of dropped units, is 0 in
    both.
    """
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one == 0, other == 0)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_it_is_the_masked_mlp() -> None:
    """Values and gradients, of dropped units too, and the tangents."""

    @quick
    def all_of_them(key: jax.Array) -> Any:
        with jax.numpy_rank_promotion("allow"):
            found = []
            for names, options in CASES:
                weights = {name: WEIGHTS[name] for name in names}

                def both(f: Any, weights: Weights = weights, options: Any = options) -> Any:
                    of = functools.partial(f, key, **options)
                    tangent = jax.jvp(of, (X, weights), (X, weights))[1]
                    return value_and_gradients(of, X, weights), tangent

                found.append((both(mlp), both(masked)))
            return found

    for seed in range(3):
        for found, expected in all_of_them(jaxdrop.key(seed)):
            assert_close(found, expected)


def test_the_mean_over_all_subsets_is_the_evaluation() -> None:
    """Every subset of 2 of 4 units, and every slice, once."""
    weights = {name: w[..., :4] if name != "w_out" else w[:4] for name, w in WEIGHTS.items()}
    weights["b_out"] = WEIGHTS["b_out"]
    for pattern, number in (("unit", 6), ("slice", 4)):

        @quick
        @jax.vmap
        def sample(key: jax.Array, pattern: Any = pattern) -> Any:
            kept = subsets.draw(key, 4, 0.5, pattern=pattern)
            return kept.indices, mlp(key, X, weights, pattern=pattern)

        indices, ys = sample(jax.random.split(KEY, 64))
        _, first = np.unique(np.asarray(indices).reshape(64, -1), axis=0, return_index=True)
        assert first.size == number
        expected = mlp(None, X, weights, deterministic=True)
        np.testing.assert_allclose(np.asarray(ys)[first].mean(0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["unit", "block", "slice"])
def test_half_of_the_units_take_half_of_the_work(pattern: Any) -> None:
    shapes = [(256, 128), (128, 1024), (1024, 128)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def flops(rate: float) -> float:
        def loss(x: jax.Array, w_in: jax.Array, w_out: jax.Array) -> jax.Array:
            return jaxdrop.dropout_mlp(KEY, x, w_in, w_out, rate, pattern=pattern).sum()

        analysis: Any = quick(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile().cost_analysis()
        return float(analysis["flops"])

    assert flops(0.5) <= 0.51 * flops(0.0)


@pytest.mark.parametrize(
    "kind", ["both", *(pytest.param(kind, marks=pytest.mark.sweep) for kind in ("data", "tensor"))]
)
def test_devices_compute_as_one_and_communicate_what_they_do_without_dropout(kind: str) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    data = "data" if kind != "tensor" else None
    model = "model" if kind != "data" else None
    layout = {
        "w_in": P(None, model),
        "w_out": P(model),
        "b_in": P(model),
        "b_out": P(),
        "w_gate": P(None, model),
        "b_gate": P(model),
    }

    def placed(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, spec)

    x = jax.device_put(X, placed(P(data)))
    weights = {name: jax.device_put(w, placed(layout[name])) for name, w in WEIGHTS.items()}

    def step(key: jax.Array, x: jax.Array, weights: Weights, rate: float) -> Any:
        of = functools.partial(mlp, key, rate=rate, groups=2, num_masks=4)
        return value_and_gradients(of, x, weights)

    def compiled(rate: float) -> Any:
        out = (placed(P(data)), placed(P(data)), {name: placed(layout[name]) for name in WEIGHTS})
        program = quick(functools.partial(step, rate=rate), out_shardings=out)
        return program.lower(KEY, x, weights).compile()

    divided = compiled(0.5)
    assert sorted(COLLECTIVES.findall(divided.as_text())) == sorted(
        COLLECTIVES.findall(compiled(0.0).as_text())
    )
    expected = quick(functools.partial(step, rate=0.5))(KEY, X, WEIGHTS)
    assert_close(divided(KEY, x, weights), expected)
    if kind != "both":
        return

    @quick
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), layout), out_specs=P("data")
    )
    def local(key: jax.Array, x: jax.Array, weights: Weights) -> jax.Array:
        weights = {**weights, "b_out": weights["b_out"] / 2}
        spec = P("data", None, "model")
        return lax.psum(mlp(key, x, weights, groups=2, num_masks=4, spec=spec), "model")

    assert_close(local(KEY, x, weights), expected[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": 1.0}, ValueError, "rate must be below 1"),
        ({"rate": 0.01}, ValueError, "rate=0.01 drops nothing: of 16 members"),
        ({"groups": 3}, ValueError, "groups=3 do not divide 16"),
        ({"num_masks": 3}, ValueError, "num_masks=3 must divide axis 0 of x into equal parts"),
        ({"pattern": "block"}, ValueError, "block_size=128"),
        ({"b_gate": WEIGHTS["b_gate"]}, ValueError, "b_gate belongs to w_gate"),
        ({"b_in": WEIGHTS["b_out"]}, ValueError, r"b_in must have .* shape \(16,\), got \(4,\)"),
        ({"w_out": WEIGHTS["w_in"]}, ValueError, r"w_out must have .* \(16, 16\), got \(6, 16\)"),
        ({"w_in": WEIGHTS["b_in"]}, ValueError, r"w_in must be a matrix, got shape \(16,\)"),
        ({"activation": "relu"}, TypeError, "activation must be a function of the hidden units"),
        ({"w_in": INTEGERS}, TypeError, "w_in"),
        ({"w_out": None}, TypeError, "w_out"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1"),
        ({"groups": 0}, ValueError, "groups must be at least 1"),
        ({"num_masks": 0}, ValueError, "num_masks must be at least 1"),
        ({"pattern": "row"}, ValueError, "pattern must be one of 'unit'"),
        ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
        ({"rate": jnp.ones(3)}, TypeError, "rate must be one number that is known now"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"w_in": WEIGHTS["w_in"], "w_out": WEIGHTS["w_out"], "rate": 0.5} | options
    w_in, w_out, rate = (given.pop(name) for name in ("w_in", "w_out", "rate"))
    with pytest.raises(error, match=message):
        jaxdrop.dropout_mlp(KEY, X, w_in, w_out, rate, **given)


def test_bad_shapes_of_x() -> None:
    w_in, w_out = WEIGHTS["w_in"], WEIGHTS["w_out"]
    one, parts = "takes x of shape", "num_masks=2 must divide axis 0 of x into"
    for x, num_masks, message in [(jnp.float32(1), 1, one), (X[0, 0], 2, parts)]:
        with pytest.raises(ValueError, match=message):
            jaxdrop.dropout_mlp(KEY, x, w_in, w_out, 0.5, num_masks=num_masks)
    with pytest.raises(ValueError, match=r"dropout_mlp.*key is None"):
        jaxdrop.dropout_mlp(None, X, w_in, w_out, 0.5)


def test_inputs_of_any_rank() -> None:
    """One vector, and rows, are computed as parts of larger arrays."""
    weights = {name: WEIGHTS[name] for name in ("w_in", "w_out", "b_in")}

    @quick
    def all_of_them(x: jax.Array) -> Any:
        whole, several = mlp(KEY, x, weights), mlp(KEY, x, weights, num_masks=4)
        return (
            (mlp(KEY, x[1, 2], weights), mlp(KEY, x[1], weights)),
            (whole[1, 2], whole[1]),
            (mlp(KEY, x[:, 0], weights, num_masks=4), several[:, 0]),
        )

    found, expected, (rows, of_whole) = all_of_them(X)
    for one, other in zip((*found, rows), (*expected, of_whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_one_mask_inside_shard_map() -> None:
    """Where units are divided; and the message where parts cannot be."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    weights = {name: WEIGHTS[name] for name in ("w_in", "w_out")}
    layout = {"w_in": P(None, "model"), "w_out": P("model")}

    def mapped(num_masks: int) -> Any:
        def local(x: jax.Array, weights: Weights) -> jax.Array:
            spec = P("data", None, "model")
            y = mlp(KEY, x, weights, groups=2, num_masks=num_masks, spec=spec)
            return lax.psum(y, "model")

        shards = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), layout), out_specs=P("data"))
        return jax.jit(shards)(X, weights)

    expected = mlp(KEY, X, weights, groups=2)
    np.testing.assert_allclose(mapped(1), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="num_masks=3 must divide axis 0 of x over 2 devices into"):
        mapped(3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("activation", "relu"), ("block_size", 0), ("groups", 0), ("num_masks", 0), ("rate", 1.0)],
)
def test_layers_check_what_they_are_given(name: str, value: Any) -> None:
    given = {"hidden_features": UNITS, "out_features": OUT, "rate": 0.5, name: value}
    with pytest.raises((ValueError, TypeError), match=f"{name} must"):
        jaxdrop.nnx.DropoutMLP(in_features=IN, rngs=nnx.Rngs(0), **given)
