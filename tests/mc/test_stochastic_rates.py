"""Other rates and layouts for the layers of a model, in Linen and in NNX alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import mc
from tests.catalogue import VARIANTS, Variant
from tests.compilation import quick
from tests.mc.test_stochastic import FEATURES, NNX, ONES, Framework, both, equal, filled

KEY = jaxdrop.key(0)
ROWS = [
    variant for variant in VARIANTS if "test_nnx_module_makes_the_same_call" not in variant.exempt
]
WITHOUT_RATE = {"gaussian_noise", "uniform_dropout", "neftune"}
LEARNED = {"concrete_dropout", "concrete_dropout_spatial", "variational_dropout"}


def attention(flax: Framework, library: Any, rate: float, **options: Any) -> Any:
    if flax is NNX:
        return library.MultiHeadAttention(
            2, 8, dropout_rate=rate, decode=False, **options, **flax.rngs
        )
    return library.MultiHeadAttention(2, dropout_rate=rate, deterministic=True, **options)


def mixed(flax: Framework, rate: float = 0.5, other: float = 0.25) -> dict[str, Any]:
    return {
        "flax": flax.flax.Dropout(rate, deterministic=True, **flax.rngs),
        "own": flax.dropout(other),
        "zero": flax.dropout(0.0),
        "attention": attention(flax, flax.flax, rate, broadcast_dropout=False),
        "own_attention": attention(flax, flax.jaxdrop, other),
    }


def apart(layers: dict[str, Any], x: jax.Array) -> dict[str, jax.Array]:
    """Each layer runs on the input."""
    return {name: layer(x) for name, layer in layers.items()}


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), a, b)


# -- what is replaced


@pytest.mark.sweep(keep=20)
@both
@pytest.mark.parametrize("variant", ROWS, ids=lambda variant: variant.name)
def test_a_layer_is_as_if_it_were_made_with_the_rate(flax: Framework, variant: Variant) -> None:
    x = variant.example()

    def program(made: float, **options: Any) -> str:
        layer = (
            variant.nnx(made, rngs=nnx.Rngs(0))
            if flax is NNX
            else variant.linen(made, deterministic=True)
        )
        fn = flax.stochastic({"layer": layer}, lambda layers, x: layers["layer"](x), x, **options)
        return str(jax.make_jaxpr(fn)(KEY, x))

    if variant.name in WITHOUT_RATE | LEARNED:
        with pytest.raises(ValueError, match="rate replaces the rate of no dropout layer"):
            program(0.5, rate=0.25)
    else:
        assert (
            program(0.5, rate=0.25)
            == program(0.5, rates={"*": 0.25})
            == program(0.25)
            != program(0.5)
        )


@both
def test_known_and_traced_rates_draw_the_masks_of_layers_made_with_them(flax: Framework) -> None:
    """Flax's own layers too, of which another code takes the place."""
    traces = []

    @quick
    def traced(rate: jax.Array, other: jax.Array) -> Any:
        traces.append(rate)
        fn = flax.stochastic(mixed(flax), apart, FEATURES, rate=rate, rates={"*own*": other})
        return fn(KEY, FEATURES)

    rate, other = 0.1, 0.75
    made = flax.stochastic(mixed(flax, rate, other), apart, FEATURES)
    known = flax.stochastic(mixed(flax), apart, FEATURES, rate=rate, rates={"*own*": other})
    expected, got = quick(lambda key, x: (made(key, x), known(key, x)))(KEY, FEATURES)
    close(got, expected)
    close(traced(rate, other), expected)
    unchanged = traced(0.0, 1.0)
    assert equal(unchanged["flax"], FEATURES)
    assert not unchanged["own"].any()
    assert len(traces) == 1


@both
def test_vmap_over_rates_and_keys(flax: Framework) -> None:
    keys, rates = mc.keys(KEY, 4), jnp.array([0.0, 0.5, 0.9])

    def samples(rate: jax.Array) -> jax.Array:
        fn = flax.stochastic(
            {"a": flax.flax.Dropout(0.5, deterministic=True, **flax.rngs)}, rate=rate
        )
        return mc.predict(lambda key: fn(key, ONES), keys)["a"]

    dropped = (quick(jax.vmap(samples))(rates) == 0).mean((1, 2, 3))
    np.testing.assert_allclose(dropped, rates, atol=0.03)  # 4 sigma of 4096 entries


@both
def test_a_rate_of_zero_stays_unless_it_is_named(flax: Framework) -> None:
    layers = {"a": flax.dropout(0.5), "b": flax.dropout(0.0), "c": attention(flax, flax.flax, 0.0)}
    named = {"rates": {"*": 0.3, "*b": 0.9}}
    functions = [
        flax.stochastic(layers, apart, FEATURES, **options) for options in ({"rate": 0.3}, named)
    ]
    outputs = quick(lambda key, x: [fn(key, x) for fn in functions])(KEY, FEATURES)
    assert [float((one["b"] == 0).mean()) > 0.7 for one in outputs] == [False, True]
    assert equal(outputs[0]["a"], outputs[1]["a"])
    assert not equal(outputs[0]["c"], outputs[1]["c"])


@both
def test_a_rate_of_zero_is_a_rate(flax: Framework) -> None:
    """A loop over known rates may begin with 0, as a traced one may."""
    assert equal(flax.stochastic({"a": flax.dropout()}, rate=0)(KEY, ONES)["a"], ONES)


@both
def test_of_several_rates_those_above_zero_or_the_named_one(flax: Framework) -> None:
    def rnn(**rates: float) -> dict[str, Any]:
        cell = nnx.GRUCell(8, 8, rngs=nnx.Rngs(0)) if flax is NNX else nn.GRUCell(8)
        return {"rnn": flax.layer("RNN", cell, **rates)}

    def program(parts: dict[str, Any], /, **options: Any) -> str:
        return str(
            jax.make_jaxpr(flax.stochastic(parts, apart, FEATURES, **options))(KEY, FEATURES)
        )

    made = rnn(input_rate=0.5, hidden_zoneout=0.25)
    both_rates = program(rnn(input_rate=0.125, hidden_zoneout=0.125))
    assert (
        program(made, rate=0.125)
        == program(made, rates={"*rnn": 0.125})
        == program(made, rates={"*": 0.125})
        == both_rates
    )
    assert program(made, rates={"*/input_rate": 0.125}) == program(
        rnn(input_rate=0.125, hidden_zoneout=0.25)
    )
    named = program(rnn(input_rate=0.5, hidden_zoneout=0.25, output_rate=0.125))
    assert program(made, rates={"*/output_rate": 0.125}) == named
    assert program(made, rates={"*/output_rate": 0.125}, layers="*rnn") == named


@both
def test_only_layers_that_are_on_are_replaced(flax: Framework) -> None:
    """Classic dropout multiplies by 1 - rate where it is off."""
    layers = {"a": flax.dropout(0.5), "b": flax.layer("ClassicDropout", 0.5)}
    seen = flax.stochastic(layers, apart, layers="*a", rate=0.25)(KEY, ONES)
    assert equal(seen["b"], 0.5 * ONES)


@pytest.mark.parametrize(
    ("lift", "scanned"),
    [(nn.jit, False), (nn.jit, True), (nn.remat, True)],
    ids=["jit", "scan", "remat"],
)
def test_linen_transformations_take_each_rate(lift: Callable[..., Any], scanned: bool) -> None:
    """Nothing that nn.jit has traced before holds a rate that was traced outside of it."""
    block = lift(Pair)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> Any:
            if not scanned:
                return block()(x)
            scan = nn.scan(
                lambda block, x, _: (x, block(x)), split_rngs={"dropout": True}, length=3
            )
            return scan(block(), x, None)[1]

    takes_each_rate(lambda **options: jaxdrop.linen.stochastic(Model(), {}, **options))


class Pair(nn.Module):
    """Flax's layer and this library's."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        return nn.Dropout(0.5, deterministic=True)(x), jaxdrop.linen.Dropout(
            0.5, deterministic=True
        )(x)


class NNXPair(nnx.Module):
    """The same."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.flax, self.own = nnx.Dropout(0.5, rngs=rngs), jaxdrop.nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        return self.flax(x), self.own(x)


@nnx.jit
def _jitted(pair: NNXPair, x: jax.Array) -> Any:
    return pair(x)


@nnx.scan(in_axes=(0, nnx.Carry), out_axes=(nnx.Carry, 0))
def _scanned(pair: NNXPair, x: jax.Array) -> Any:
    return x, pair(x)


@pytest.mark.parametrize("how", ["jit", "remat", "scan"])
def test_nnx_transformations_take_each_rate(how: str) -> None:
    pair = (
        NNXPair(nnx.Rngs(0))
        if how != "scan"
        else nnx.vmap(lambda key: NNXPair(nnx.Rngs(key)))(jax.random.split(KEY, 3))
    )
    methods = {
        "jit": _jitted,
        "remat": nnx.remat(lambda pair, x: pair(x)),
        "scan": lambda pair, x: _scanned(pair, x)[1],
    }
    takes_each_rate(lambda **options: jaxdrop.nnx.stochastic(pair, method=methods[how], **options))


def takes_each_rate(make: Callable[..., Any]) -> None:
    traced = quick(lambda rate: make(rate=rate)(KEY, ONES))
    for run in (lambda rate: make(rate=rate)(KEY, ONES), traced):
        for rate in (0.1, 0.9):
            np.testing.assert_allclose(
                [float((y == 0).mean()) for y in run(rate)], [rate, rate], atol=0.05
            )


class MyDropout(nnx.Dropout):
    """A layer of a user's."""

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        return super().__call__(x, **options) + 1


class MyLinenDropout(nn.Dropout):
    """The same."""

    @nn.compact
    def __call__(
        self, x: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None
    ) -> jax.Array:
        return super().__call__(x, deterministic, rng) + 1


@both
def test_a_subclass_keeps_its_code(flax: Framework) -> None:
    layer = (
        MyDropout(0.5, rngs=nnx.Rngs(0)) if flax is NNX else MyLinenDropout(0.5, deterministic=True)
    )
    y = quick(lambda rate: flax.stochastic({"a": layer}, rate=rate)(KEY, ONES)["a"])(0.9)
    assert float((y == 1).mean()) > 0.8


@both
def test_the_rate_of_another_attention_function(flax: Framework) -> None:
    """Known, it goes to any function. Traced, it cannot go to one that compares it."""
    function = flax.flax.dot_product_attention
    layer = {
        "a": attention(
            flax, flax.flax, 0.5, attention_fn=lambda *args, **options: function(*args, **options)
        )
    }
    plain = {"a": attention(flax, flax.flax, 0.25)}

    def run(layers: dict[str, Any], **options: Any) -> Any:
        return flax.stochastic(layers, x=FEATURES, **options)(KEY, FEATURES)

    if flax is NNX:  # Linen passes what the function names, and this one names nothing
        close(run(layer, rate=0.25), run(plain))
        with pytest.raises(
            TypeError, match=r"rate of layers/a is traced, and its attention_fn compares it"
        ):
            jax.eval_shape(lambda rate: run(layer, rate=rate), jnp.float32(0.1))


# -- fitting


@both
def test_fit_rate_fits_a_model(flax: Framework) -> None:
    """The losses are those of models that were made with each rate."""
    rates, keys = [0.0, 0.25, 0.5], mc.keys(KEY, 4)

    def made(rate: float, /, **options: Any) -> Callable[..., Any]:
        return flax.stochastic(
            {
                "a": flax.flax.Dropout(rate, deterministic=True, **flax.rngs),
                "b": flax.dropout(rate),
            },
            **options,
        )

    def loss(samples: dict[str, jax.Array]) -> jax.Array:
        return jnp.abs(samples["b"].var() - 1.5)

    fitted = mc.fit_rate(lambda key, rate: made(0.125, rate=rate)(key, ONES), rates, keys, loss)
    each = [
        loss(mc.predict(lambda key, rate=rate: made(rate)(key, ONES), keys)) for rate in rates[1:]
    ]
    np.testing.assert_allclose(fitted.losses, [1.5, *each], rtol=1e-5)
    with pytest.raises(ValueError, match="does not depend on the rate: fn"):
        mc.fit_rate(lambda key, rate: made(0.5)(key, ONES), rates, keys, loss)


# -- errors


@both
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"rates": {"typo": 0.1}},
            r"'typo' in rates replaces the rate of no dropout layer(.|\n)*a: Dropout\(rate=0.5\)\n",
        ),
        (
            {"rates": {"*a": 0.1, "*": 0.2}},
            r"'\*a' in rates(.|\n)*a: Dropout\(rate=0.5 -> 0.2\)\n(.|\n)*the later one counts",
        ),
        (
            {"layers": "*b", "rates": {"*a": 0.1}},
            r"pattern '\*a' in rates(.|\n)*a: Dropout\(rate=0.5\) \(not chosen\)",
        ),
        ({"layers": ["*a", "typo"]}, r"pattern 'typo' in layers is the path of no dropout layer"),
        (
            {"spec": {"typo": PartitionSpec("data")}},
            r"pattern 'typo' in spec lays out the input of no dropout layer",
        ),
    ],
)
def test_a_pattern_that_says_nothing(flax: Framework, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        flax.stochastic({"a": flax.dropout(), "b": flax.dropout(0.25)}, **options)(KEY, ONES)


@both
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rate": 1.5}, ValueError, r"rate must lie in \[0, 1\], got 1.5"),
        ({"rates": {"a": -1}}, ValueError, r"rates\['a'\] must lie in \[0, 1\], got -1"),
        ({"rate": "0.5"}, TypeError, "rate must be a real number in"),
        (
            {"rate": jnp.ones(3) / 2},
            ValueError,
            r"rate must be one number.*vmap.*rate has shape \(3,\)",
        ),
        (
            {"rates": 0.5},
            TypeError,
            "rates must map patterns of paths to values, as in .* got float 0.5",
        ),
        ({"rates": {1: 0.5}}, TypeError, "rates must map patterns of paths to values"),
        (
            {"spec": "data"},
            TypeError,
            "spec must be a jax.sharding.PartitionSpec of names, got 'data'",
        ),
        (
            {"spec": {"a": "data"}},
            TypeError,
            "spec must be a jax.sharding.PartitionSpec of names, got 'data'",
        ),
        (
            {"spec": PartitionSpec("data"), "shared_mask": True},
            ValueError,
            "divides axis 0, the batch",
        ),
        ({"shared_mask": "False"}, TypeError, "shared_mask must be True or False, got 'False'"),
        (
            {"in_axes": "0"},
            TypeError,
            "in_axes must be the number of an axis, None, or a sequence .* got '0'",
        ),
        (
            {"in_axes": (0, 1.5)},
            TypeError,
            "in_axes must be the number of an axis, None, or a sequence .* got 1.5",
        ),
        ({"out_axes": None}, TypeError, "out_axes must be the number of an axis, got None"),
        (
            {"method": 3},
            TypeError,
            r"method must be the name of a method, or a function of \(model, \*inputs\), got 3",
        ),
        ({"method": "typo"}, ValueError, r"method='typo': \w+ has no such method"),
    ],
)
def test_bad_values(flax: Framework, options: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        flax.stochastic({"a": flax.dropout()}, **options)


# -- layouts

MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "seq"))
P = PartitionSpec


def divided(fn: Callable[..., Any], x: jax.Array, spec: PartitionSpec) -> Any:
    return jax.jit(jax.shard_map(lambda x: fn(KEY, x), mesh=MESH, in_specs=spec, out_specs=spec))(x)


@pytest.mark.sweep(keep=1)
@both
def test_each_device_draws_its_part(flax: Framework) -> None:
    """Weights have one mask on all devices, and a layer that has a layout of its own keeps it."""
    x = jnp.concatenate([FEATURES] * 2)
    layers = {
        "flax": flax.flax.Dropout(0.5, deterministic=True, **flax.rngs),
        "attention": attention(flax, flax.flax, 0.5, broadcast_dropout=False),
        "weights": flax.layer("DropConnect", *flax.width, 8),
        "rows": flax.layer("DropConnect", *flax.width, 8, per="example"),
        "laid_out": flax.dropout(spec=P("data")),
    }
    variables: dict[str, Any] = {} if flax is NNX else filled(flax.model(layers, apart), x)

    def make(**options: Any) -> Callable[..., Any]:
        model = flax.model(layers, apart)
        if flax is NNX:
            return jaxdrop.nnx.stochastic(model, **options)
        return jaxdrop.linen.stochastic(model, variables, **options)

    whole = jax.shard_map(
        lambda x: make(rates={"*flax": 0.25})(KEY, x),
        mesh=Mesh(MESH.devices[:1, :1], ("data", "seq")),
        in_specs=P(),
        out_specs=P(),
        check_vma=False,
    )
    whole = jax.jit(whole)(x)
    close(divided(make(rates={"*flax": 0.25}, spec=P("data")), x, P("data")), whole)


@both
def test_layouts_by_path(flax: Framework) -> None:
    layers = {
        "a": flax.flax.Dropout(0.5, deterministic=True, **flax.rngs),
        "b": flax.dropout(spec=P()),
    }
    x = jnp.ones((8, 6, 8))
    whole = flax.stochastic(layers, apart, x, spec=None)(KEY, x)
    spec = P("data", "seq")
    close(divided(flax.stochastic(layers, apart, x, spec={"*": spec}), x, spec), whole)
    one = divided(flax.stochastic(layers, apart, x, spec={"*": P("seq"), "*b": spec}), x, spec)
    assert equal(one["b"], whole["b"])
    assert not equal(one["a"], whole["a"])


def test_a_function_of_attention_that_takes_no_layout() -> None:
    layer = nnx.MultiHeadAttention(
        2, 8, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0), attention_fn=_without_layout
    )
    with pytest.raises(ValueError, match="the attention_fn of the model takes no spec"):
        jaxdrop.nnx.stochastic(layer, spec=P("data"))(KEY, FEATURES)


def _without_layout(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout_rng: Any,
    dropout_rate: Any,
    broadcast_dropout: Any,
    deterministic: Any,
    dtype: Any,
    precision: Any,
    module: Any,
    is_causal: Any,
) -> Any:
    return query
