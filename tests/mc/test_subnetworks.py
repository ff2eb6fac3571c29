"""Smaller networks compute what networks with dropped units compute."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import export
from jax.experimental import checkify
from jax.sharding import PartitionSpec as P

import jaxdrop
from jaxdrop import mc, subsets

KEY = jaxdrop.key(3)
UNITS = 64
AXES = {"w1": P(None, "a"), "w2": P("a*", "b"), "w3": P("b*", None)}
AXES |= {"b1": P(None, "a"), "b2": P(None, "b")}
SIZES = {"a": 48, "b": 48}


def _params() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"w1": (5, UNITS), "b1": (1, UNITS), "w2": (UNITS, UNITS), "b2": (1, UNITS)}
    shapes |= {"w3": (UNITS, 3), "b3": (1, 3)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


PARAMS, X = _params(), np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
ONES = np.ones(UNITS, np.float32)
FIRST_HALF = (np.arange(UNITS) < UNITS // 2).astype(np.float32)
KEPT = subsets.draw(KEY, UNITS, 0.5)


def mlp(params: Any, x: Any, a: Any = 1.0, b: Any = 1.0) -> jax.Array:
    """`a` and `b`, rows of factors, multiply the units of the hidden layers."""
    h = jax.nn.gelu(x @ params["w1"] + params["b1"]) * a
    h = jax.nn.gelu(h @ params["w2"] + params["b2"]) * b
    return h @ params["w3"] + params["b3"]


def bernoulli(key: jax.Array) -> dict[str, jax.Array]:
    first, second = jax.random.split(key)
    return {"a": jaxdrop.dropout(first, ONES, 0.5), "b": jaxdrop.dropout(second, ONES, 0.4)}


def close(found: Any, expected: Any) -> bool:
    """Equal up to rounding: to 1e-6 of the largest number."""
    return bool(np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max())


def test_samples_are_those_of_masked_passes() -> None:
    """With `jaxdrop.dropout` of a whole batch, in the loop of `mc.predict`; and gradients."""
    keys = mc.keys(KEY, 6)

    def masked(key: jax.Array, params: Any = PARAMS) -> jax.Array:
        first, second = jax.random.split(key)
        h = jax.nn.gelu(X @ params["w1"] + params["b1"])
        h = jaxdrop.dropout(first, h, 0.5, broadcast_dims=(0,))
        h = jax.nn.gelu(h @ params["w2"] + params["b2"])
        h = jaxdrop.dropout(second, h, 0.4, broadcast_dims=(0,))
        return h @ params["w3"] + params["b3"]

    def small(key: jax.Array, params: Any = PARAMS) -> jax.Array:
        return mlp(mc.subnetwork(params, AXES, bernoulli(key), sizes=SIZES), X)

    @jax.jit
    def both(keys: jax.Array) -> Any:
        samples = [mc.predict(fn, keys, batch_size=1) for fn in (masked, small)]
        slopes = [jax.grad(lambda p, fn=fn: fn(keys[0], p).sum())(PARAMS) for fn in (masked, small)]
        return samples, slopes

    samples, slopes = both(keys)
    assert close(samples[1], samples[0])
    assert jax.tree.all(jax.tree.map(close, slopes[1], slopes[0]))
    assert len(np.unique(np.asarray(samples[0])[:, 0, 0])) == 6


def test_what_is_shared_by_samples_is_taken_too() -> None:
    """The first hidden layer, computed once, in place of the weights before it. Known factors need
    no sizes.
    """
    factors = {"a": np.where(np.arange(UNITS) % 3 < 2, 1.5 * ONES, 0), "b": 2 * FIRST_HALF}
    axes = {"h": P(None, "a")} | {name: AXES[name] for name in ("w2", "b2", "w3")}

    @jax.jit
    def both(params: Any) -> tuple[jax.Array, jax.Array]:
        hidden = jax.nn.gelu(X @ params["w1"] + params["b1"])
        small = mc.subnetwork(params | {"h": hidden}, axes, factors)
        assert small["h"].shape == (4, 43)
        assert small["w2"].shape == (43, 32)
        assert small["w1"] is params["w1"]
        h = jax.nn.gelu(small["h"] @ small["w2"] + small["b2"])
        rows = [factors[name][None] for name in "ab"]
        return h @ small["w3"] + small["b3"], mlp(params, X, *rows)

    assert close(*both(PARAMS))


@pytest.mark.parametrize("pattern", ["unit", "block", "slice"])
def test_subsets_of_exactly_so_many_units(pattern: subsets.Pattern) -> None:
    """Their sizes are known, traced or not."""
    options = {"pattern": pattern, "block_size": 8, "groups": 2}

    @jax.jit
    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        drawn = [subsets.draw(part, UNITS, 0.25, **options) for part in jax.random.split(key)]
        factors = dict(zip("ab", drawn, strict=True))
        small = mc.subnetwork(PARAMS, AXES, factors)
        assert small["w2"].shape == (48, 48)
        masks = [kept.scatter(jnp.full(48, kept.scale))[None] for kept in drawn]
        return mlp(small, X), mlp(PARAMS, X, *masks)

    assert close(*both(KEY))


def test_networks_without_random_numbers_are_exported() -> None:
    """Masksembles as four networks; the serialized program draws nothing."""
    masks = {"a": mc.masksembles(KEY, 4, UNITS), "b": mc.masksembles(jaxdrop.key(4), 4, UNITS)}
    sizes = {name: int(mask[0].sum()) for name, mask in masks.items()}
    cut = functools.partial(mc.subnetwork, PARAMS, AXES, sizes=sizes)
    networks = jax.jit(lambda masks: jax.lax.map(cut, masks))(masks)
    assert networks["w2"].shape == (4, sizes["a"], sizes["b"])
    run = jax.jit(lambda x: jax.lax.map(lambda network: mlp(network, x), networks))
    program = export.export(run)(jax.ShapeDtypeStruct(X.shape, X.dtype))
    text = program.mlir_module()
    assert not any(word in text for word in ("ui32", "shift_right", "xor", "sort"))
    found = export.deserialize(program.serialize()).call(X)
    for number in range(4):
        rows = [masks[name][number, None].astype(jnp.float32) for name in "ab"]
        assert close(found[number], mlp(PARAMS, X, *rows))


def test_between_two_layers_a_quarter_of_the_work_is_left() -> None:
    """FLOPs of the compiled programs, at rate 0.5."""
    wide, half = np.zeros((256, 256), np.float32), np.repeat(np.float32([0, 2]), 128)
    axes = {"x": P(None, "a"), "w": P("a*", "b"), "v": P("b*", None)}
    factors = {"a": half, "b": half}

    def cost(fn: Any) -> float:
        return jax.jit(fn).lower(*[wide] * 3).compile().cost_analysis()["flops"]

    def small(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        cut = mc.subnetwork({"x": x, "w": w, "v": v}, axes, factors)
        return jnp.tanh(cut["x"] @ cut["w"]) @ cut["v"]

    def masked(x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
        return (jnp.tanh((x * half[None]) @ w) * half[None]) @ v

    assert 0.3 < cost(small) / cost(masked) < 0.42  # (1/4 + 1/2) / 2, and what is not a product


class Attention(nnx.Module):
    """Heads and a hidden layer, of which a batch drops some."""

    def __init__(self, heads: int, units: int) -> None:
        options = {"decode": False, "rngs": nnx.Rngs(0)}
        self.attention = nnx.MultiHeadAttention(heads, 8, 2 * heads, **options)
        self.up = nnx.Linear(8, units, rngs=nnx.Rngs(1))
        self.down = nnx.Linear(units, 8, rngs=nnx.Rngs(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.relu(self.up(self.attention(x))))


@pytest.mark.usefixtures("relaxed")
def test_heads_and_hidden_units_of_an_nnx_model() -> None:
    """A module of smaller widths takes the state. The masked pass multiplies by the factors where
    they are read.
    """
    x = jnp.linspace(-1, 1, 48).reshape(2, 3, 8)
    heads = jaxdrop.drop_head(KEY, jnp.ones((1, 4, 1)), 0.5, normalize="fixed").ravel()
    factors = {"heads": heads, "mlp": 2 * FIRST_HALF[::4]}
    axes = {f"attention/{name}/kernel": P(None, "heads") for name in ("query", "key", "value")}
    axes |= {f"attention/{name}/bias": P("heads") for name in ("query", "key", "value")}
    axes["attention/out/kernel"] = P("heads*")
    axes |= {"up": {"kernel": P(None, "mlp"), "bias": P("mlp")}, "down": {"kernel": P("mlp*")}}
    graph, params = nnx.split(Attention(heads=4, units=16))
    small_graph = nnx.graphdef(Attention(heads=2, units=8))

    @jax.jit
    def both(params: nnx.State, x: jax.Array) -> tuple[jax.Array, ...]:
        small = nnx.merge(small_graph, mc.subnetwork(params, axes, factors))
        masked = nnx.merge(graph, params)
        out, down = masked.attention.out.kernel, masked.down.kernel
        out[...] = out[...] * factors["heads"][:, None, None]
        down[...] = down[...] * factors["mlp"][:, None]
        return small(x), masked(x)

    assert close(*both(params, x))


def test_an_nnx_module_is_cut_as_a_whole() -> None:
    module = nnx.Linear(3, UNITS, use_bias=False, rngs=nnx.Rngs(0))
    small = mc.subnetwork([module, ONES], [{"kernel": P(None, "a")}, P("a*")], {"a": FIRST_HALF})
    assert isinstance(small[0], nnx.Linear)
    np.testing.assert_array_equal(small[0].kernel, module.kernel[:, : UNITS // 2])


def test_an_array_under_the_key_value() -> None:
    params, axes = {"value": ONES, "read": ONES}, {"value": P("a"), "read": P("a*")}
    small = mc.subnetwork({"attention": params}, {"attention": axes}, {"a": FIRST_HALF})
    assert small["attention"]["value"].size == UNITS // 2


@pytest.mark.usefixtures("relaxed")
def test_a_linen_model_of_smaller_widths() -> None:
    def model(units: int) -> nn.Module:
        return nn.Sequential([nn.Dense(units), nn.relu, nn.Dense(2)])

    mask = np.arange(16) % 3 == 0
    axes = {"layers_0": {"kernel": P(None, "h"), "bias": P("h")}, "layers_2": {"kernel": P("h*")}}

    @jax.jit
    def both(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables = model(16).init(key, X)
        small = mc.subnetwork(variables, {"params": axes}, {"h": mask})
        first, last = (variables["params"][name] for name in ("layers_0", "layers_2"))
        h = jax.nn.relu(X @ first["kernel"] + first["bias"]) * mask
        return model(6).apply(small, X), h @ last["kernel"] + last["bias"]

    assert close(*both(KEY))


def test_more_units_than_the_network_has() -> None:
    """Are an error if they are known; traced ones are NaN in what reads them, and in nothing else.
    `checkify` names them.
    """
    cut = functools.partial(mc.subnetwork, PARAMS, AXES, sizes={"a": 20, "b": UNITS})
    factors = {"a": ONES, "b": ONES}
    with pytest.raises(ValueError, match=r"sizes\['a'\] must be at least .*, 64, got 20"):
        cut(factors)
    small = jax.jit(cut)(factors)
    assert np.isnan(small["w2"]).all()
    assert not np.isnan(small["w1"]).any()
    assert not np.isnan(small["w3"]).any()
    errors = checkify.user_checks
    error, _ = jax.jit(checkify.checkify(cut, errors=errors))(factors)
    assert "sizes['a']=20, but 64 are kept" in str(error.get())


def test_bfloat16_keeps_its_dtype() -> None:
    small = mc.subnetwork(
        {"w": jnp.ones((4, 2), jnp.bfloat16)}, {"w": P("a*")}, {"a": ONES[:4] / 3}
    )
    assert small["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(small["w"], jnp.full((4, 2), 1 / 3, jnp.bfloat16))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"axes": {"w": P("a*")}}, ValueError, "names an array at 'w', but params has 'b1', 'b2'"),
        ({"axes": {"w3": P("a")}}, ValueError, r"no array reads the units 'a'.*P\('a\*', None\)"),
        ({"axes": {"w3": P("a*", None, "a")}}, ValueError, "axis 2 .* at 'w3' .* shape"),
        ({"axes": {"w3": P(None, "a*")}}, ValueError, r"axis 1 .* 64 units 'a'.* \(64, 3\)"),
        ({"factors": {}}, ValueError, "axes names the units 'a', but factors has none"),
        ({"axes": {"w3": ("a*",)}}, TypeError, "axes must hold a .*PartitionSpec"),
        ({"axes": {"w3": P(("a", "b"))}}, TypeError, "units of an axis have one name"),
        ({"factors": ONES}, TypeError, "factors must be a dictionary"),
        ({"factors": {"a": ONES, "c": ONES}}, ValueError, "factors has 'c', but axes names 'a'"),
        ({"factors": {"a": PARAMS["w3"]}}, ValueError, r"must have shape \(units,\)"),
        ({"factors": {"a": ONES[:32]}}, ValueError, r"axis 0 .* 32 units 'a'.* \(64, 3\)"),
        ({"factors": {"a": ONES[:0]}}, ValueError, r"must have shape \(units,\).* got \(0,\)"),
        (
            {"factors": {"a": ONES, **dict.fromkeys("cdefghijk", ONES)}, "axes": {"w3": P("b*")}},
            ValueError,
            "factors has 'a', but axes names 'b'",
        ),
        ({"factors": {"a": np.arange(64)}}, TypeError, "boolean mask or floating factors"),
        ({"factors": {"a": KEPT}, "sizes": {"a": 3}}, ValueError, "Subset, which has its own size"),
        ({"sizes": {"a": 65}}, ValueError, r"sizes\['a'\] must be at most 64, got 65"),
        ({"sizes": {"a": 0}}, ValueError, r"sizes\['a'\] must be at least 1, got 0"),
        ({"sizes": {"c": 1}}, ValueError, "sizes has 'c', but axes names 'a'"),
        ({"sizes": [64]}, TypeError, "sizes must be a dictionary"),
    ],
)
def test_bad_input(options: Any, error: type[Exception], match: str) -> None:
    right = {"params": PARAMS, "axes": {"w3": P("a*")}, "factors": {"a": ONES}}
    with pytest.raises(error, match=match):
        mc.subnetwork(**right | options)


def test_listings_of_names_are_short() -> None:
    for number, more in ((8, "'p7'"), (10, "'p7' and 2 more")):
        params = {f"p{at}": ONES for at in range(number)}
        with pytest.raises(ValueError, match=rf"at 'w', but params has 'p0', .*{more}$"):
            mc.subnetwork(params, {"w": P("a*")}, {"a": ONES})


def test_a_network_without_kept_units_has_one() -> None:
    small = mc.subnetwork(PARAMS, {"w3": P("a*")}, {"a": 0 * ONES})
    np.testing.assert_array_equal(small["w3"], np.zeros((1, 3)))


def test_a_size_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"factors\['a'\] is traced, and sizes .*sizes={'a': ...}"):
        jax.eval_shape(lambda a: mc.subnetwork(PARAMS, {"w3": P("a*")}, {"a": a}), ONES)
