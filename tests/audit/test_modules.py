"""What modules say of their rates and modes, and what a mask meets in a model."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import audit
from tests.audit.gallery import KEY, array
from tests.audit.gallery._jax import W, X, dropout, model
from tests.audit.gallery._linen import variables

pytestmark = pytest.mark.usefixtures("relaxed")
bernoulli = jax.random.bernoulli


def found(fn: Callable[..., Any], *args: Any, **options: Any) -> list[str]:
    return [each.id for each in audit.check(fn, *args, **options).findings]


def applied(net: nn.Module, x: Any = X, **options: Any) -> audit.Report:
    def run(weights: Any, key: jax.Array, x: jax.Array) -> Any:
        return net.apply(weights, x, rngs={"dropout": key})

    return audit.check(run, variables(net, x), KEY, x, **options)


def test_a_layer_may_be_told_its_mode_by_position() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dropout(0.4)(nn.Dropout(0.3)(x, False), True)

    report = applied(Net())
    assert [(site.rate, site.active) for site in report.sites] == [(0.3, True), (0.4, False)]


def test_a_key_by_position_says_no_mode() -> None:
    class DropPath(nn.Module):
        rate: float
        deterministic: bool

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            return x if self.deterministic else dropout(key, x, self.rate)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            key = self.make_rng("dropout")
            return DropPath(0.2, False)(DropPath(0.1, True)(jnp.tanh(x), key), key)

    sites = applied(Net()).sites
    assert [(site.rate, site.active) for site in sites] == [(0.2, True), (0.1, False)]


def test_attention_that_is_off_is_listed_and_found() -> None:
    """Its rate is not 0, and the dropout behind it is on."""

    class Linen(nn.Module):
        module: Any

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            attention = self.module.MultiHeadAttention(2, dropout_rate=0.3, deterministic=True)
            return nn.Dropout(0.1, deterministic=False)(attention(x))

    class Nnx(nnx.Module):
        def __init__(self, module: Any) -> None:
            options: dict[str, Any] = {"decode": False, "deterministic": True}
            rngs = nnx.Rngs(0)
            self.attention = module.MultiHeadAttention(2, 8, dropout_rate=0.3, rngs=rngs, **options)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.dropout(self.attention(x))

    x = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)
    for module in (nn, jaxdrop.linen):
        check_off(applied(Linen(module), x, training=True, select=["JD101"]), "MultiHeadAttention")
    for module in (nnx, jaxdrop.nnx):
        report = audit.check(lambda net, x: net(x), Nnx(module), x, training=True, select=["JD101"])
        check_off(report, "MultiHeadAttention")


def check_off(report: audit.Report, kind: str) -> None:
    """One layer of this kind is off, and another one on."""
    assert [(site.variant, site.active) for site in report.sites if not site.active] == [
        (f"{kind} (off)", False)
    ]
    assert [each.id for each in report.findings] == ["JD101"]
    assert "all its calls are off" in report.findings[0].evidence


@pytest.mark.parametrize("kind", ["RNN", "StackedRNN"])
def test_a_recurrent_layer_that_is_off_is_found_once(kind: str) -> None:
    class Net(nnx.Module):
        def __init__(self, deterministic: bool) -> None:
            rngs = nnx.Rngs(0)
            options: dict[str, Any] = {"input_rate": 0.3, "recurrent_rate": 0.2, "rngs": rngs}
            options |= {"hidden_zoneout": 0.1, "deterministic": deterministic}
            self.rnn: Any = (
                jaxdrop.nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs), **options)
                if kind == "RNN"
                else jaxdrop.nnx.StackedRNN(nnx.GRUCell, 8, 8, **options)
            )
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.dropout(self.rnn(x))

    x = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)

    def checked(net: Net) -> audit.Report:
        return audit.check(lambda net, x: net(x), net, x, training=True, select=["JD101"])

    check_off(checked(Net(True)), kind)
    assert not checked(Net(False)).findings


@pytest.mark.parametrize(
    ("rates", "ids"),
    [((0.1, 0.2), []), ((0.1, 0.3), []), ((0.3,), []), ((0.4,), ["JD101"])],
)
def test_a_rate_of_depth_is_the_largest_of_its_layers(
    rates: tuple[float, ...], ids: list[str]
) -> None:
    class Net(nn.Module):
        drop_path_rate: float = 0.3

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for rate in rates:
                branch = nn.Dropout(rate, broadcast_dims=(1,), deterministic=False)
                x = x + branch(nn.tanh(nn.Dense(16)(x)))
            return x

    assert [each.id for each in applied(Net(), training=True).findings] == ids


@pytest.mark.parametrize("dropped", ["weights", "output"])
def test_attention_without_softmax_is_attention_too(dropped: str) -> None:
    """Its weights are known by what they are multiplied by."""

    class Net(nn.Module):
        attention_dropout: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            drop = nn.Dropout(0.1, deterministic=False)
            query, key, value = (nn.Dense(8)(x) for _ in range(3))
            weights = nn.sigmoid(jnp.einsum("btd,bsd->bts", query, key))
            if dropped == "weights":
                weights = drop(weights).astype(jnp.bfloat16).astype(jnp.float32)
            out = nn.tanh(jnp.einsum("bts,bsd->btd", weights, value))
            return nn.Dense(8)(out if dropped == "weights" else drop(out))

    report = applied(Net(), array(2, 6, 8), training=True)
    assert [each.evidence for each in report.findings] == (
        []
        if dropped == "weights"
        else ["Net.attention_dropout is 0.1, and no attention mask in it is drawn at that rate"]
    )


def test_all_rates_are_zero() -> None:
    report = audit.check(lambda w, key, x: model(w, key, x, 0.0), W, KEY, X, training=True)
    first, _ = report.findings
    assert first.id == "JD103"
    assert first.evidence == f"all rates are 0: {report.sites[0].where}"


def test_of_many_layers_that_drop_nothing_five_are_named() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(6):
                x = nn.Dropout(0.1, deterministic=True)(x)
            return x

    (finding,) = applied(Net(), training=True).findings
    five = ", ".join(f"Dropout_{at}" for at in range(5))
    assert finding.evidence == f"these layers are called, and are off: {five}"

    def zero(keys: jax.Array, x: jax.Array) -> jax.Array:
        for at in range(6):
            x = jnp.tanh(dropout(keys[at], x, 0.0))
        return x

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 6))
    report = audit.check(zero, keys, X, training=True, select="JD103")
    places = ", ".join([report.sites[0].where] * 5)
    assert [each.evidence for each in report.findings] == [f"all rates are 0: {places}"]


class Part(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.args = rngs.normal((3,))  # an array under the name of a configuration
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop(x)


def test_a_class_that_refuses_subclasses_has_no_name_in_the_path() -> None:
    class Final(Part):
        def __init_subclass__(cls, **_: Any) -> None:
            raise TypeError("this class is final")

    report = audit.check(lambda model, x: model(x), nnx.eval_shape(lambda: Final(nnx.Rngs(0))), X)
    assert [site.where.split(" (")[0] for site in report.sites] == ["drop"]
    assert report.findings == []


def test_the_state_of_a_model_has_the_names_of_its_variables() -> None:
    """Of a stream that is read, and not drawn from."""

    def run(models: list[Part], x: jax.Array) -> jax.Array:
        return dropout(models[1].drop.rngs.key[...], jnp.tanh(models[0](x)), 0.2)

    both = nnx.eval_shape(lambda: [Part(nnx.Rngs(0)), Part(nnx.Rngs(1))])
    (finding,) = audit.check(run, both, X).findings
    assert finding.evidence == "the mask depends on drop.rngs.key, which is returned unchanged"


def test_modules_of_equinox_may_stand_in_dictionaries() -> None:
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        parts: dict[str, Any]

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            first, second = jax.random.split(key)
            return self.parts["b"](self.parts["a"](x, key=first) * 2, key=second)

    net = Net({"a": eqx.nn.Dropout(0.1), "b": eqx.nn.Dropout(0.2)})
    sites = audit.check(lambda net, x, key: net(x, key), net, X, KEY, training=True).sites
    assert [site.where.split(" (")[0] for site in sites] == ["parts/a", "parts/b"]


def test_plain_functions_need_no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flax.linen", "flax.nnx", "haiku", "equinox"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert len(audit.check(model, W, KEY, X).sites) == 1


@pytest.mark.parametrize(
    ("drop", "residual", "ids"),
    [
        (jaxdrop.drop_path, True, []),
        (jaxdrop.drop_path, False, ["JD303"]),
        (lambda key, x, rate: jaxdrop.shake_drop(key, x, rate, per="image"), True, []),
        (lambda key, x, rate: jnp.where(bernoulli(key, 1 - rate, (8, 1)), x, 0), True, []),
        (jaxdrop.dropout, True, ["JD303"]),
    ],
    ids=["drop_path", "without a stream", "shake_drop", "by hand", "dropout"],
)
def test_a_residual_branch_may_be_dropped_in_front_of_batch_norm(
    drop: Callable[..., jax.Array], residual: bool, ids: list[str]
) -> None:
    """As the paper of stochastic depth has it. Entries of a branch, and paths that are not added
    to a stream, may not.
    """

    def normalized(y: jax.Array) -> jax.Array:
        return (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)

    def block(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
        y = drop(key, jnp.tanh(normalized(x @ w)), 0.2)
        return x + y if residual else y

    def run(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        x = block(first, x, w["w"]) + w["b"]  # a bias is no stream
        return jnp.tanh(block(second, x, w["w"])) @ w["v"]

    weights = W | {"w": array(16, 16), "b": array(16)}
    assert found(run, weights, KEY, array(8, 16)) == ids


def test_dropped_weights_are_not_dropped_activations() -> None:
    """DropConnect: behind it, the statistics of BatchNorm are those of the layer's output."""

    def normalized(y: jax.Array) -> jax.Array:
        return jnp.tanh((y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5))

    def connect(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return normalized(x @ dropout(key, w["w"], 0.1)) @ w["v"]

    def activations(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return normalized(dropout(key, x @ w["w"], 0.1)) @ w["v"]

    assert found(connect, W, KEY, X) == []
    assert found(activations, W, KEY, X) == ["JD303"]


@pytest.mark.parametrize(
    ("sum_of", "ids"),
    [
        (lambda x, y, w: x + y, []),
        (lambda x, y, w: x + jnp.tanh(x @ w), ["JD306"]),
        (lambda x, y, w: jnp.tanh(x @ w) + x, ["JD306"]),
        (lambda x, y, w: 0.5 * (2 * (x + jnp.tanh(x @ w))).reshape(x.shape) / 3, ["JD306"]),
        (lambda x, y, w: y * (x + jnp.tanh(x @ w)), []),
    ],
    ids=["two inputs", "a residual stream", "its other order", "its multiple", "a product"],
)
def test_a_sum_is_a_residual_stream_if_one_part_is_computed_from_the_other(
    sum_of: Callable[..., Any], ids: list[str]
) -> None:
    def run(w: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.tanh(dropout(key, sum_of(x, y, w["w"]), 0.1) @ w["w"])

    assert found(run, W, KEY, X, X) == ids


def test_a_random_mask_that_drops_nothing_may_be_kept() -> None:
    def step(w: Any, key: jax.Array, x: jax.Array) -> Any:
        def layer(x: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            w, key = item
            flip = jax.random.bernoulli(key, 0.5, x.shape)
            return jnp.where(flip, jnp.sin(x @ w), jnp.cos(x @ w)), None

        def loss(w: Any) -> jax.Array:
            return lax.scan(layer, x, (w, jax.random.split(key, 3)))[0].sum()

        return jax.grad(loss)(w)

    assert found(step, array(3, 16, 16), KEY, X) == []


def test_a_layer_that_is_given_and_not_called() -> None:
    layer = nnx.eval_shape(lambda: nnx.Dropout(0.1, rngs=nnx.Rngs(0)))
    assert found(lambda layer, x: jnp.tanh(x), layer, X, training=True) == ["JD101", "JD103"]


def test_a_model_of_which_a_part_is_called_has_no_rate_of_its_own() -> None:
    class Whole(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dropout_rate = 0.3
            self.part = Part(rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.part(x)

    whole = nnx.eval_shape(lambda: Whole(nnx.Rngs(0)))
    assert found(lambda whole, x: whole.part(x), whole, X, training=True) == []
    assert found(lambda whole, x: whole(x), whole, X, training=True) == ["JD101"]


@pytest.mark.parametrize(("inner", "ids"), [(0.1, []), (0.2, ["JD101"])])
def test_a_rate_is_in_use_if_a_module_inside_has_it_and_is_off(
    inner: float, ids: list[str]
) -> None:
    class Net(nn.Module):
        dropout_rate: float = 0.1

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.MultiHeadDotProductAttention(2, dropout_rate=inner, deterministic=True)(x)
            return nn.Dense(3)(nn.Dropout(0.3, deterministic=False)(nn.tanh(x)))

    report = applied(Net(), array(2, 6, 8))
    assert [(each.id, each.where) for each in report.findings] == [(name, "Net") for name in ids]


def test_arguments_that_are_rates() -> None:
    """By their names, and numbers in (0, 1]; also in a configuration."""

    def run(w: Any, key: jax.Array, x: jax.Array, **_: Any) -> jax.Array:
        return model(w, key, x)

    def evidence(**kwargs: Any) -> list[str]:
        report = audit.check(run, W, KEY, X, kwargs=kwargs, training=True)
        assert {each.id for each in report.findings} <= {"JD101"}
        return [each.evidence for each in report.findings]

    unused = "is 0.3, and no mask in it is drawn at that rate"
    assert evidence(dropout_rate=0.3) == [f"dropout_rate.dropout_rate {unused}"]
    assert evidence(momentum=0.3, rate=0.3, dropout=1, drop_rate=1.5, dropout_prob=0.0) == []
    config = {"dropout_rate": 0.3, "width": 0.5}
    assert evidence(config={1: 0.3}) == []
    assert evidence(config=config) == [f"config.dropout_rate {unused}"]
    assert evidence(dropout_rate=0.1, config={"dropout": 0.1}) == []

    @dataclasses.dataclass(slots=True)
    class Config:
        dropout_rate: float = 0.3
        _dropout: float = 0.4
        drop_rate: float = dataclasses.field(init=False)  # has no value

    assert evidence(config=Config()) == [f"config.dropout_rate {unused}"]


def attention(key: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(dropout(key, jax.nn.softmax(x @ x.T), 0.1) @ x)


def scores(key: jax.Array, x: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(key, 0.9, (8, 8))
    return jnp.tanh(jax.nn.softmax(jnp.where(keep, x @ x.T, -jnp.inf)) @ x)


def gates(key: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(dropout(key, jax.nn.sigmoid(x @ x.T), 0.1) @ jnp.tanh(x))


def hidden(key: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(dropout(key, jnp.tanh(x), 0.1)) @ jnp.tanh(x).T


def product(key: jax.Array, x: jax.Array) -> jax.Array:
    """With an argument: a layer, whose weights it holds."""
    return jnp.tanh(dropout(key, jnp.tanh(x), 0.1) @ x.T)


def summed(key: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(dropout(key, jnp.tanh(x), 0.1) + jnp.exp(x))


def gradient(key: jax.Array, x: jax.Array) -> jax.Array:
    """In the backward pass, what is dropped meets a cotangent."""
    return jax.grad(lambda x: product(key, x).sum())(x)


@pytest.mark.parametrize(
    "fn", [attention, scores, gates, hidden, product, summed, gradient], ids=lambda fn: fn.__name__
)
@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("dropout_rate", ()),
        ("attention_dropout", (hidden, product, summed, gradient)),
        ("attn_pdrop", (hidden, product, summed, gradient)),
        ("resid_pdrop", (attention, scores)),
        ("hidden_dropout_prob", (attention, scores)),
        ("mlp_dropout", (attention, scores)),
        ("embd_pdrop", (attention, scores)),
    ],
)
def test_a_rate_is_meant_for_a_part_of_the_model(
    fn: Callable[..., Any], name: str, unused: tuple[Any, ...]
) -> None:
    """That for attention draws on its weights, those for other parts do not."""
    kwargs = {"config": {name: 0.1}}
    report = audit.check(
        lambda key, x, config: fn(key, x), KEY, X, kwargs=kwargs, training=True, select="JD101"
    )
    assert [each.id for each in report.findings] == (["JD101"] if fn in unused else [])


def test_a_layer_that_is_off_beside_one_that_is_on() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dropout(0.3, deterministic=True)(nn.Dense(16)(x))
            return nn.Dense(3)(nn.Dropout(0.1, deterministic=False)(nn.tanh(x)))

    (finding,) = applied(Net(), training=True).findings
    assert (finding.where, finding.id) == ("Dropout_0", "JD101")
    assert finding.evidence == "Dropout.rate is 0.3, and all its calls are off"
    assert applied(Net()).findings == []
    ids = {each.id: each for each in applied(Net(), training=False).findings}
    assert ids["JD105"].where == "Dropout_1"
    assert ids["JD105"].evidence == "Dropout.deterministic is False"
    assert ids["JD102"].evidence == "dropout at rate 0.1"
    assert len(ids) == 2


def test_a_model_that_is_a_layer_has_the_name_of_its_class() -> None:
    on = nnx.eval_shape(lambda: nnx.Dropout(0.1, deterministic=False, rngs=nnx.Rngs(0)))
    off = nnx.eval_shape(lambda: nnx.Dropout(0.1, deterministic=True, rngs=nnx.Rngs(0)))

    def run(layer: nnx.Dropout, x: jax.Array) -> jax.Array:
        return layer(jnp.tanh(x))

    report = audit.check(run, on, X, training=False)
    assert [each.where for each in report.findings if each.id == "JD105"] == ["Dropout"]
    (site,) = audit.check(run, off, X).sites
    assert (site.where, site.variant, site.active) == ("Dropout", "Dropout (off)", False)
    (site,) = audit.check(lambda layer, x: x, on, X).sites
    assert site.variant == "Dropout (not called)"


@pytest.mark.parametrize("name", ["dropout_rate", "drop_path_rate"])
def test_a_rate_that_is_a_value_of_the_program_may_be_that_of_a_field(name: str) -> None:
    def call(self: Any, x: jax.Array, key: jax.Array, rate: Any) -> jax.Array:
        return jaxdrop.dropout(key, jnp.tanh(x), rate)

    call.__name__ = "__call__"
    fields = {"__annotations__": {name: float}, name: 0.3, "__call__": call}
    net = type("Net", (nn.Module,), fields)()

    def run(key: jax.Array, x: jax.Array, rate: jax.Array) -> Any:
        return net.apply({}, x, key, rate)

    assert found(run, KEY, X, array(), training=True) == []
    assert found(run, KEY, X, 0.1, training=True) == ([] if "path" in name else ["JD101"])
    (finding,) = audit.check(run, KEY, X, array(), training=False).findings
    assert finding.evidence == "dropout at rate traced"


def test_a_rate_that_is_not_known_is_said_to_be_unknown() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.normal(key, x.shape) > 0.3, jnp.tanh(x), 0)

    (finding,) = audit.check(run, KEY, X, training=False).findings
    assert finding.evidence == "dropout at rate unknown"


@pytest.mark.parametrize("rate", [0.25, None])
def test_batch_norm_behind_dropout_has_a_ratio_of_variances(rate: float | None) -> None:
    def run(key: jax.Array, x: jax.Array, rate: Any) -> jax.Array:
        y = jaxdrop.dropout(key, jnp.tanh(x), rate)
        return jnp.tanh((y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5))

    report = audit.check(run, KEY, X, array() if rate is None else rate, select="JD303")
    (finding,) = report.findings
    text = "evaluation is 0.75 of" if rate else "the ratio of the variances depends on the rate"
    assert text in finding.evidence


@pytest.mark.parametrize(
    ("axis", "places", "ids"),
    [
        (0, (1, -1), ["JD303"]),
        (0, (1, 1, -1), ["JD303"]),
        (1, (-1, 1), []),  # LayerNorm
        (1, (-1, 1, 1), []),
    ],
)
def test_statistics_are_of_channels_or_of_examples(
    axis: int, places: tuple[int, ...], ids: list[str]
) -> None:
    """Wherever a reshape has put the inverse deviation."""

    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        y = jaxdrop.dropout(key, jnp.tanh(x), 0.25)
        inverse = jax.lax.rsqrt(y.var(axis) + 1e-5)
        places_of_y = (len(y), *(1,) * (len(places) - 2), -1)
        return jnp.tanh(y.reshape(places_of_y) * inverse.reshape(places))

    assert found(run, KEY, X) == ids


@pytest.mark.parametrize(
    ("shape", "ids", "normalized"),
    [
        ((8, 16), ["JD303"], lambda y: y * lax.rsqrt(y.var(0) + 1e-5)),
        ((8, 16), ["JD303"], lambda y: y * (lax.rsqrt(y.var(0) + 1e-5) * jnp.arange(16.0))),
        ((8, 2), ["JD303"], lambda y: (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)),
        ((8, 1), [], lambda y: (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)),
        ((8, 16), [], lambda y: y / jnp.sqrt(y.var() + 1e-5)),
        ((2, 16), [], lambda y: y * lax.rsqrt(y.var(1, keepdims=True) + 1e-5)),  # LayerNorm
        ((8,), [], lambda y: y / jnp.sqrt(y.var() + 1e-5)),
        ((8, 16), [], lambda y: y / jnp.sqrt(y * y + 1)),
        ((8,), [], lambda y: y / jnp.sqrt(y * y + 1)),
        ((8, 16), [], lambda y: jnp.sqrt(y.var(0)) / (1 + y * y)),
    ],
)
def test_an_inverse_deviation_is_of_several_channels(
    shape: tuple[int, ...], ids: list[str], normalized: Callable[..., Any]
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(normalized(dropout(key, jnp.tanh(x), 0.1)))

    assert found(run, KEY, array(*shape)) == ids


FIELDS = {"w": array(16, 16), "v": array(16, 4), "b": array(16), "bias": array(8, 16)}
HELD = np.arange(128, dtype=np.float32).reshape(8, 16)


@pytest.mark.parametrize(
    ("last", "of", "then"),
    [
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y),
        (True, lambda w, x: x @ w["w"] + w["b"], lambda w, x, y: y),
        (True, lambda w, x: (2 * (x @ w["w"]) / 3).T, lambda w, x, y: y),
        (True, lambda w, x: lax.conv(x[None], w["w"][:8, :8, None], (1,), "SAME"),
         lambda w, x, y: y),
        (False, lambda w, x: jnp.tanh(x @ w["w"]), lambda w, x, y: y),
        (False, lambda w, x: x @ w["w"] + x[::-1] @ w["w"], lambda w, x, y: y),
        (False, lambda w, x: (x @ w["w"]) * jnp.tanh(x), lambda w, x, y: y),
        (False, lambda w, x: jax.nn.softmax(x @ x.T), lambda w, x, y: jnp.tanh(y)),
        (False, lambda w, x: jax.nn.softmax((x @ w["w"]) @ x.T), lambda w, x, y: jnp.tanh(y)),
        (False, lambda w, x: jax.nn.softmax(x @ w["w"]), lambda w, x, y: y @ w["v"]),
        (False, lambda w, x: jax.nn.sigmoid(x @ w["w"]), lambda w, x, y: y),
        (True, lambda w, x: jax.nn.softmax(x @ w["w"]), lambda w, x, y: y),
        (True, lambda w, x: jax.nn.softmax(2 * (x @ w["w"] + w["b"])),
         lambda w, x, y: jnp.log(y + 1e-8) * x),
        (True, lambda w, x: nn.softmax(x @ w["w"]), lambda w, x, y: (y - x) ** 2),
        (True, lambda w, x: jax.nn.log_softmax(x @ w["w"]), lambda w, x, y: y),
        (False, lambda w, x: jax.nn.log_softmax(x @ x.T), lambda w, x, y: y),
        (False, lambda w, x: x @ w["w"] - jnp.log(jnp.abs(x)), lambda w, x, y: y),
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y + w["b"]),
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y + w["bias"]),
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y + HELD),
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y + x[:, :1]),
        (True, lambda w, x: x @ w["w"], lambda w, x, y: y + jnp.tanh(y)),
        (False, lambda w, x: x @ w["w"], lambda w, x, y: y + x),
        (False, lambda w, x: x @ w["w"], lambda w, x, y: x + jnp.tanh(y)),
        (False, lambda w, x: x @ w["w"], lambda w, x, y: jnp.tanh(y) @ w["v"]),
        (False, lambda w, x: x @ w["w"],
         lambda w, x, y: lax.cond(x[0, 0] > 0, jnp.tanh, jnp.sin, y)),
        (False, lambda w, x: x @ w["w"],
         lambda w, x, y: lax.while_loop(lambda y: y.sum() > 0, jnp.tanh, y)),
        (False, lambda w, x: x @ w["w"],
         lambda w, x, y: lax.scan(lambda y, _: (jnp.tanh(y), None), y, None, length=2)[0]),
    ],
)  # fmt: skip
def test_the_last_layer_is_linear_and_meets_no_other(
    last: bool, of: Callable[..., Any], then: Callable[..., Any]
) -> None:
    def run(key: jax.Array, w: Any, x: jax.Array) -> jax.Array:
        return then(w, x, dropout(key, of(w, x), 0.1))

    assert found(run, KEY, FIELDS, X) == (["JD305"] if last else [])


@pytest.mark.parametrize(
    ("size", "mask", "evidence"),
    [
        ((4, 6, 8), (4, 1, 8), "the mask is shared along axes 1 of (4, 6, 8)"),
        ((2, 3, 4, 5), (2, 3, 1, 5), "the mask is shared along axes 2 of (2, 3, 4, 5)"),
        ((2, 3, 4, 4, 5), (2, 1, 1, 4, 5), "the mask is shared along axes 1, 2 of (2, 3, 4, 4, 5)"),
        ((4, 6, 8), (1, 6, 8), "all examples (axis 0) of (4, 6, 8) have one mask"),
        ((8, 2), (1, 2), "all examples (axis 0) of (8, 2) have one mask"),
        ((8, 1), (1, 1), ""),
        ((1, 8), (1, 1), ""),
        ((8,), (1,), ""),
        ((4, 6, 8), (4, 6, 1), ""),
        ((4, 6, 8), (4, 1, 1), ""),  # drop path
        ((2, 3, 4, 5), (2, 1, 1, 5), ""),  # spatial dropout
    ],
)
def test_axes_that_share_a_mask(
    size: tuple[int, ...], mask: tuple[int, ...], evidence: str
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, mask), jnp.tanh(x), 0)

    findings = audit.check(run, KEY, array(*size)).findings
    assert [each.evidence for each in findings] == ([evidence] if evidence else [])


@pytest.mark.parametrize(
    ("shape", "ids"), [((), []), ((1, 1), []), ((1, 16), ["JD301"]), ((8, 1), [])]
)
def test_one_number_for_all_is_no_mask_that_examples_share(
    shape: tuple[int, ...], ids: list[str]
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, shape), jnp.tanh(x), 0)

    assert found(run, KEY, X) == ids


@pytest.mark.parametrize(
    ("rate", "dtype", "ids"),
    [
        (0.1, jnp.bfloat16, ["JD307"]),
        (0.5, jnp.bfloat16, []),  # 2 is exact
        (0.1, jnp.float16, ["JD307"]),
        (0.1, jnp.float32, []),
    ],
)
def test_a_scale_that_is_rounded_is_a_bias(rate: float, dtype: Any, ids: list[str]) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(keep, jnp.tanh(x), 0) * jnp.asarray(1 / (1 - rate), x.dtype)

    report = audit.check(run, KEY, array(8, 16, dtype=dtype))
    assert [each.id for each in report.findings] == ids
    for finding in report.findings:
        bias = float(jnp.asarray(1 / (1 - rate), dtype)) * (1 - rate) - 1
        assert finding.evidence.startswith(f"kept values are {bias:+.2%} off in the mean")


@pytest.mark.parametrize(
    ("ids", "scaled"),
    [
        (["JD307"], lambda keep, x: jnp.where(keep, x, 0) / 0.9),
        (["JD307"], lambda keep, x: jnp.where(keep, x, 0).T * (1 / 0.9)),
        (["JD307"], lambda keep, x: jnp.where(keep, x / 0.9, 0)),
        (["JD307"], lambda keep, x: jnp.where(keep, 2 * x, 0) / 0.9),
        (["JD307"], lambda keep, x: x * (keep * jnp.bfloat16(1 / 0.9))),
        (["JD307"], lambda keep, x: x * (keep / jnp.bfloat16(0.9))),
        (["JD307"], lambda keep, x: x * (jnp.bfloat16(1 / 0.9) - ~keep * jnp.bfloat16(1 / 0.9))),
        (["JD307"], lambda keep, x: x * jnp.where(keep, jnp.bfloat16(1 / 0.9), 0)),
        (["JD307"], lambda keep, x: x * jnp.where(~keep, 0, jnp.bfloat16(1 / 0.9))),
        (["JD307"], lambda keep, x: jnp.where(keep, x, 0) * 1.1328125),  # 2 % off
        ([], lambda keep, x: jnp.where(keep, x, 0) * 1.15625),  # 4 % off: meant for something else
        ([], lambda keep, x: jnp.where(keep, x, 0) * 2),
        ([], lambda keep, x: jnp.where(keep, x, 0) * 0),
        ([], lambda keep, x: jnp.where(keep, x, 0) / 0),
        ([], lambda keep, x: x.astype(jnp.float32) * (keep * jnp.float32(1 / 0.9))),
    ],
)
def test_a_scale_may_stand_on_either_side_of_a_mask(
    ids: list[str], scaled: Callable[..., Any]
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return scaled(jax.random.bernoulli(key, 0.9, x.shape), jnp.tanh(x))

    assert found(run, KEY, array(8, 16, dtype=jnp.bfloat16)) == ids


def test_a_mask_that_scales_nothing_has_no_bias() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x) * jax.random.bernoulli(key, 0.99, x.shape).astype(x.dtype)

    assert found(run, KEY, array(8, 16, dtype=jnp.bfloat16)) == []


def test_scores_of_attention_are_no_last_layer() -> None:
    def run(key: jax.Array, x: jax.Array, fill: float) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.9, (8, 8)), x @ x.T, fill)

    assert found(lambda key, x: run(key, x, -jnp.inf), KEY, X) == []
    assert found(lambda key, x: run(key, x, 0.0), KEY, X) == ["JD305"]


def test_the_bias_of_a_scale_at_an_unknown_rate_is_unknown() -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        keep = jax.random.normal(key, x.shape) > 0.3
        return jnp.where(keep, jnp.tanh(x), 0) * jnp.asarray(1.6, x.dtype)

    assert found(run, KEY, array(8, 16, dtype=jnp.bfloat16)) == []


@pytest.mark.parametrize("select", [[3], ["JD2", 3]])
def test_ids_are_texts(select: Any) -> None:
    with pytest.raises(ValueError, match="select must hold ids"):
        audit.check(model, W, KEY, X, select=select)


def test_equinox_is_told_its_mode_by_the_layer_or_by_the_call() -> None:
    eqx = pytest.importorskip("equinox")

    class DropPath(eqx.Module):
        """Has no mode."""

        rate: float

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            return dropout(key, x, self.rate)

    class Net(eqx.Module):
        on: Any
        off: Any
        told: Any
        path: Any

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            keys = jax.random.split(key)
            x = self.off(self.on(x, key=keys[0]), key=keys[1])
            x = self.told(x * 2, key=keys[1], inference=True)
            return self.path(jnp.tanh(x), keys[1])

    kind = eqx.nn.Dropout
    net = Net(kind(0.1), kind(0.2, inference=True), kind(0.3), DropPath(0.4))
    sites = audit.check(lambda net, x, key: net(x, key), net, X, KEY).sites
    found = {site.where.split(" (")[0]: (site.rate, site.active) for site in sites}
    assert found == {
        "on": (0.1, True), "off": (0.2, False), "told": (0.3, False), "path": (0.4, True),
    }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_gets_no_key_once_is_blamed_whatever_its_other_calls_get(first: bool) -> None:
    layer = nnx.eval_shape(lambda: nnx.Dropout(0.1, deterministic=False))

    def run(layer: nnx.Dropout, key: jax.Array, x: jax.Array) -> jax.Array:
        for with_key in (first, not first):
            x = layer(jnp.tanh(x), rngs=key if with_key else None)
        return x

    report = audit.check(run, layer, KEY, X)
    assert [each.evidence for each in report.findings] == ["Dropout at rate 0.1 is on, and raises"]
    assert len(report.sites) == 1


def test_a_module_of_linen_without_variables_may_be_called_alone() -> None:
    class Drop(nn.Module):
        rate: float = 0.1

        def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
            return dropout(key, x, self.rate)

    def run(parts: list[Any], x: jax.Array) -> jax.Array:
        w, key = parts
        return Drop()(key, jnp.tanh(x @ w["w"])) @ w["v"]

    (site,) = audit.check(run, [W, KEY], X, training=True).sites
    assert (site.rate, site.active) == (0.1, True)
    assert found(run, [W, KEY], X, step="parts[1]") == []
    assert found(run, [W, KEY], X, step="x") == ["JD202"]


def test_a_layer_without_a_key_may_get_its_input_by_name() -> None:
    layer = nnx.eval_shape(lambda: nnx.Dropout(0.1, deterministic=False))

    def run(layer: nnx.Dropout, x: jax.Array) -> jax.Array:
        y = layer(inputs=jnp.tanh(x))
        assert y.shape == x.shape
        return y

    assert found(run, layer, X) == ["JD104"]


@pytest.mark.parametrize("told", [True, False])
def test_a_layer_without_a_key_may_be_told_its_mode(told: bool) -> None:
    """Against its own."""
    layer = nnx.eval_shape(lambda: nnx.Dropout(0.1, deterministic=not told))
    report = audit.check(lambda layer, x: layer(jnp.tanh(x), deterministic=told), layer, X)
    now = "is off now" if told else "is on, and raises"
    assert [each.evidence for each in report.findings] == [f"Dropout at rate 0.1 {now}"]


def test_what_has_a_dtype_or_a_shape_alone_is_no_array() -> None:
    """As a layer has, or a configuration."""
    config = types.SimpleNamespace(dtype=np.float32, shape=(3,), dropout_rate=0.1)

    def run(config: Any, w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return model(w, key, x, config.dropout_rate).astype(config.dtype)

    (site,) = audit.check(run, config, W, KEY, X, training=True).sites
    assert site.rate == 0.1


@pytest.mark.parametrize(
    ("rate", "of_input", "of_activation"), [(0.2, 0, 0), (0.21, 1, 0), (0.5, 1, 0), (0.51, 1, 1)]
)
def test_a_high_rate_is_above_a_half_or_a_fifth_of_an_input(
    rate: float, of_input: int, of_activation: int
) -> None:
    """An input that is moved, scaled or shifted is one; a sum of two, or weights, are none."""

    def drop(key: jax.Array, w: Any, x: jax.Array, of: Callable[..., Any]) -> jax.Array:
        return jnp.tanh(dropout(key, of(x, w["w"]), rate) @ w["w"])

    for count, bodies in (
        (of_input, [lambda x, w: x, lambda x, w: (2 * x.T.T - 1) / 3]),
        (of_activation, [lambda x, w: jnp.tanh(x), lambda x, w: x + x[::-1], lambda x, w: w + 0]),
    ):
        for of in bodies:
            ids = found(drop, KEY, W, X, of, select="JD304")
            assert ids == count * ["JD304"]


@pytest.mark.parametrize(
    ("size", "mask", "names"),
    [
        ((2, 3, 4, 4), (1, 1, 4, 4), "all examples (axis 0) and all heads (axis 1)"),
        ((2, 3, 4, 4), (2, 1, 4, 4), "all heads (axis 1)"),
        ((2, 3, 4, 4), (1, 3, 4, 4), "all examples (axis 0)"),
        ((5, 2, 3, 4, 4), (5, 2, 1, 4, 4), "all heads (axis 2)"),
        ((3, 4, 4), (3, 4, 4), ""),
        ((3, 4, 4), (1, 4, 4), "all examples (axis 0)"),
    ],
)
def test_weights_of_attention_that_share_a_mask(
    size: tuple[int, ...], mask: tuple[int, ...], names: str
) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(x)
        return jnp.where(jax.random.bernoulli(key, 0.9, mask), weights / 0.9, 0) @ x

    report = audit.check(run, KEY, array(*size))
    assert [site.variant for site in report.sites] == ["attention dropout"]
    texts = [each.evidence for each in report.findings if each.id == "JD301"]
    assert texts == ([f"{names} of {size} have one mask"] if names else [])
