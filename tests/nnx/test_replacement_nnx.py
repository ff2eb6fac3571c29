"""`jaxdrop.nnx.replace_dropout`: models in the manner of public code, with Flax as the oracle."""

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
from jaxdrop import _replacing
from jaxdrop.nnx import replace_dropout
from tests.compilation import quick

pytestmark = [
    pytest.mark.usefixtures("relaxed"),
    pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning"),
]

KEY = jax.random.key(5)
X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)


class OwnInit(nnx.Dropout):
    """In the manner of MaxText: a constructor of its own, which needs streams."""

    def __init__(self, rate: float, *, broadcast_dims: Any = (), rngs: nnx.Rngs) -> None:
        super().__init__(rate, broadcast_dims=broadcast_dims, rngs=rngs)


class OwnCall(nnx.Dropout):
    """In the manner of Kauldron: the mode is an attribute, and no argument."""

    train = True

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().__call__(inputs, deterministic=not self.train, **options)


class MLP(nnx.Module):
    """Streams of the layers, and of the call in three forms."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.first = OwnInit(0.5, broadcast_dims=[-2], rngs=rngs)
        self.second = nnx.Dropout(0.25, broadcast_dims=range(1, 3), deterministic=None)
        self.third = OwnCall(0.25)
        self.same = self.second

    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        self.third.train = train
        x = self.first(self.norm(self.dense(x)))
        x = self.second(x, deterministic=not train, rngs=KEY)
        x = self.third(x, rngs=nnx.Rngs(dropout=7))
        return self.same(x, deterministic=not train, rngs=nnx.Rngs(dropout=8)["dropout"])


class Transformer(nnx.Module):
    """Blocks of attention under a scan over stacked layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs: nnx.Rngs) -> nnx.List:
            fn = functools.partial(nnx.dot_product_attention, precision="highest")
            options = {"decode": False, "dropout_rate": 0.25, "rngs": rngs, "num_kv_heads": 1}
            attention = nnx.MultiHeadAttention(2, 8, attention_fn=fn, **options)  # type: ignore[arg-type]
            return nnx.List([attention, nnx.Dropout(0.5, rngs=rngs)])

        self.blocks = make(rngs)
        self.last = nnx.MultiHeadAttention(2, 8, decode=False, dropout_rate=0.5, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block: Any, x: jax.Array) -> jax.Array:
            attention, dropout = block
            return x + dropout(attention(x, is_causal=True))

        mask = nnx.make_attention_mask(jnp.arange(6) < 4, jnp.arange(6) < 4)[None]
        return self.last(run(self.blocks, x), mask=mask, is_causal=True, sow_weights=True)


@pytest.mark.parametrize("kind", [MLP, Transformer])
def test_trains_and_evaluates_as_with_flax(kind: Any) -> None:
    model = kind(nnx.Rngs(0, dropout=1))
    model.train()
    before = nnx.graphdef(model)
    view, report = replace_dropout(model)
    assert not report.kept, report
    assert nnx.graphdef(model) == before, "the model itself stays what it was"
    same = zip(
        *(jax.tree.leaves(nnx.state(m), is_leaf=is_variable) for m in (model, view)), strict=True
    )
    assert all(a is b for a, b in same), "and shares its variables"
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(nnx.state(view))

    def step(model: Any, x: jax.Array) -> Any:
        def loss(model: Any) -> Any:
            y = model(x)
            return (y**2).mean(), y

        trained = nnx.value_and_grad(loss, has_aux=True)(model)
        state = nnx.state(model, nnx.Not(nnx.Param))
        model.eval()
        return trained, state, model(x, train=False)

    def run(model: Any) -> Any:
        graph, state = nnx.split(model)
        return quick(lambda state, x: step(nnx.merge(graph, state), x))(state, X)

    own, flax = run(view), run(model)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    plain = functools.partial(jax.tree.map, lambda x: jax.random.key_data(x) if is_key(x) else x)
    jax.tree.map(close, plain(own), plain(flax))
    np.testing.assert_array_equal(own[2], flax[2])


def is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("kind", [nnx.Dropout, OwnCall])
def test_masks_are_those_of_flax_bit_for_bit(kind: Any) -> None:
    x = jnp.ones((32, 6, 5), jnp.bfloat16)
    for rate, dims in ((0.5, ()), (0.1, (1,)), (0.6, (-1, 0, -1)), (1.0, ())):
        layer = kind(rate, broadcast_dims=dims, rngs=nnx.Rngs(3))
        graph, state = nnx.split(layer)
        expected, actual = nnx.merge(graph, state, copy=True)(x), replace_dropout(layer).model(x)
        assert (expected == 0).any()
        np.testing.assert_array_equal(actual == 0, expected == 0)
        if rate == 0.5:
            np.testing.assert_array_equal(actual, expected)
        assert layer.rngs.count[...] == (rate != 1), "the stream is shared"


def test_layers_stay_what_they_were() -> None:
    model = nnx.List([nnx.Dropout(0.5, rngs=nnx.Rngs(0)), OwnCall(0.5)])
    view = replace_dropout(model).model
    assert isinstance(view[0], nnx.Dropout)
    assert isinstance(view[1], OwnCall)
    assert type(view[1]).__name__ == "OwnCall"
    view.eval()
    assert view[0](X) is X
    assert model[0].deterministic is False
    again, report = replace_dropout(view)
    assert [type(layer) for layer in again] == [type(layer) for layer in view]
    assert nnx.graphdef(again) == nnx.graphdef(view)
    assert len(report.replaced) == 2
    with pytest.raises(ValueError, match="has no key"):
        view[1](X)
    with pytest.raises(ValueError, match="deterministic"):
        replace_dropout(nnx.Dropout(0.5, deterministic=None)).model(X)


def test_two_views_are_one_graph_for_the_caches_of_nnx_jit() -> None:
    model = nnx.List([OwnCall(0.5), nnx.MultiHeadAttention(2, 8, **ATTENTION)])
    first, second = (nnx.graphdef(replace_dropout(model).model) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != nnx.graphdef(model)


def test_stochastic_runs_a_replaced_model() -> None:
    view = replace_dropout(Transformer(nnx.Rngs(0, dropout=1))).model
    plain = jaxdrop.nnx.stochastic(Transformer(nnx.Rngs(0, dropout=1)), rate=jnp.float32(0.3))
    own = jaxdrop.nnx.stochastic(view, rate=jnp.float32(0.3))
    np.testing.assert_allclose(quick(own)(KEY, X), quick(plain)(KEY, X), rtol=2e-5, atol=1e-5)


class OwnAttention(nnx.MultiHeadAttention):
    def __call__(self, x: jax.Array, **_: Any) -> Any:  # type: ignore[override]
        return nnx.dot_product_attention(x, x, x, dropout_rate=0.5, dropout_rng=KEY)


class OwnDropout(nnx.Dropout):
    def __call__(self, x: jax.Array, **_: Any) -> Any:  # type: ignore[override]
        return x * jax.random.bernoulli(self.rngs(), 0.5, x.shape)


class DropPath(nnx.Module):
    """In the manner of bonsai."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rngs = rngs


def attend(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
    return nnx.dot_product_attention(query, key, value, **options)


ATTENTION: dict[str, Any] = {"decode": False, "dropout_rate": 0.5, "deterministic": False}
ATTENTION["rngs"] = nnx.Rngs(0)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (OwnAttention(2, 8, **ATTENTION), "OwnAttention.__call__ does not call that of Multi"),
        (nnx.MultiHeadAttention(2, 8, attention_fn=attend, **ATTENTION), "attention_fn is attend"),
        (
            nnx.MultiHeadAttention(2, 8, attention_fn=functools.partial(attend), **ATTENTION),
            "attention_fn is partial, and not Flax's dot_product_attention",
        ),
        (OwnDropout(0.5, rngs=nnx.Rngs(0)), "OwnDropout.__call__ does not call that of Dropout"),
        (DropPath(nnx.Rngs(0)), "keeps a random stream"),
        (nnx.bridge.ToNNX(nn.Dropout(0.5), rngs=nnx.Rngs(0)), "a Linen module"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_says_what_it_does_not_replace(layer: nnx.Module, reason: str) -> None:
    with pytest.warns(UserWarning, match="replaced nothing in dict:\nlayer "):
        report = replace_dropout({"a": [layer, nnx.Linear(8, 8, rngs=nnx.Rngs(0))]}).report
    (row,) = report.kept
    assert row.path == "a/0"
    assert reason in row.reason


def test_keys_that_draw_whole_arrays_keep_flax_s_attention() -> None:
    layer, report = replace_dropout(nnx.MultiHeadAttention(2, 8, **ATTENTION))
    key = jax.random.key(0, impl="rbg")
    jax.eval_shape(lambda x: layer(x, rngs=nnx.Rngs(dropout=key)), X)
    assert "whole arrays" in report.kept[0].reason


@pytest.mark.parametrize("model", [nnx.Dropout, lambda x: x, [1], nn.Dropout(0.5)])
def test_takes_nnx_modules_only(model: Any) -> None:
    with pytest.raises(TypeError, match="model must be an NNX module, got"):
        replace_dropout(model)


def test_a_report_is_a_table_of_what_was_added() -> None:
    report = _replacing.Report("nothing <here>")
    assert (str(report), len(report), list(report)) == ("nothing <here>", 0, [])
    assert repr(report) == "Report(nothing <here>)"
    assert report._repr_html_() == "<p>nothing &lt;here&gt;</p>"
    row = _replacing.Row("a/b", "Dropout", "0.5", "off", "")
    first, last = row._replace(status="replaced"), row._replace(path="", reason="<own>")
    for each in (row, first, row, last._replace(reason=""), last._replace(status="kept"), last):
        report.add(each)
    last = last._replace(status="kept")
    report.add(last._replace(reason="newer"))
    last = last._replace(reason="newer")
    assert report.rows == tuple(report) == (first, last)
    assert (report.replaced, report.kept, len(report)) == ((first,), (last,), 2)
    assert repr(report) == "Report(1 replaced, 1 kept)"
    assert str(report).splitlines() == [
        "layer        class    rate  runs       why",
        "------------------------------------------",
        "a/b          Dropout  0.5   jaxdrop",
        "(the model)  Dropout  0.5   as before  newer",
    ]
    report.add(last._replace(reason="a < b"))
    assert report._repr_html_() == (
        "<table><thead><tr><th>layer</th><th>class</th><th>rate</th><th>runs</th><th>why</th></tr>"
        "</thead><tbody><tr><td>a/b</td><td>Dropout</td><td>0.5</td><td>jaxdrop</td><td></td></tr>"
        "<tr><td>(the model)</td><td>Dropout</td><td>0.5</td><td>as before</td><td>a &lt; b</td>"
        "</tr></tbody></table>"
    )


class Base:
    def __call__(self) -> int:
        return 1


class Same(Base):
    pass


class Calls(Same):
    def __call__(self) -> int:
        return super().__call__() + 1


class Own(Calls):
    def __call__(self) -> int:
        return 3


class Wrapped(Base):
    __call__ = functools.wraps(Base.__call__)(lambda self: Base.__call__(self))


class NoCode(Base):
    __call__ = int  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Base, ""), (Same, ""), (Calls, ""), (Own, "Own"), (type("Last", (Own,), {}), "Own"),
     (Wrapped, ""), (NoCode, "")],
)  # fmt: skip
def test_calls_reach_the_base_as_far_as_their_code_says(kind: Any, name: str) -> None:
    reason = f"{name}.__call__ does not call that of Base" if name else ""
    assert _replacing.unreached(kind, Base) == reason


def test_which_attention_function_runs() -> None:
    """Flax's where nothing is drawn, this library's where a mask is."""

    def theirs(query: Any, key: Any, value: Any, **options: Any) -> Any:
        return "theirs", options

    def ours(
        query: Any, key: Any, value: Any, mask: Any = None, bias: Any = None,
        dropout_rng: Any = None, dropout_rate: Any = 0.0, deterministic: bool = False,
        is_causal: bool = False, spec: Any = None,
    ) -> Any:  # fmt: skip
        if dropout_rate == 1:
            raise NotImplementedError
        return "ours", {"dropout_rate": dropout_rate, "spec": spec}

    notes: list[tuple[str, str]] = []
    made = _replacing.attention(
        functools.partial(functools.partial(theirs, dropout_rate=0.5), X),
        theirs, ours, lambda *note: notes.append(note),
    )  # fmt: skip
    assert made is not None
    for options, runs, status in (
        ({"deterministic": True, "dropout_rng": KEY}, "theirs", "off"),
        ({"dropout_rate": 0, "dropout_rng": KEY}, "theirs", "off"),
        ({}, "theirs", "off"),
        ({"dropout_rng": KEY}, "ours", "replaced"),
        ({"dropout_rng": KEY, "dropout_rate": 0.25}, "ours", "replaced"),
        ({"dropout_rng": KEY, "dropout_rate": 1}, "theirs", "kept"),
    ):
        which, got = made(X, X, spec="axes", **options)
        assert (which, notes[-1][0]) == (runs, status)
        rate = options.get("dropout_rate", 0.5)
        if runs == "ours":
            assert got == {"dropout_rate": rate, "spec": "axes"}
        else:
            assert got == {"dropout_rate": rate} | options
    assert len(notes) == 6
    assert _replacing.attention(functools.partial(ours), theirs, ours, print) is None
    plain, same = (_replacing.attention(theirs, theirs, ours, note) for note in (print, None))
    assert plain == same != _replacing.attention(ours, ours, ours, print)
    assert hash(plain) == hash(same)
    assert plain != theirs
    assert plain is not None
    assert plain(X, X, X, dropout_rng=KEY)[0] == "theirs"  # the rate is 0 where none is given
    name = f"{__name__}.test_which_attention_function_runs.<locals>.theirs"
    assert repr(plain) == f"<jaxdrop in place of {name}>"


@pytest.mark.parametrize(
    ("causal", "lead"), [(False, (2,)), (True, (2,)), (True, ()), (True, (1, 2))]
)
def test_masks_and_biases_of_attention_are_those_of_flax(
    causal: bool, lead: tuple[int, ...]
) -> None:
    """Of fewer axes than the weights, too; a query that may see no key gets the mean of all."""
    fn = replace_dropout(nnx.MultiHeadAttention(2, 8, **ATTENTION)).model.attention_fn
    mask = np.random.default_rng(1).random((6, 6)) < 0.5
    mask[2] = False
    bias = np.random.default_rng(2).normal(size=(2, 6, 6)).astype(np.float32)
    q, k, v = np.random.default_rng(3).normal(size=(3, *lead, 6, 2, 4)).astype(np.float32)

    def run(q: jax.Array, attend: Any) -> Any:
        options = {"dropout_rng": KEY, "dropout_rate": 0.25, "deterministic": False}
        return [
            attend(q, k, v, mask=own, bias=other, is_causal=causal, **options)
            for own, other in ((mask, bias), (None, bias), (mask[None] * 1.0, None))
        ]

    ours, theirs = (
        quick(lambda q, attend=attend: run(q, attend))(q)
        for attend in (fn, nnx.dot_product_attention)
    )
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-5, atol=1e-5)
