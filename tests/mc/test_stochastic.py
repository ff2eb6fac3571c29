"""What `stochastic` promises in Linen and in NNX alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from tests.catalogue import VARIANTS, Variant

KEY, OTHER = jaxdrop.key(0), jaxdrop.key(1)
ONES = jnp.ones((4, 256))

Function = Callable[..., Any]


# -- models


class LinenModel(nn.Module):
    """Calls `run` with its layers."""

    layers: dict[str, nn.Module]
    run: Function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.layers, *args, **kwargs)


class NNXModel(nnx.Module):
    """The same."""

    def __init__(self, layers: dict[str, nnx.Module], run: Function) -> None:
        self.layers = nnx.data(layers)
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.layers, *args, **kwargs)


def taps(layers: dict[str, Any], x: jax.Array) -> dict[str, jax.Array]:
    """Each layer runs on the output of the one before. All outputs are returned."""
    outputs = {}
    for name, layer in layers.items():
        outputs[name] = x = layer(x)
    return outputs


@dataclasses.dataclass(frozen=True)
class Framework:
    """Makes layers and models of one framework."""

    jaxdrop: ModuleType
    flax: ModuleType
    model: Callable[..., Any]
    width: tuple[int, ...]
    """The first arguments of layers that are told the number of features."""

    @property
    def rngs(self) -> dict[str, nnx.Rngs]:
        """All streams of a model have the same key."""
        return {"rngs": nnx.Rngs(0)} if self.flax is nnx else {}

    def layer(self, name: str, *args: Any, **options: Any) -> Any:
        return getattr(self.jaxdrop, name)(*args, **{"deterministic": True} | options, **self.rngs)

    def dropout(self, rate: float = 0.5, **options: Any) -> Any:
        return self.layer("Dropout", rate, **options)

    def batch_norm(self, features: int, **options: Any) -> Any:
        return self.flax.BatchNorm(*(features,) * len(self.width), **options, **self.rngs)

    def stochastic(
        self, parts: dict[str, Any], run: Function = taps, x: Any = ONES, **options: Any
    ) -> Function:
        model = self.model(parts, run)
        if self.flax is nnx:
            return jaxdrop.nnx.stochastic(model, **options)
        return jaxdrop.linen.stochastic(model, filled(model, x), **options)


def filled(model: nn.Module, x: Any) -> Any:
    """Variables of the right shapes, for less than `init` takes."""
    rngs = {"params": KEY, "dropout": OTHER}
    return jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, 0.3, leaf.dtype), jax.eval_shape(model.init, rngs, x)
    )


LINEN = Framework(jaxdrop.linen, nn, LinenModel, ())
NNX = Framework(jaxdrop.nnx, nnx, NNXModel, (8,))
both = pytest.mark.parametrize("flax", [LINEN, NNX], ids=["linen", "nnx"])


def equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), a, b)))


def correlation(a: jax.Array, b: jax.Array) -> float:
    """Of which positions are dropped, as a standard normal deviate."""
    return float(np.corrcoef(np.ravel(a == 0), np.ravel(b == 0))[0, 1] * np.sqrt(a.size))


# -- every layer

FEATURES = jnp.linspace(0.5, 2, 96).reshape(2, 6, 8)


class Row(NamedTuple):
    """A layer and what it is called with."""

    name: str
    make: Callable[[Framework], Any]
    x: jax.Array = FEATURES
    run: Function = lambda layers, x: layers["layer"](x)


def catalogued(variant: Variant) -> Row:
    def make(flax: Framework) -> Any:
        return (
            variant.nnx(0.5, rngs=nnx.Rngs(0))
            if flax is NNX
            else variant.linen(0.5, deterministic=True)
        )

    return Row(variant.name, make, variant.example())


def attention(flax: Framework, library: ModuleType) -> Any:
    name = "MultiHeadAttention"
    options = {"decode": False} | flax.rngs if flax is NNX else {"deterministic": True}
    return getattr(library, name)(2, *flax.width, dropout_rate=0.5, **options)


def dense(flax: Framework) -> Any:
    return flax.flax.Linear(8, 8, **flax.rngs) if flax is NNX else nn.Dense(8)


def to_itself(layers: dict[str, Any], x: jax.Array) -> Any:
    return layers["layer"](x, x)


ROWS = [
    catalogued(variant)
    for variant in VARIANTS
    if "test_nnx_module_makes_the_same_call" not in variant.exempt
] + [
    Row("flax_dropout", lambda flax: flax.flax.Dropout(0.5, deterministic=True, **flax.rngs)),
    Row("flax_attention", lambda flax: attention(flax, flax.flax)),
    Row("attention", lambda flax: attention(flax, flax.jaxdrop)),
    Row("dropout_1d", lambda flax: flax.layer("Dropout1d", 0.5)),
    Row("dropout_2d", lambda flax: flax.layer("Dropout2d", 0.5), FEATURES.reshape(2, 3, 2, 8)),
    Row("dropout_3d", lambda flax: flax.layer("Dropout3d", 0.5), FEATURES.reshape(2, 3, 2, 1, 8)),
    Row("drop_connect", lambda flax: flax.layer("DropConnect", *flax.width, 8)),
    Row(
        "drop_connect_per_example",
        lambda flax: flax.layer("DropConnect", *flax.width, 8, per="example"),
    ),
    Row(
        "drop_connect_gaussian",
        lambda flax: flax.layer("DropConnect", *flax.width, 8, gaussian=True),
    ),
    Row("dropout_mlp", lambda flax: flax.layer("DropoutMLP", *flax.width, 16, 8, 0.5)),
    Row("variational_dense", lambda flax: flax.layer("VariationalDense", *flax.width, 8)),
    Row(
        "sparse_variational_dense",
        lambda flax: flax.layer("SparseVariationalDense", *flax.width, 8),
    ),
    Row("weight_drop", lambda flax: flax.layer("WeightDrop", dense(flax), 0.5, match="kernel")),
    Row("quant_noise", lambda flax: flax.layer("QuantNoise", dense(flax), 0.5)),
    Row(
        "bias_dropout_add",
        lambda flax: flax.layer("BiasDropoutAdd", *flax.width, 0.5),
        run=to_itself,
    ),
    Row(
        "dropout_add_layer_norm",
        lambda flax: flax.layer("DropoutAddLayerNorm", *flax.width, 0.5),
        run=to_itself,
    ),
]


@both
def test_every_layer_is_here(flax: Framework) -> None:
    """Those that the package exports: another one belongs into the catalogue, or into this list."""
    kind = nn.Module if flax is LINEN else nnx.Module
    exported = {
        layer
        for layer in vars(flax.jaxdrop).values()
        if isinstance(layer, type) and issubclass(layer, kind)
    }
    made = {type(module) for row in ROWS for module in parts(row.make(flax))}
    assert {layer for layer in exported if not any(issubclass(one, layer) for one in made)} == set()


def parts(layer: Any) -> list[Any]:
    inner = getattr(layer, "layer", None)
    return [layer] if inner is None else [layer, inner]


@pytest.mark.sweep(keep=28)
@both
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_layer_is_on(flax: Framework, row: Row) -> None:
    """Only traced, for there are many. That its output depends on the key is what `stochastic`
    itself looks at.
    """
    fn = flax.stochastic({"layer": row.make(flax)}, row.run, row.x)
    first, second = (jax.make_jaxpr(fn)(KEY, row.x) for _ in range(2))
    assert str(first) == str(second)
    with pytest.raises(ValueError, match="nothing is random"):
        without_keys(flax, row)(KEY, row.x)


def without_keys(flax: Framework, row: Row) -> Function:
    """The same layer, whose output is not used."""
    unused = flax.stochastic(
        {"layer": row.make(flax)}, lambda layers, x: (row.run(layers, x), x)[1], row.x
    )
    return lambda key, x: jax.eval_shape(unused, key, x)


# -- keys and masks


@both
def test_layers_have_masks_of_their_own(flax: Framework) -> None:
    """5 sigma: wrong once in 2e6. In NNX the streams of both layers are equal before."""
    seen = flax.stochastic(
        {"a": flax.dropout(), "b": flax.dropout()},
        lambda layers, x: (layers["a"](x), layers["b"](x)),
    )
    assert abs(correlation(*seen(KEY, ONES))) < 5


@both
def test_a_layer_that_is_called_twice_draws_two_masks(flax: Framework) -> None:
    seen = flax.stochastic(
        {"a": flax.dropout()}, lambda layers, x: (layers["a"](x), layers["a"](x))
    )
    assert abs(correlation(*seen(KEY, ONES))) < 5


@both
def test_vmap_over_keys_equals_a_loop(flax: Framework) -> None:
    fn = flax.stochastic(
        {"a": flax.dropout(), "b": flax.flax.Dropout(0.5, deterministic=True, **flax.rngs)}
    )
    keys = jaxdrop.mc.keys(KEY, 3)
    samples = jax.jit(jax.vmap(fn, in_axes=(0, None)))(keys, ONES)
    assert equal(
        samples, jax.tree.map(lambda *each: jnp.stack(each), *(fn(key, ONES) for key in keys))
    )
    dropped = np.asarray(samples["a"] == 0).sum(0)
    assert dropped.min() >= 1  # of three stratified samples at rate 1/2, one or two
    assert dropped.max() <= 2


@both
@pytest.mark.parametrize(
    "key", [jax.random.key(3), jax.random.PRNGKey(3)], ids=["threefry", "legacy"]
)
def test_keys_of_jax(flax: Framework, key: jax.Array) -> None:
    fn = flax.stochastic({"a": flax.dropout()})
    assert equal(fn(key, ONES), fn(jax.random.key(3), ONES))


# -- settings of the model


@both
def test_the_constructor_and_the_caller_say_otherwise(flax: Framework) -> None:
    def run(layers: dict[str, Any], x: jax.Array) -> list[jax.Array]:
        outputs = [layers["constructor"](x), layers["caller"](x, deterministic=True)]
        # Linen takes one of the two.
        return (
            outputs if flax is LINEN else [*outputs, layers["constructor"](x, deterministic=True)]
        )

    seen = flax.stochastic(
        {
            "constructor": flax.dropout(deterministic=True),
            "caller": flax.dropout(deterministic=None),
        },
        run,
    )
    assert [abs(float((y == 0).mean()) - 0.5) < 0.1 for y in seen(KEY, ONES)] == [True] * (
        2 if flax is LINEN else 3
    )


class MyLinenDropout(jaxdrop.linen.Dropout):
    """A layer of a user's, which always tells its base not to drop."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(x, deterministic=True) + 1


class MyDropout(jaxdrop.nnx.Dropout):
    """The same."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(x, deterministic=True) + 1


@both
def test_layers_of_this_library_keep_their_class_and_their_code(flax: Framework) -> None:
    kind = MyDropout if flax is NNX else MyLinenDropout

    def run(layers: dict[str, Any], x: jax.Array) -> jax.Array:
        assert type(layers["a"]) is kind
        return layers["a"](x)

    y = flax.stochastic({"a": kind(0.5, **flax.rngs)}, run)(KEY, ONES)
    assert abs(float((y == 1).mean()) - 0.5) < 0.1


@both
def test_batch_norm_uses_its_running_statistics(flax: Framework) -> None:
    x = jnp.linspace(-1, 3, 32).reshape(4, 8)
    layers = {
        "constructor": flax.batch_norm(8, use_running_average=False),
        "caller": flax.batch_norm(8, use_running_average=None),
        "dropout": flax.dropout(),
    }

    def run(layers: dict[str, Any], x: jax.Array) -> Any:
        return (
            [
                layers["constructor"](x),
                layers["caller"](x, use_running_average=False),
                layers["caller"](x, False),
            ],
            layers["dropout"](x),
        )

    normalized, dropped = flax.stochastic(layers, run, x)(KEY, x)
    evaluated = flax.batch_norm(8, use_running_average=True)
    expected = evaluated(x) if flax is NNX else evaluated.apply(filled(evaluated, x), x)
    assert [equal(y, expected) for y in normalized] == [True] * 3
    assert (dropped == 0).any()


@both
def test_spectral_norm_does_not_move(flax: Framework) -> None:
    if not hasattr(flax.flax, "SpectralNorm"):
        pytest.skip("this Flax has no nnx.SpectralNorm")
    x = jnp.ones((2, 8))
    inner = nnx.Linear(8, 8, rngs=nnx.Rngs(0)) if flax is NNX else nn.Dense(8)
    layers = {"norm": flax.flax.SpectralNorm(inner, **flax.rngs), "dropout": flax.dropout()}
    fn = flax.stochastic(
        layers, lambda layers, x: layers["dropout"](layers["norm"](x, update_stats=True)), x
    )
    assert fn(KEY, x).shape == (2, 8)


@both
def test_the_dropout_of_flax_attention(flax: Framework) -> None:
    fn = flax.stochastic({"attention": attention(flax, flax.flax)}, x=FEATURES)
    assert not equal(fn(KEY, FEATURES), fn(OTHER, FEATURES))


# -- which layers


def three(flax: Framework, **options: Any) -> Function:
    return flax.stochastic(
        {"a": flax.dropout(), "b": flax.dropout(), "c": flax.dropout(0.0)}, **options
    )


def changing(fn: Function) -> list[str]:
    """The layers at whose output two keys differ."""
    one, other = fn(KEY, ONES), fn(OTHER, ONES)
    return [name for name in one if not equal(one[name], other[name])]


@both
@pytest.mark.parametrize(
    ("layers", "on"),
    [
        ("all", ["a", "b", "c"]),
        ("last", ["b", "c"]),  # c drops nothing: what changes is what comes in
        ("*b", ["b", "c"]),
        (["*a", "*c"], ["a", "b", "c"]),
        (lambda path, module: path.endswith("b") and module.rate == 0.5, ["b", "c"]),
    ],
)
def test_some_layers(flax: Framework, layers: Any, on: list[str]) -> None:
    fn = three(flax, layers=layers)
    assert changing(fn) == on
    assert all(equal(fn(KEY, ONES)[name], ONES) for name in "abc" if name not in on)


@both
def test_the_last_layer_may_have_run_before(flax: Framework) -> None:
    """It is one layer, in both places."""
    fn = flax.stochastic(
        {"a": flax.dropout(), "b": flax.dropout()},
        lambda layers, x: [layers[name](x) for name in "aba"],
        layers="last",
    )
    assert [equal(y, ONES) for y in fn(KEY, ONES)] == [False, True, False]


@both
def test_functions_that_the_model_calls_itself(flax: Framework) -> None:
    def run(layers: dict[str, Any], x: jax.Array, train: bool = False) -> jax.Array:
        key = layers["keys"]()
        return jaxdrop.dropout(key, x, 0.5, deterministic=not train)

    fn = flax.stochastic({"keys": LinenKeys() if flax is LINEN else NNXKeys()}, run)
    assert not equal(fn(KEY, ONES, train=True), fn(OTHER, ONES, train=True))
    with pytest.raises(ValueError, match="nothing is random"):
        fn(KEY, ONES)


class LinenKeys(nn.Module):
    """Makes keys."""

    def __call__(self) -> jax.Array:
        return self.make_rng("dropout")


class NNXKeys(nnx.Module):
    """Makes keys."""

    def __init__(self) -> None:
        self.rngs = nnx.Rngs(0)

    def __call__(self) -> jax.Array:
        return self.rngs.dropout()


# -- one mask for the batch


@both
def test_each_example_has_its_own_mask_or_all_share_one(flax: Framework) -> None:
    layers = {
        "a": flax.dropout(),
        "path": flax.layer("DropPath", 0.5),
        "attention": attention(flax, flax.jaxdrop),
    }
    x = jnp.broadcast_to(FEATURES[:1], (8, 6, 8))
    own, shared = (
        jax.jit(
            flax.stochastic(
                layers,
                lambda layers, x: [layer(x) for layer in layers.values()],
                x,
                shared_mask=shared,
            )
        )(KEY, x)
        for shared in (False, True)
    )
    for each, same in zip(own, shared, strict=True):
        assert each.shape == same.shape
        assert not all(equal(row, each[0]) for row in each)
        assert all(equal(row, same[0]) for row in same)


@both
def test_inputs_without_a_batch_axis(flax: Framework) -> None:
    def run(
        layers: dict[str, Any],
        x: jax.Array,
        table: jax.Array = ONES[0],
        scale: Any = 1.0,
        bias: Any = 0.0,
    ) -> jax.Array:
        return layers["a"](x) * table[None, :] * scale + bias

    table, x = jnp.arange(1.0, 257), ONES[:3]
    fn = flax.stochastic({"a": flax.dropout()}, run, shared_mask=True, in_axes=(0, None))
    plain = fn(KEY, x, table)
    assert plain.shape == (3, 256)
    assert equal(fn(KEY, x, table, scale=jnp.float32(2)), 2 * plain)
    assert equal(fn(KEY, x, table, bias=jnp.arange(3.0)[:, None]), plain + jnp.arange(3.0)[:, None])
    with pytest.raises(ValueError, match=r"in_axes=\(0, None\) names 2 inputs, but the call has 1"):
        fn(KEY, x)
    with pytest.raises(ValueError, match="needs an input with a batch axis"):
        fn(KEY, 1.0, table)


@both
def test_the_batch_may_be_the_second_axis(flax: Framework) -> None:
    x = jnp.ones((5, 3, 64))
    y = flax.stochastic(
        {"a": flax.dropout()},
        lambda layers, x: layers["a"](x),
        x,
        shared_mask=True,
        in_axes=1,
        out_axes=1,
    )(KEY, x)
    assert y.shape == x.shape
    assert equal(y[:, 0], y[:, 2])
    assert not equal(y[0], y[1])


@both
def test_outputs_without_a_batch_axis(flax: Framework) -> None:
    fn = flax.stochastic(
        {"a": flax.dropout()}, lambda layers, x: layers["a"](x).sum(), shared_mask=True
    )
    with pytest.raises(ValueError, match=r"output of shape \(\) has no batch axis"):
        fn(KEY, ONES)


# -- errors


@both
def test_nothing_is_random(flax: Framework) -> None:
    layers = {"a": flax.dropout(0.0), "b": flax.flax.Dropout(0.0, deterministic=False, **flax.rngs)}
    with pytest.raises(
        ValueError,
        match=r"nothing is random(.|\n)*layers.a: Dropout\(rate=0\)\n.*layers.b: Dropout\(rate=0\)",
    ):
        flax.stochastic(layers)(KEY, ONES)


@both
def test_there_is_no_layer(flax: Framework) -> None:
    with pytest.raises(
        ValueError,
        match=r"output does not depend on the key\. It has no dropout layer\. Either\n1\. add",
    ):
        flax.stochastic({"a": flax.batch_norm(256, use_running_average=True)})(KEY, ONES)


@both
def test_no_layer_is_chosen(flax: Framework) -> None:
    message = (
        r"layers='nope/\*' chooses no dropout layer of .*Model.\nIts dropout layers are:\n "
        r" layers.a: Dropout\(rate=0.5\)"
    )
    with pytest.raises(ValueError, match=message):
        three(flax, layers="nope/*")(KEY, ONES)


@both
def test_a_chosen_layer_has_rate_0(flax: Framework) -> None:
    message = (
        r"nothing is random(.|\n)*b: Dropout\(rate=0.5\) \(not chosen\)(.|\n)*1. give a chosen"
        r" layer a rate"
    )
    with pytest.raises(ValueError, match=message):
        three(flax, layers="*c")(KEY, ONES)


@both
@pytest.mark.parametrize("layers", [[], 3, ["a", 1], None])
def test_layers_of_another_kind(flax: Framework, layers: Any) -> None:
    with pytest.raises(ValueError, match="layers must be 'all', 'last', a pattern"):
        three(flax, layers=layers)


@both
def test_keys_of_another_kind(flax: Framework) -> None:
    fn = three(flax)
    with pytest.raises(
        ValueError, match=r"takes a single key, but key is an array of keys of shape \(3,\)"
    ):
        fn(jaxdrop.mc.keys(KEY, 3), ONES)
    with pytest.raises(TypeError, match="key must be a JAX PRNG key"):
        fn(0, ONES)


def test_models_of_another_kind() -> None:
    with pytest.raises(TypeError, match=r"jaxdrop\.nnx\.stochastic"):
        jaxdrop.linen.stochastic(NNX.dropout(), {})
    with pytest.raises(TypeError, match=r"jaxdrop\.linen\.stochastic"):
        jaxdrop.nnx.stochastic(LINEN.dropout())
