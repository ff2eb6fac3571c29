"""`jaxdrop.nnx.Dropout` in place of `flax.nnx.Dropout`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.errors import TraceContextError

import jaxdrop
import jaxdrop.nnx
from jaxdrop.nnx import Dropout
from tests.catalogue import DROPOUT, KEY, RATE


class Model(nnx.Module):
    """Several sites, of which some draw nothing."""

    def __init__(
        self,
        layer: Callable[..., nnx.Module],
        rngs: nnx.Rngs,
        rates: tuple[float, ...] = (0.2, 0.0, 0.5, 1.0, 0.3),
    ) -> None:
        self.sites = nnx.List([layer(rate, rngs=rngs) for rate in rates])

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        return jnp.stack([site(x, **options) for site in self.sites])


def counts(module: nnx.Module) -> list[int]:
    """How many keys each stream has given."""
    return [int(count) for count in jax.tree.leaves(nnx.state(module, nnx.RngCount))]


# -- as Flax has it


@pytest.mark.parametrize("method", ["__init__", "__call__", "set_view"])
def test_signature_is_that_of_flax(method: str) -> None:
    """Ours has what Flax's has, at the same place with the same default; what it has besides is
    keyword-only.
    """
    ours, flax = (
        inspect.signature(getattr(cls, method)).parameters for cls in (Dropout, nnx.Dropout)
    )
    for position, (name, parameter) in enumerate(flax.items()):
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default), name
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert list(ours)[position] == name
    assert all(
        ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ours.keys() - flax.keys()
    )


@pytest.mark.parametrize(
    "make", [lambda: nnx.Rngs(7), lambda: nnx.Rngs(0, dropout=3), lambda: nnx.Rngs(dropout=KEY)]
)
def test_models_draw_the_masks_of_flax(make: Callable[[], nnx.Rngs]) -> None:
    """Over several layers and calls; the streams stand where those of Flax stand, also where no key
    was needed.
    """
    x = DROPOUT.example()
    ours, flax = Model(Dropout, make()), Model(nnx.Dropout, make())
    for _ in range(3):
        np.testing.assert_array_max_ulp(ours(x), flax(x), maxulp=1)
        assert counts(ours) == counts(flax)
    assert sum(counts(ours)) == 9
    for both in (ours, flax):
        both.eval()
    np.testing.assert_array_equal(ours(x), flax(x))
    assert counts(ours) == counts(flax)


def test_streams_of_the_call_advance_as_with_flax() -> None:
    x = DROPOUT.example()
    for make in (lambda: nnx.Rngs(7), lambda: nnx.Rngs(7)["dropout"]):
        mine, theirs = make(), make()
        for _ in range(2):
            np.testing.assert_array_max_ulp(
                Dropout(RATE)(x, rngs=mine), nnx.Dropout(RATE)(x, rngs=theirs), maxulp=1
            )
        assert counts(mine) == counts(theirs)


def test_state_has_the_structure_of_flax() -> None:
    """So a checkpoint of one loads into the other."""
    ours, flax = (nnx.state(Model(layer, nnx.Rngs(7))) for layer in (Dropout, nnx.Dropout))
    assert jax.tree.structure(ours) == jax.tree.structure(flax)


def test_other_collections() -> None:
    x, rngs = DROPOUT.example(), nnx.Rngs(dropout=1, noise=2)
    layer = Dropout(RATE, rng_collection="noise", rngs=rngs)
    np.testing.assert_array_max_ulp(
        layer(x),
        nnx.Dropout(RATE, rng_collection="noise", rngs=nnx.Rngs(dropout=1, noise=2))(x),
        maxulp=1,
    )


# -- what a call can say


def test_call_takes_precedence_over_the_constructor() -> None:
    x, layer = DROPOUT.example(), Dropout(RATE, deterministic=True, rngs=nnx.Rngs(7))
    assert layer(x) is x
    np.testing.assert_array_equal(
        layer(x, deterministic=False, rngs=KEY), jaxdrop.dropout(KEY, x, RATE)
    )
    np.testing.assert_array_equal(
        layer(x, deterministic=False, rngs=KEY, rate=0.7), jaxdrop.dropout(KEY, x, 0.7)
    )
    assert counts(layer) == [0]


@pytest.mark.parametrize(
    "key", [KEY, jax.random.key(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))]
)
def test_a_key_of_any_kind_can_come_with_the_call(key: Any) -> None:
    x = DROPOUT.example()
    np.testing.assert_array_equal(Dropout(RATE)(x, rngs=key), jaxdrop.dropout(key, x, RATE))


@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0), jnp.float32(0), np.asarray(0)])
def test_known_rate_zero_takes_no_key(rate: Any) -> None:
    x = DROPOUT.example()
    assert Dropout(RATE)(x, rate=rate) is x
    layer = Dropout(rate, rngs=nnx.Rngs(7))
    assert layer(x) is x
    assert counts(layer) == [0]


def test_known_rate_one_takes_no_key() -> None:
    x, layer = DROPOUT.example(), Dropout(1.0, rngs=nnx.Rngs(7))
    np.testing.assert_array_equal(layer(x), jnp.zeros_like(x))
    assert counts(layer) == [0]


def test_traced_rate_does_not_compile_again() -> None:
    x, traces = DROPOUT.example(), []
    layer = Dropout(RATE)

    @jax.jit
    def step(key: jax.Array, rate: jax.Array) -> jax.Array:
        traces.append(rate)
        return layer(x, rngs=key, rate=rate)

    for rate in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_array_equal(step(KEY, rate), jaxdrop.dropout(KEY, x, rate))
    assert len(traces) == 1


def test_rates_for_each_feature_come_with_the_call() -> None:
    x, rates = DROPOUT.example(), jnp.linspace(0, 1, 16)
    np.testing.assert_array_equal(
        Dropout(RATE)(x, rngs=KEY, rate=rates), jaxdrop.dropout(KEY, x, rates)
    )


# -- switching on and off


def test_train_and_eval() -> None:
    x, model = DROPOUT.example(), Model(Dropout, nnx.Rngs(7))
    model.eval()
    np.testing.assert_array_equal(model(x), jnp.stack([x] * 5))
    model.train()
    assert (model(x) == 0).any()


def test_view_leaves_the_module_alone() -> None:
    x, model = DROPOUT.example(), Model(Dropout, nnx.Rngs(7))
    view = nnx.view(model, deterministic=True)
    np.testing.assert_array_equal(view(x), jnp.stack([x] * 5))
    assert (model(x) == 0).any()


# -- transformations


def test_jit_carries_the_stream() -> None:
    x, eager, jitted = DROPOUT.example(), Model(Dropout, nnx.Rngs(7)), Model(Dropout, nnx.Rngs(7))
    step = nnx.jit(lambda model, x: model(x))
    for _ in range(3):
        np.testing.assert_array_equal(step(jitted, x), eager(x))
    assert counts(jitted) == counts(eager)


def test_remat_and_grad_carry_the_stream() -> None:
    x = DROPOUT.example()

    def loss(model: Model, x: jax.Array) -> jax.Array:
        return (model(x) ** 2).sum()

    gradients = []
    for fn in (loss, nnx.remat(loss)):
        model = Model(Dropout, nnx.Rngs(7))
        gradients.append([nnx.grad(fn, argnums=1)(model, x) for _ in range(2)])
        assert sum(counts(model)) == 6
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert not np.array_equal(gradients[0][0], gradients[0][1])


def test_scan_over_steps_advances_the_stream() -> None:
    x = DROPOUT.example()
    layer, eager = Dropout(RATE, rngs=nnx.Rngs(7)), Dropout(RATE, rngs=nnx.Rngs(7))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def steps(layer: Dropout, x: jax.Array) -> tuple[Dropout, jax.Array]:
        return layer, layer(x)

    _, ys = steps(layer, jnp.stack([x] * 3))
    np.testing.assert_array_equal(ys, jnp.stack([eager(x) for _ in range(3)]))


def test_scan_over_layers_gives_each_its_own_stream() -> None:
    x = DROPOUT.example()

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0)
    def make(rngs: nnx.Rngs) -> Dropout:
        return Dropout(RATE, rngs=rngs)

    layers = make(nnx.Rngs(7))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def through(x: jax.Array, layer: Dropout) -> tuple[jax.Array, jax.Array]:
        return x, layer(x)

    _, ys = through(x, layers)
    assert len({y.tobytes() for y in np.asarray(ys)}) == 3
    streams = [jax.random.fold_in(key, 0) for key in layers.rngs.key[...]]
    np.testing.assert_array_equal(ys, jnp.stack([jaxdrop.dropout(key, x, RATE) for key in streams]))


def test_vmap_with_split_streams_gives_each_row_its_own_mask() -> None:
    x, layer = DROPOUT.example(), Dropout(RATE, rngs=nnx.Rngs(7))

    @nnx.split_rngs(splits=4)
    @nnx.vmap(in_axes=(0, None))
    def sample(layer: Dropout, x: jax.Array) -> jax.Array:
        return layer(x)

    assert len({y.tobytes() for y in np.asarray(sample(layer, x))}) == 4


def test_split_and_merge() -> None:
    """A functional step under plain `jax.jit`: the state goes in and out."""
    x, eager = DROPOUT.example(), Model(Dropout, nnx.Rngs(7))
    graph, state = nnx.split(Model(Dropout, nnx.Rngs(7)))

    @jax.jit
    def step(state: nnx.State, x: jax.Array) -> tuple[nnx.State, jax.Array]:
        model = nnx.merge(graph, state)
        y = model(x)
        return nnx.state(model), y

    for _ in range(2):
        state, y = step(state, x)
        np.testing.assert_array_equal(y, eager(x))


def test_sequential() -> None:
    x = DROPOUT.example()
    model = nnx.Sequential(
        Dropout(RATE, rngs=nnx.Rngs(dropout=KEY)), Dropout(0.0), Dropout(RATE, deterministic=True)
    )
    np.testing.assert_array_equal(model(x), Dropout(RATE, rngs=nnx.Rngs(dropout=KEY))(x))


def test_vmap_over_calls_with_keys() -> None:
    """Monte Carlo: plain `jax.vmap` over keys, with a module closed over."""
    x, layer, keys = DROPOUT.example(), Dropout(RATE), jaxdrop.mc.keys(KEY, 3)
    ys = jax.jit(jax.vmap(lambda key: layer(x, rngs=key)))(keys)
    np.testing.assert_array_equal(ys, jnp.stack([jaxdrop.dropout(key, x, RATE) for key in keys]))


# -- what the docstring says of plain jax.jit, and of bare keys


def test_plain_jit_repeats_the_mask_of_a_module_that_is_its_argument() -> None:
    x, layer = DROPOUT.example(), Dropout(RATE, rngs=nnx.Rngs(7))
    step = jax.jit(lambda layer, x: layer(x))
    np.testing.assert_array_equal(step(layer, x), step(layer, x))
    assert counts(layer) == [0]


def test_plain_jit_rejects_a_stateful_module_that_is_closed_over() -> None:
    x, layer = DROPOUT.example(), Dropout(RATE, rngs=nnx.Rngs(7))
    with pytest.raises(TraceContextError, match="trace level"):
        jax.jit(lambda x: layer(x))(x)


def test_a_bare_key_gives_all_layers_one_mask_and_rngs_does_not() -> None:
    x, model = DROPOUT.example(), Model(Dropout, nnx.Rngs(7), rates=(RATE, RATE))
    first, second = model(x, rngs=KEY)
    np.testing.assert_array_equal(first, second)
    first, second = model(x, rngs=nnx.Rngs(KEY))
    assert not np.array_equal(first, second)


def test_constructors_show_their_arguments() -> None:
    """Which Flax's metaclass hides: `inspect.signature(nnx.Dropout)` is (*args, **kwargs)."""
    for name in jaxdrop.nnx.__all__:
        layer = getattr(jaxdrop.nnx, name)
        if inspect.isclass(layer):
            parameters = inspect.signature(layer).parameters
            assert "args" not in parameters, name
            assert "deterministic" in parameters, name
    ours = inspect.signature(jaxdrop.nnx.MultiHeadAttention).parameters
    theirs = [*inspect.signature(nnx.MultiHeadAttention.__init__).parameters][1:]
    assert [name for name in ours if name != "spec"] == theirs
    assert ours["attention_fn"].default is jaxdrop.nnx.dot_product_attention

    class Own(jaxdrop.nnx.MultiHeadAttention):
        def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
            super().__init__(2, width, rngs=rngs)

    assert [*inspect.signature(Own).parameters] == ["width", "rngs"]


def test_a_stream_that_is_not_there_is_named() -> None:
    """With what there is. Flax's error is a KeyError, or an AttributeError, of the name alone."""

    def other() -> nnx.Rngs:
        return nnx.Rngs(params=0, noise=1)

    def attention(**options: Any) -> nnx.Module:
        options |= {"dropout_rate": 0.5, "deterministic": False, "decode": False}
        return jaxdrop.nnx.MultiHeadAttention(2, 8, rngs=other(), **options)

    def called(layer: Callable[[], Any], **options: Any) -> Any:
        rngs = options.pop("rngs", other)
        return nnx.eval_shape(lambda: layer()(jnp.ones((1, 3, 8)), rngs=rngs(), **options))

    for name, made in {
        "Dropout": lambda: Dropout(0.5, rngs=other()),
        "StackedRNN": lambda: jaxdrop.nnx.StackedRNN(nnx.GRUCell, 8, 8, rngs=other()),
        "MultiHeadAttention": attention,
    }.items():
        says = f"{name} takes its keys from the stream 'dropout' of rngs, which has only 'params', "
        with pytest.raises(ValueError, match=says + "'noise'"):
            nnx.eval_shape(made)
    for layer in (lambda: Dropout(0.5), lambda: attention(keep_rngs=False)):
        with pytest.raises(ValueError, match="'dropout' of rngs, which has no streams"):
            called(layer, rngs=nnx.Rngs)
        for off in ({"rate": 0.0}, {"deterministic": True}):
            assert called(layer, **off).shape == (1, 3, 8)
    assert called(lambda: Dropout(0.5, rng_collection="noise", rngs=other())).shape == (1, 3, 8)
