"""`jaxdrop.linen.replace_dropout`: models in the manner of public code, with Flax as the oracle."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.nnx
from jaxdrop.linen import replace_dropout
from tests.compilation import quick

pytestmark = pytest.mark.usefixtures("relaxed")

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)


class MLP(nn.Module):
    """In the manner of big_vision: positional rate and axes, `deterministic` by position."""

    dims: Any = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dropout(0.5, self.dims)(nn.Dense(8)(x), not train)
        return nn.Dense(3)(nn.Dropout(rate=0.25)(x, deterministic=not train))


class Named(nn.Dropout):
    """In the manner of MaxText: a class of its own, with another default."""

    rng_collection: str = "noise"


class Mode(nn.Dropout):
    """In the manner of Kauldron: the mode comes from elsewhere, and a key with the call."""

    train: bool = True

    @nn.compact
    def __call__(self, inputs: Any, *, rng: Any = None) -> Any:  # type: ignore[override]
        return super().__call__(inputs, deterministic=not self.train, rng=rng)


class Custom(nn.Module):
    """Each layer in another manner."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Named(0.5)(x + 1, deterministic=not train)
        x = Mode(0.25, train=train)(x)
        if train:
            x = Mode(0.25)(x, rng=jax.random.key(7))
        return nn.Dropout(0.0)(nn.Dropout(1.0)(x, True), False)


class StochasticDepth(nn.Module):
    """In the manner of scenic: dropout of whole examples, by a `range` of axes."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        dims = range(1, x.ndim)
        return nn.Dropout(self.rate, broadcast_dims=dims)(x, deterministic=deterministic)


class Block(nn.Module):
    """An encoder block, in the manner of scenic's ViT."""

    options: tuple[tuple[str, Any], ...] = ()
    mask: bool = False
    attention: Any = nn.MultiHeadDotProductAttention

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        mask = None
        if self.mask:  # the last two queries see no key
            mask = nn.make_attention_mask(jnp.arange(6) < 4, jnp.arange(6) < 4)[None]
        attend = self.attention(2, dropout_rate=0.25, **dict(self.options))
        y = attend(nn.LayerNorm()(x), mask=mask, deterministic=not train)
        x = x + StochasticDepth(0.1)(nn.Dropout(0.25)(y, not train), not train)
        return x + nn.Dropout(0.5, broadcast_dims=[-2])(nn.Dense(8)(x), not train)


class ResNet(nn.Module):
    """Batch norm, and dropout before the head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3,))(x))
        x = nn.relu(x + nn.Dropout(0.25, broadcast_dims=(-2,))(y, not train))
        return nn.Dense(3)(nn.Dropout(0.5)(x.mean(1), not train))


class Small(nn.Module):
    """Attention of the older class, and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.SelfAttention(2, dropout_rate=0.25)(x, deterministic=not train)
        return nn.Dropout(0.5)(x, not train)


class Lifted(nn.Module):
    """Layers under scan, remat and vmap."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
        block = functools.partial(nn.remat(Block, static_argnums=(2,)), attention=nn.SelfAttention)
        body = nn.scan(
            lambda block, x, _: (block(x, train), None),
            length=2,
            **over,  # type: ignore[arg-type]
        )
        x, _ = body(block(), x, None)
        many = nn.vmap(MLP, in_axes=(None, None), axis_size=2, **over)  # type: ignore[arg-type]
        return nn.jit(MLP, static_argnums=(2,))()(many()(x, train), train)


def partial_attention(**options: Any) -> tuple[tuple[str, Any], ...]:
    return tuple({"attention_fn": functools.partial(nn.dot_product_attention, **options)}.items())


MODELS = {
    "MLP": MLP(dims=(-1, -2, 1)),
    "custom": Custom(),
    "ResNet": ResNet(),
    "encoder": Block(mask=True),
    "masks for each head": Block(
        (("broadcast_dropout", False), *partial_attention(force_fp32_for_softmax=True)),
        attention=nn.MultiHeadAttention,
    ),
    "lifted": Lifted(),
}


def report_of(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What `replace_dropout` says when a model is made and run, without running it."""
    keys = {"params": KEY, "dropout": KEY, "noise": KEY}
    with replace_dropout() as report:
        jax.eval_shape(lambda: model.init_with_output(keys, *args, **kwargs))
    return report


def everything(name: str) -> Any:
    """Variables, evaluation, and the loss, its gradient and statistics of a step of training, in
    one program.
    """
    model, rngs = MODELS[name], {"dropout": KEY, "noise": jax.random.key(1)}

    def program(x: jax.Array) -> Any:
        variables = model.init({"params": KEY, **rngs}, x, train=True)
        still = model.apply(variables, x, train=False)

        def loss(params: Any) -> Any:
            y, changed = model.apply(
                variables | {"params": params}, x, train=True, rngs=rngs, mutable=["batch_stats"]
            )
            return (y**2).mean(), (y, changed)

        trained = jax.value_and_grad(loss, has_aux=True)(variables.get("params", {}))
        return (variables, still), trained

    return quick(program)(X)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")
def test_trains_and_evaluates_as_with_flax(name: str) -> None:
    (made, still), trained = everything(name)
    with replace_dropout() as report:
        (own_made, own_still), own_trained = everything(name)
    assert report.replaced, report
    assert not report.kept, report
    jax.tree.map(np.testing.assert_array_equal, own_made, made)
    np.testing.assert_array_equal(own_still, still)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    jax.tree.map(close, own_trained, trained)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "legacy"])
def test_masks_are_those_of_flax_bit_for_bit(kind: str) -> None:
    key = jax.random.PRNGKey(3) if kind == "legacy" else jax.random.key(3, impl=kind)
    x = jnp.ones((32, 6, 5), jnp.bfloat16)

    def outputs(x: jax.Array) -> Any:
        return [
            nn.Dropout(rate, dims, deterministic=False).apply({}, x, rngs={"dropout": key})
            for rate, dims in ((0.5, ()), (0.25, [1]), (0.1, range(1, 3)), (0.6, (-1, 0, -1)))
        ]

    expected = jax.jit(outputs)(x)
    with replace_dropout():
        actual = jax.jit(outputs)(x)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (theirs == 0).any()
        np.testing.assert_array_equal(ours == 0, theirs == 0)
    np.testing.assert_array_equal(actual[0], expected[0])


def test_jit_keeps_programs_apart() -> None:
    model, traced = MLP(), []

    @jax.jit
    def step(key: jax.Array) -> jax.Array:
        traced.append(1)
        variables = {"params": {f"Dense_{i}": {"kernel": W[i], "bias": B[i]} for i in range(2)}}
        return model.apply(variables, X, True, rngs={"dropout": key})

    W, B = (np.ones((8, 8)), np.ones((8, 3))), (np.ones(8), np.ones(3))  # noqa: N806
    for key in (KEY, jaxdrop.key(0)):
        before = step(key)
        replacing = replace_dropout()
        for _ in range(2):
            with replacing as report:
                np.testing.assert_allclose(step(key), before, rtol=1e-5)
        assert len(report.replaced) == 2
        assert "random_bits" in str(jax.make_jaxpr(step)(KEY)), "Flax's again, outside"
    assert len(traced) == 4, "each key inside and outside, and no more"


def test_decorates_a_function_and_leaves_with_an_error() -> None:
    replacing = replace_dropout()

    @replacing
    def run(deterministic: Any) -> Any:
        return nn.Dropout(0.5).apply({}, X, deterministic, rngs={"dropout": KEY})

    np.testing.assert_array_equal(run(False), run.__wrapped__(False))
    assert [row.status for row in replacing.report] == ["replaced"]
    with pytest.raises(ValueError, match="deterministic"):
        run(None)
    outside = replace_dropout()
    nn.Dropout(0.5, (), False).apply({}, X, rng=KEY)
    assert not len(outside.report)
    assert "traced" in str(outside.report)


class OwnAttention(nn.MultiHeadDotProductAttention):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return nn.Dropout(0.5, deterministic=False)(x)


class OwnDropout(nn.Dropout):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:  # type: ignore[override]
        return inputs * jax.random.bernoulli(self.make_rng("dropout"), 0.5, inputs.shape)


class DropPath(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        keep = jax.random.bernoulli(self.make_rng("dropout"), 0.5, (len(x), 1, 1))
        return jnp.where(keep, x * 2, 0) + self.param("w", nn.initializers.ones, ())


def attend(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
    return nn.dot_product_attention(query, key, value, **options)


@pytest.mark.parametrize(
    ("model", "path", "reason"),
    [
        (Block((("attention_fn", attend),)), "MultiHeadDotProductAttention_0", "attention_fn is"),
        (OwnAttention(2), "", "OwnAttention.__call__ does not call that of MultiHeadDot"),
        (OwnDropout(0.5), "", "OwnDropout.__call__ does not call that of Dropout"),
        (nn.Sequential([DropPath(), nn.Dense(3)]), "layers_0", "draws keys itself"),
        (nnx.bridge.ToLinen(nnx.Dropout, args=(0.5,)), "", "an NNX module"),
    ],
)
def test_says_what_it_does_not_replace(model: nn.Module, path: str, reason: str) -> None:
    train = {"train": True} if isinstance(model, Block) else {}
    (row,) = report_of(model, X, **train).kept
    assert (row.path, row.layer) == (path, type(model).__name__ if not path else row.layer)
    assert reason in row.reason


def test_modules_of_nnx_are_replaced_in_their_wrapper() -> None:
    def make(*args: Any, **kwargs: Any) -> Any:
        return jaxdrop.nnx.replace_dropout(nnx.Dropout(*args, **kwargs)).model

    x = jnp.ones((4, 6), jnp.bfloat16)
    outputs = [
        nnx.bridge.ToLinen(kind, args=(0.1,)).apply({}, x, rngs={"dropout": KEY})
        for kind in (nnx.Dropout, make)
    ]
    np.testing.assert_array_equal(outputs[0] == 0, outputs[1] == 0)


def test_keys_that_draw_whole_arrays_keep_flax_s_attention() -> None:
    layer = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False)
    key = jax.random.key(0, impl="rbg")
    report = report_of(layer, X, dropout_rng=key)
    assert "whole arrays" in report.kept[0].reason


def test_weights_are_sown_and_the_cache_of_a_decoder_is_used() -> None:
    layer = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=False, decode=True)
    start = layer.init({"params": KEY, "dropout": KEY}, X)

    def run() -> Any:
        return quick(
            lambda x: layer.apply(
                start,
                x,
                sow_weights=True,
                rngs={"dropout": KEY},
                mutable=["cache", "intermediates"],
            )
        )(X[:, :1])

    expected = run()
    with replace_dropout() as report:
        actual = run()
    assert len(report.replaced) == 1
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), actual, expected
    )


def test_the_report_is_a_table() -> None:
    report = report_of(Block((("attention_fn", attend),)), X, train=True)
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(report)
    assert lines[0].split() == ["layer", "class", "rate", "runs", "why"]
    assert "StochasticDepth_0/Dropout_0" in str(report)
    assert repr(report) == f"Report({len(report.replaced)} replaced, 1 kept)"
    assert report._repr_html_().count("<tr>") == 1 + len(report)
    assert "attention_fn is attend" in report._repr_html_()
