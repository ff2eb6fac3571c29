"""What wrong calls say: that of `scripts/check_errors.py`, and names of other libraries."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import _checks, mc, schedules

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from errors import calls, layers
from errors.outcomes import judge, mistakes

KEY, X = jaxdrop.key(3), jax.device_put(np.ones((4, 6), np.float32))
IDS = jax.device_put(np.arange(3, dtype=np.int32))


@pytest.fixture
def unfiltered() -> Iterator[None]:
    """Tracebacks with all of their frames, of which the last one tells who has raised the error."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)
    plt.close("all")


@pytest.mark.sweep
@pytest.mark.usefixtures("unfiltered", "relaxed")
def test_no_wrong_call_ends_inside_of_jax() -> None:
    """Nor does a right call spoil itself: each value fits its own kind, so that mistakes are
    mistakes.
    """
    surface = [*calls.functions(), *calls.statistics(), *calls.plots(), *layers.both()]
    for call in surface:
        given = {**call.arguments, **{name: make() for name, make in call.fresh.items()}}
        assert [
            name for name, kind in call.kinds.items() if not kind.fits(given[name], given[name])
        ] == [], call.name
    found = [judge(mistake) for mistake in mistakes(surface, 300, seed=0)]
    assert [f"{one.mistake}: {one.says}" for one in found if one.outcome == "internal error"] == []


# -- arguments of other libraries

LAYERS = [
    getattr(package, name)
    for package in (jaxdrop.nnx, jaxdrop.linen)
    for name in ("Dropout", "DropPath", "DropConnect")
]


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(
    "layer", LAYERS, ids=lambda layer: f"{layer.__module__.split('.')[1]}.{layer.__name__}"
)
@pytest.mark.parametrize(
    ("foreign", "says"),
    [
        ("p", "rate is the probability of dropping"),
        ("keep_prob", "rate=1 - keep_prob"),
        ("training", "deterministic=not training"),
        ("determinstic", ": is deterministic meant? It takes "),
    ],
)
def test_a_foreign_argument_of_a_constructor(layer: type, foreign: str, says: str) -> None:
    with pytest.raises(TypeError) as raised:
        layer(**{foreign: 0.1})
    message = str(raised.value)
    assert message.startswith(f"{layer.__name__} has no argument '{foreign}'")
    assert says in message


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: jaxdrop.dropout(KEY, X, p=0.1),
            "dropout has no argument 'p': rate is the probability of dropping, as in rate=0.1. It"
            " takes key, ",
        ),
        (
            lambda: jaxdrop.zoneout(KEY, X, X, 0.1),
            "too many positional arguments. It takes key, new, rate, *, previous, ",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, jaxdrop.schedules.linear(0.0, 0.5, 10)),
            "A schedule is called: rate=schedule(step). It is the probability",
        ),
        (lambda: jaxdrop.dropout(KEY, X, [0.1]), "are an array: rate=np.array([...])."),
        (
            lambda: jaxdrop.nnx.StackedRNN(nnx.GRUCell, 8, 8, batch_first=True, rngs=nnx.Rngs(0)),
            ": the batch comes first, unless time_major=True.",
        ),
        (
            lambda: jaxdrop.nnx.MultiHeadAttention(2, embed_dim=8, rngs=nnx.Rngs(0)),
            ": it is called in_features here.",
        ),
        (
            lambda: jaxdrop.nnx.MultiHeadAttention(2, 8, dropout=0.1, rngs=nnx.Rngs(0)),
            ": it is called dropout_rate here, as in Flax.",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, 0.1, noise_shape=(4, 1)),
            "broadcast_dims=(...) names the axes",
        ),
        (lambda: jaxdrop.dropout(X, 0.1), "dropout: missing a required argument: 'rate'"),
        (lambda: jaxdrop.drop_path(KEY, X, 0.1, train=True), "deterministic=not training"),
        (
            lambda: jaxdrop.nnx.Dropout(0.1)(X, train=True),
            "the call of Dropout has no argument 'train': deterministic",
        ),
        (lambda: jaxdrop.nnx.Dropout(0.1)(X, rng=KEY), "rngs=... takes an nnx.Rngs"),
        (lambda: jaxdrop.linen.Dropout(0.1).apply({}, X, key=KEY), "rng=... takes a key"),
        (lambda: jaxdrop.nnx.Dropout(0.1, (0,)), "Dropout: too many positional arguments"),
        (lambda: jaxdrop.nnx.Dropout(), "Dropout: missing a required argument: 'rate'"),
        (
            lambda: schedules.linear(0.1, 0.2, num_steps=3),
            "linear has no argument 'num_steps': is steps meant?",
        ),
        (
            lambda: jaxdrop.drop_connect(KEY, X, X.T, 0.1, inverted=False),
            "drop_connect has no argument 'inverted': it is called scale_by_keep here",
        ),
        (
            lambda: jaxdrop.drop_connect(KEY, X, X.T, 0.1, per_example=True),
            "it is called per here",
        ),
        (lambda: jaxdrop.shake_drop(KEY, X, 0.1, level="batch"), "it is called per here"),
        (lambda: jaxdrop.drop_path(KEY, X, 0.1, per="batch"), "it is called mode here"),
        (lambda: jaxdrop.drop_head(KEY, X, 0.1, normalization="fixed"), "is called normalize here"),
        (lambda: jaxdrop.nnx.DropBlock(0.1, scale_by_keep=True), "it is called normalize here"),
        (lambda: jaxdrop.linen.DropBlock(0.1, preset="timm"), "it is called rule here"),
    ],
)
def test_a_foreign_argument(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError) as raised:
        call()
    assert says in str(raised.value)


def test_signatures_stay() -> None:
    """What is said of arguments that do not fit takes nothing from `help`, completion and
    `jax.jit`.
    """
    assert list(inspect.signature(jaxdrop.dropout).parameters) == [
        "key",
        "x",
        "rate",
        "broadcast_dims",
        "deterministic",
        "spec",
        "part",
    ]
    assert list(inspect.signature(jaxdrop.nnx.Dropout.__init__).parameters)[:3] == [
        "self",
        "rate",
        "broadcast_dims",
    ]
    assert list(inspect.signature(jaxdrop.linen.Dropout).parameters)[:3] == [
        "rate",
        "broadcast_dims",
        "deterministic",
    ]
    assert jaxdrop.dropout.__doc__ is not None
    static = jax.jit(jaxdrop.dropout, static_argnames="deterministic")
    np.testing.assert_array_equal(static(KEY, X, 0.5, deterministic=True), X)


def test_a_type_error_from_inside_stays() -> None:
    def layer(x: jax.Array) -> jax.Array:
        raise TypeError("of the layer itself")

    with pytest.raises(TypeError, match="of the layer itself"):
        jaxdrop.layer_drop(KEY, X, 0.0, layer)


# -- names of other libraries


@pytest.mark.parametrize(
    "name",
    sorted({*jaxdrop.nnx.__all__, *jaxdrop.linen.__all__} - {*jaxdrop.__all__, *dir(jaxdrop)}),
)
def test_every_layer_is_pointed_to(name: str) -> None:
    assert not hasattr(jaxdrop, name)
    if name == "MultiHeadDotProductAttention":  # Linen's second name
        return
    places = rf"it is jaxdrop\.nnx\.{name}"
    if name in jaxdrop.linen.__all__:
        places += rf" or jaxdrop\.linen\.{name}"
    with pytest.raises(AttributeError, match=places):
        getattr(jaxdrop, name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dropout2d", "spatial_dropout(key, x, rate, spatial_rank=2)"),
        ("StochasticDepth", "jaxdrop.nnx.DropPath"),
        ("dropuot", "is jaxdrop.dropout meant?"),
    ],
)
def test_names_of_other_libraries(name: str, says: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(jaxdrop, name)
    assert says in str(raised.value)


def test_an_import_says_where_the_layer_is() -> None:
    with pytest.raises(ImportError, match=r"jaxdrop\.nnx\.Dropout or jaxdrop\.linen\.Dropout"):
        from jaxdrop import Dropout  # noqa: F401


# -- who is spoken of, and by which name


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: jaxdrop.dropout(nnx.Rngs(0), X, 0.1), TypeError, "dropout(rngs.dropout(), ...)"),
        (lambda: mc.keys(0, 10), TypeError, "Keys come first: keys(key, ...)"),
        (lambda: jaxdrop.step_key(0, 1), TypeError, "Keys come first: step_key(key, ...)"),
        (lambda: jaxdrop.step_key(None, 1), ValueError, "step_key needs a key"),
        (lambda: jaxdrop.nnx.Dropout(0.5)(IDS, rngs=KEY), TypeError, "inputs of dtype int32"),
        (
            lambda: jaxdrop.linen.Dropout(0.5, deterministic=False).apply({}, IDS, rng=KEY),
            TypeError,
            "inputs of dtype int32",
        ),
        (lambda: jaxdrop.nnx.Dropout(0.5)(X, rngs=X), TypeError, "rngs must be a JAX PRNG key"),
        (lambda: jaxdrop.recurrent_dropout(KEY, IDS, 0.5), TypeError, "candidate of dtype int32"),
        (lambda: jaxdrop.bias_dropout_add(KEY, X, "b", X, 0.5), TypeError, "array bias of"),
        (
            lambda: jaxdrop.bias_dropout_add(KEY, X, None, IDS, 0.5),
            TypeError,
            "residual of dtype int32",
        ),
        (lambda: jaxdrop.drop_connect(KEY, X, IDS, 0.5), TypeError, "w of dtype int32"),
        (lambda: jaxdrop.zoneout(KEY, X, 0.5, previous=IDS), TypeError, "previous of dtype int32"),
        (lambda: jaxdrop.drop_edge(KEY, IDS, None, 0.5), TypeError, "array receivers of integers"),
        (lambda: schedules.linear(2.0, 0.1, 5), ValueError, "start must lie in [0, 1], got 2.0"),
        (
            lambda: jaxdrop.dropout(KEY, np.array([None]), 0.5),
            TypeError,
            "array x of floating or complex numbers",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, KEY),
            TypeError,
            "rate must be a real number in [0, 1], got a key",
        ),
        (lambda: jaxdrop.dropout(KEY, X, 10**400), ValueError, "rate must lie in [0, 1], got 1000"),
        (
            lambda: jaxdrop.drop_path(KEY, X, 0.5, batch_axis=True),
            TypeError,
            "batch_axis must be the number of an axis, got True",
        ),
        (
            lambda: jaxdrop.dropout(KEY, X, 0.5, broadcast_dims={0: 1}),
            TypeError,
            "broadcast_dims must be a sequence of axis",
        ),
    ],
)
def test_messages(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert says in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), jnp.array(True)])
def test_flags(value: Any) -> None:
    assert jaxdrop.dropout(None, X, 0.5, deterministic=value) is X


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("deterministic", lambda flag: jaxdrop.dropout(KEY, X, 0.5, deterministic=flag)),
        ("scale_by_keep", lambda flag: jaxdrop.drop_path(KEY, X, 0.5, scale_by_keep=flag)),
        ("undirected", lambda flag: jaxdrop.drop_edge(KEY, IDS, IDS, 0.5, undirected=flag)),
        ("self_loops", lambda flag: jaxdrop.symmetric_normalization(IDS, IDS, 3, self_loops=flag)),
        ("scale_by_keep", lambda flag: jaxdrop.drop_connect(KEY, X, X.T, 0.5, scale_by_keep=flag)),
        (
            "prenorm",
            lambda flag: jaxdrop.dropout_add_layer_norm(
                KEY, X, None, None, None, 0.5, prenorm=flag
            ),
        ),
        (
            "ordered",
            lambda flag: jaxdrop.token_dropout(KEY, X, 0.5, num_prefix_tokens=0, ordered=flag),
        ),
    ],
)
def test_flags_are_checked(name: str, call: Callable[[Any], Any]) -> None:
    for wrong in ("False", 1, None, jnp.ones(2, bool)):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
            call(wrong)
    with pytest.raises(TypeError, match=f"static_argnames='{name}'"):
        jax.jit(call)(True)


def test_an_nnx_variable_is_the_array_that_it_holds() -> None:
    np.testing.assert_array_equal(
        jaxdrop.dropout(KEY, nnx.Param(X), nnx.Variable(0.5)), jaxdrop.dropout(KEY, X, 0.5)
    )


def test_messages_quote_shortly() -> None:
    values: list[Any] = [
        "x" * 1000,
        list(range(1000)),
        nnx.Rngs(0),
        10**5000,
        object(),
        np,
        X,
        KEY,
        lambda: None,
    ]
    assert all(
        "\n" not in _checks.quoted(value) and len(_checks.quoted(value)) < 100 for value in values
    )


CELL = nnx.SimpleCell(6, 3, rngs=nnx.Rngs(0))
SAMPLES = jax.device_put(np.full((4, 3, 2), 0.5, np.float32))
LABELS = jax.device_put(np.array([0, 1, 1], np.int32))
HIDDEN = np.ma.masked_invalid(np.array([0.5, np.nan, 0.5], np.float32))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: mc.keys(KEY, 4, groups=True), TypeError, "groups must be an integer, got True"),
        (
            lambda: mc.regression(SAMPLES, tau=1.0, groups=np.True_),
            TypeError,
            "groups must be an integer",
        ),
        (lambda: mc.regression(SAMPLES, tau=True), TypeError, "real tau, got True"),
        (
            lambda: mc.acquisition.power_sampling(KEY, jnp.ones(3), 2, coldness=True),
            TypeError,
            "real coldness, got True",
        ),
        (
            lambda: mc.tau_from_weight_decay(
                "x", rate=0.1, length_scale=1, num_examples=9, loss="mse"
            ),
            TypeError,
            "weight_decay",
        ),
        (
            lambda: mc.tau_from_weight_decay(
                1e-4, rate=1, length_scale=1, num_examples=9, loss="mse"
            ),
            ValueError,
            "below 1",
        ),
        (
            lambda: mc.sequence_scores(jnp.ones(3), per_token="False"),
            TypeError,
            "per_token must be True or False",
        ),
        (lambda: mc.sequence_scores(HIDDEN), TypeError, "log_probs is a masked array"),
        (lambda: mc.metrics.rmse(HIDDEN, jnp.ones(3)), TypeError, "y.filled(np.nan)"),
        (
            lambda: mc.metrics.nll(np.ma.masked_equal([0, 1, 255], 255), SAMPLES[0]),
            TypeError,
            "labels is a masked array",
        ),
        (lambda: jaxdrop.dropout(KEY, HIDDEN, 0.5), TypeError, "x is a masked array"),
        (
            lambda: mc.moments(lambda key: X, mc.keys(KEY, 4), summary=1),
            TypeError,
            "summary must be a function of samples",
        ),
        (
            lambda: mc.metrics.ece(LABELS, SAMPLES[0], bins=3),
            TypeError,
            "ece has no argument 'bins': is num_bins meant?",
        ),
        (
            lambda: mc.classification(logits=SAMPLES).merge(3),
            TypeError,
            "other must be a Classification",
        ),
        (lambda: jaxdrop.attention_dropout(KEY, IDS, 0.5), TypeError, "weights of dtype int32"),
        (lambda: jaxdrop.nnx.DropKey(0.5)(IDS, rngs=KEY), TypeError, "inputs of dtype int32"),
        (
            lambda: jaxdrop.nnx.RNN(CELL, reverse="False"),
            TypeError,
            "reverse must be True or False",
        ),
        (lambda: jaxdrop.nnx.RNN(CELL, p=0.1), TypeError, "RNN has no argument 'p'"),
        (
            lambda: jaxdrop.nnx.RNN(CELL)(X[None, ..., :5]),
            ValueError,
            "inputs must have in_features=6 features",
        ),
        (
            lambda: jaxdrop.nnx.RNN(CELL)(X[None], initial_carry=X),
            ValueError,
            "initial_carry must be an array of floating numbers",
        ),
        (
            lambda: jaxdrop.nnx.RNN(CELL)(X[None], rates=[0.1]),
            TypeError,
            "rates must be a dict of rates by name",
        ),
        (
            lambda: jaxdrop.nnx.RNN(CELL)(X[None], rates={"output_rate": None}),
            TypeError,
            "rates['output_rate'] must be a real",
        ),
        (
            lambda: jaxdrop.linen.StackedRNN(nn.SimpleCell, 3, train=True),
            TypeError,
            "StackedRNN has no argument 'train'",
        ),
        (
            lambda: jaxdrop.nnx.MultiHeadAttention(2, 4, rngs=0),
            TypeError,
            "rngs must be an nnx.Rngs",
        ),
        (
            lambda: jaxdrop.drop_node(KEY, IDS, IDS, 2, 0.5),
            ValueError,
            "num_nodes counts all nodes, those of padding too",
        ),
    ],
)
def test_messages_of_statistics_and_large_layers(
    call: Callable[[], Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised:
        call()
    assert says in str(raised.value)


def test_nothing_masked_is_no_mask() -> None:
    assert mc.metrics.rmse(np.ma.array([1.0, 1.0]), np.ones(2)) == 0


# -- values that were taken as they came


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxdrop.symmetric_normalization(IDS, IDS, 2),
        lambda: jaxdrop.symmetric_normalization(IDS, IDS - 1, 3),
        lambda: jaxdrop.symmetric_normalization(IDS, IDS, 3, weights=-jnp.ones(3)),
        lambda: jaxdrop.drop_node(KEY, IDS, IDS, 2, 0.5),
        lambda: jaxdrop.drop_edge(KEY, IDS - 1, IDS, 0.5),
        lambda: jaxdrop.dropout_add_layer_norm(KEY, X, None, None, None, 0.5, epsilon=-1.0),
        lambda: jaxdrop.sparse_variational_dense(
            KEY, X, X.T, -3.0, threshold=float("nan"), deterministic=True
        ),
        lambda: jaxdrop.nnx.SparseVariationalDense(6, 4, float("nan"), rngs=nnx.Rngs(0)),
        lambda: jaxdrop.r_drop(X, X, jnp.zeros(4, jnp.int32), alpha=float("nan")),
        lambda: jaxdrop.neftune(KEY, X, 5.0, mask=jnp.full(4, 7)),
    ],
)
def test_values_out_of_range(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"must|are probabilities"):
        call()


@pytest.mark.parametrize("name", ["Convolution", "conv", "Embedding", "raindrop"])
def test_a_name_that_is_like_no_other_gets_no_hint(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'jaxdrop' has no attribute '{name}'$"):
        getattr(jaxdrop, name)


def test_a_scalar_has_no_axis_to_name() -> None:
    one = X[0, 0]
    with pytest.raises(ValueError, match=r"time_axis=0 .* there is none to name in ids"):
        jaxdrop.embedding_dropout(KEY, one, 0.5, ids=IDS[0], time_axis=0)
    with pytest.raises(ValueError, match=r"axis=-2 .* there is none to name in w"):
        jaxdrop.quant_noise(KEY, one, 0.5)
