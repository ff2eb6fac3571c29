"""The parts of `stochastic` that need no model: what it says, arguments, axes, and what draws."""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.tree_util import tree_flatten_with_path

import jaxdrop
from jaxdrop._mc_dropout import calls, examples, messages
from jaxdrop._mc_dropout.dependence import dependence, is_array
from jaxdrop._mc_dropout.overrides import Change, Overrides
from jaxdrop._mc_dropout.planning import is_key, paths_of_keys

KEY, X = jaxdrop.key(0), jnp.ones((3, 4))

# -- messages


class Listed(NamedTuple):
    text: str
    chosen: bool


def some(number: int, chosen: int) -> list[Listed]:
    return [Listed(f"layer{at}", at < chosen) for at in range(number)]


def said(number: int, chosen: int) -> list[str]:
    """The lines of a listing, without its head and foot."""
    text = str(messages.none_chosen("Net", "x*", some(number, chosen)))
    return text.partition("Its dropout layers are:\n")[2].partition("\n Patterns")[0].split("\n")


def test_listings_are_short_and_mark_what_is_not_chosen() -> None:
    assert said(2, 1) == ["  layer0", "  layer1 (not chosen)"]
    assert said(2, 2) == ["  layer0", "  layer1"]
    assert said(2, 0) == ["  layer0", "  layer1"]  # all alike
    assert said(30, 0)[-1] == "  layer29"
    assert said(32, 0)[29:] == ["  layer29", "  ... and 2 more"]
    assert "It has no dropout layer." in str(messages.none_chosen("Net", "x*", []))


@pytest.mark.parametrize(
    ("source", "parts", "others"),
    [
        (("layers", "a*"), ["the pattern 'a*' in layers is the path of no", "'last' the"], []),
        (
            ("rate", None),
            ["rate replaces the rate of no", "not learned. A rate of 0"],
            ["Patterns"],
        ),
        (("spec", None), ["spec lays out the input of no", "By path: spec="], ["Patterns"]),
        (
            ("rates", "a"),
            ["the pattern 'a' in rates replaces the rate", "the later one counts", "names one."],
            ["'last'"],
        ),
        (
            ("spec", "a"),
            ["the pattern 'a' in spec lays out the input", "the later one counts"],
            ["names one."],
        ),
    ],
)
def test_what_an_argument_that_concerns_no_layer_is_told(
    source: Any, parts: list[str], others: list[str]
) -> None:
    text = str(messages.speaks_of_none("Net", source, some(1, 1)))
    assert [part for part in parts if part not in text] == []
    assert [other for other in others if other in text] == []


def test_what_to_do_where_nothing_is_random() -> None:
    some_layers = str(messages.nothing_random("Net", some(1, 1), "made by its code"))
    none = str(messages.nothing_random("Net", [], ""))
    assert "1. give a chosen layer a rate above 0" in some_layers
    assert "It draws from a key that does not follow, made by its code." in some_layers
    assert "1. add a layer that drops" in none
    assert "It draws" not in none
    given = str(messages.nothing_random("Net", some(1, 1), "among the inputs (input 2)"))
    assert "3. if the model takes its key as an input" in given
    assert "3. " not in some_layers + none


def test_a_layer_is_its_path_its_class_and_its_rates() -> None:
    class Layer:
        def __init__(self, **attributes: Any) -> None:
            vars(self).update(attributes)

    def text(path: str = "a", changed: Any = types.MappingProxyType({}), **attributes: Any) -> str:
        return messages.layer(path, Layer(**attributes), changed)

    assert text("", rate=0.5) == "(the model itself): Layer(rate=0.5)"
    assert text(rate=0.5, input_rate=0.0) == "a: Layer(rate=0.5)"
    assert text(rate=0.0, input_rate=0.0) == "a: Layer(rate=0, input_rate=0)"
    assert text(changed={"rate": 0.25}, rate=0.0, size=3, zoneout=1) == (
        "a: Layer(rate=0 -> 0.25, zoneout=1)"
    )
    assert text(changed={"rate": jnp.float32(0.5)}, rate=0.1) == "a: Layer(rate=0.1 -> traced)"
    assert text(rate=jnp.float32(0.5), dropout=0.5, other_rate=jnp.ones(2) / 2) == (
        "a: Layer(rate=0.5, dropout=0.5)"
    )
    assert text(rate=True, dropout="0.5", size=0.5) == "a: Layer()"
    traced: list[str] = []
    jax.eval_shape(lambda rate: traced.append(text(rate=rate, dropout=0.5)), 0.5)
    assert traced == ["a: Layer(dropout=0.5)"]


def test_inputs_are_numbered_and_keywords_named() -> None:
    paths = tree_flatten_with_path((([1, 2], 3), {"mask": {"a": 4}}))[0]
    assert [messages.argument(path) for path, _ in paths] == [
        "input 1[0]",
        "input 1[1]",
        "input 2",
        "mask['a']",
    ]
    assert messages.places(["input 1"], ["key"]) == (
        "among the inputs (input 1) or held by the model (key)"
    )
    assert messages.places([], ["a", "b"]) == "held by the model (a, b)"
    assert messages.places([], []) == "made or held by its code"


# -- the batch axis


def scaled(key: jax.Array, x: jax.Array, *others: Any, **named: Any) -> jax.Array:
    """Of one example, whose axis has length 1."""
    assert 1 in x.shape
    return x * jax.random.uniform(key)


@pytest.mark.parametrize(("in_axes", "out_axes"), [(0, 0), (1, 1), (-1, -1), (-2, -2), ((0,), 0)])
def test_examples_along_any_axis(in_axes: Any, out_axes: int) -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    found = examples.over_examples(scaled, in_axes, out_axes)(KEY, x)
    np.testing.assert_allclose(found, x * jax.random.uniform(KEY))


@pytest.mark.parametrize("out_axes", [2, -3])
def test_an_axis_that_outputs_do_not_have(out_axes: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \(1, 4\) has no .* at out_axes={out_axes}"):
        examples.over_examples(scaled, 0, out_axes)(KEY, X)


def test_the_axes_of_inputs() -> None:
    """Those of `in_axes` for arrays with axes, and the first of every keyword argument."""
    args, kwargs = (X, {"a": X, "b": 3.0}, jnp.float32(1)), {"mask": X, "on": True}
    assert examples.leaf_axes(1, args, kwargs) == [1, 1, None, None, 0, None]
    assert examples.leaf_axes((1, None, 0), args, kwargs) == [1, None, None, None, 0, None]
    for in_axes in ((1,), (0, 0, 0, 0)):
        with pytest.raises(ValueError, match=f"names {len(in_axes)} inputs, .* has 3 behind"):
            examples.leaf_axes(in_axes, args, kwargs)
    with pytest.raises(ValueError, match=r"^mine needs an input with a batch axis"):
        examples.over_examples(scaled, 0, 0, "mine")(KEY, 3.0)
    with pytest.raises(ValueError, match=r"^shared_mask=True needs an input with a batch axis"):
        examples.over_examples(scaled, 0, 0)(KEY, 3.0)
    for shared in (np.bool_(True), False):
        examples.check_axes(shared, (0, None), 0)


# -- layouts and rates


def test_a_layout_must_not_divide_the_batch_of_one_example() -> None:
    def check(spec: Any, axis: int) -> None:
        Overrides.checked(None, None, spec).check_one_example(axis)

    for spec, axis in (
        (PartitionSpec("data"), 0),
        (PartitionSpec(None, "data"), 1),
        ({"a": PartitionSpec(), "b": PartitionSpec("data")}, 0),
    ):
        with pytest.raises(
            ValueError, match=f"divides axis {axis}, the batch, but with shared_mas"
        ):
            check(spec, axis)
    for spec, axis in (
        (None, 0),
        (PartitionSpec("data"), 1),
        (PartitionSpec("data"), -1),
        (PartitionSpec(None, "data"), 0),
    ):
        check(spec, axis)


def test_overrides_are_the_same_if_they_say_the_same() -> None:
    def token(**options: Any) -> Any:
        return Overrides.checked(**({"rate": None, "rates": None, "spec": None} | options)).token()

    given = {"rate": 0.5, "rates": {"a": 0.1}, "spec": {"b": PartitionSpec("data")}}
    assert token(**given) == token(**given)
    different = [token(**(given | {name: None})) for name in given]
    different += [token(**given), token(**(given | {"rates": {"c": 0.1}}))]
    assert len({str(each) for each in different}) == 5

    def twice(rate: jax.Array) -> None:
        assert token(**(given | {"rate": rate})) != token(**(given | {"rate": rate}))

    jax.eval_shape(twice, jnp.float32(0.5))
    assert not Overrides.checked(None, None, None)
    assert Overrides.checked(None, {"a": 0.0}, None).may_silence
    assert not Overrides.checked(0.5, {"a": 0.1}, None).may_silence
    for name, value in given.items():
        said = Overrides.checked(**({"rate": None, "rates": None, "spec": None} | {name: value}))
        assert bool(said)
        assert [source[0] for source in said.sources()] == [name]


class OneRate:
    def __init__(self, rate: float, spec: Any = None) -> None:
        self.rate, self.spec = rate, spec

    def __call__(self, x: Any, *, rate: Any = None, spec: Any = None) -> Any:
        return x


class SeveralRates:
    input_rate, output_rate = 0.5, 0.0

    def __call__(self, x: Any, *, rates: Any = None) -> Any:
        return x


class OfFlax:
    dropout_rate = 0.5

    def __call__(self, x: Any) -> Any:
        return x


DATA, MODEL = PartitionSpec("data"), PartitionSpec("model")


def changed(module: Any, *given: Any, path: str = "a/b", own: Any = None, **kwargs: Any) -> Any:
    """The rates, the layout and the sources of a change."""
    found = Overrides.checked(*given).of(path, module, own, kwargs)
    assert bool(found) == bool(found.sources)
    return found.rates, found.spec, set(found.sources)


def test_which_rate_replaces_that_of_a_layer() -> None:
    nothing = {}, None, set()
    assert changed(OneRate(0.5), None, None, None) == nothing
    assert changed(OneRate(0.5), 0.1, None, None) == ({"rate": 0.1}, None, {("rate", None)})
    assert changed(OneRate(0.0), 0.1, None, None) == nothing  # a rate of 0 stays
    assert changed(OneRate(0.5), 0.1, None, None, rate=0.0) == nothing
    assert changed(OneRate(0.0), 0.1, None, None, rate=0.5)[0] == {"rate": 0.1}
    named = {"rate": 0.2}, None, {("rates", "a/*")}
    for rates in ({"a/*": 0.2}, {"*": 0.3, "a/*": 0.2}, {"a/*": 0.2, "b": 0.3}):
        assert changed(OneRate(0.0), 0.1, rates, None) == named
    assert changed(OneRate(0.5), None, {"*/rate": 0.2}, None)[0] == {"rate": 0.2}
    assert changed(OfFlax(), 0.1, None, None) == nothing  # it has no rate that is known
    assert changed(OfFlax(), 0.1, None, None, own="dropout_rate")[0] == {"dropout_rate": 0.1}
    several = SeveralRates()
    assert changed(several, 0.1, None, None)[0] == {"input_rate": 0.1}
    assert changed(several, None, {"*": 0.1}, None)[0] == {"input_rate": 0.1}
    assert changed(several, None, {"*/output_rate": 0.1}, None)[0] == {"output_rate": 0.1}
    assert changed(several, 0.1, None, None, rates={"input_rate": 0, "output_rate": 0.3})[0] == {
        "output_rate": 0.1
    }
    assert changed(several, 0.1, None, None, rates={"other": 0.3})[0] == {"input_rate": 0.1}


def test_which_layout_a_layer_gets() -> None:
    layer = OneRate(0.5)
    assert changed(layer, None, None, DATA) == ({}, DATA, {("spec", None)})
    assert changed(layer, None, None, {"a/*": DATA}) == ({}, DATA, {("spec", "a/*")})
    assert changed(layer, None, None, {"*": MODEL, "a/*": DATA})[1] == DATA
    assert changed(layer, None, None, {"b": DATA}) == ({}, None, set())
    for own, given in ((MODEL, {}), (None, {"spec": MODEL})):  # it has one already
        assert changed(OneRate(0.5, own), None, None, DATA, **given) == ({}, None, set())
    assert changed(OneRate(0.5, MODEL), None, None, {"*": DATA})[1] == DATA
    assert changed(SeveralRates(), None, None, DATA)[1] is None  # its call takes none
    assert changed(OfFlax(), None, None, DATA, own="dropout_rate")[1] == DATA


def test_a_change_as_arguments_of_a_call() -> None:
    def arguments(rates: Any, spec: Any = None, /, **kwargs: Any) -> Any:
        return Change(rates, spec, frozenset()).arguments(kwargs)

    assert arguments({}) == {}
    assert arguments({}, DATA) == {"spec": DATA}
    assert arguments({"rate": 0.1}, DATA, rate=0.5) == {"rate": 0.1, "spec": DATA}
    assert arguments({"dropout_rate": 0.1}) == {"rate": 0.1}
    assert arguments({"input_rate": 0.1}) == {"rates": {"input_rate": 0.1}}
    assert arguments({"input_rate": 0.1}, rates={"input_rate": 0.3, "output_rate": 0.2}) == {
        "rates": {"input_rate": 0.1, "output_rate": 0.2}
    }


# -- calls


class Told:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __call__(self, x: Any, train: bool = False, *, deterministic: Any = None) -> Any:
        return x


def test_flags_that_would_turn_dropout_on() -> None:
    def told(module: Any, *args: Any, **kwargs: Any) -> set[str]:
        return calls.told_otherwise(Told().__call__, module, args, kwargs)

    assert told(None, 1) == {"train=True", "deterministic=False"}
    assert told(None, 1, True, deterministic=False) == set()
    assert told(None, 1, train=True) == {"deterministic=False"}
    assert told(Told(deterministic=False, training=False), 1, True) == {"training=True"}
    args, kwargs = calls.told_to_drop(Told().__call__, (1,), {"deterministic": True})
    assert (args, kwargs) == ((1, True), {"deterministic": False})


def test_arguments_are_replaced_wherever_they_stand() -> None:
    def replaced(*args: Any, _with: Any, **kwargs: Any) -> Any:
        return calls.replaced(Told.__call__, args, kwargs, _with)

    assert replaced(1, False, _with={"train": True}) == ([1, True], {})
    assert replaced(1, train=False, _with={"train": True}) == ([1], {"train": True})
    assert replaced(1, _with={"train": True, "other": 3}) == ([1], {"train": True})
    assert replaced(1, _with={"train": None}) == ([1], {})
    assert replaced(1, False, 7, _with={"deterministic": True}) == (
        [1, False, 7],
        {"deterministic": True},
    )
    assert calls.settled(Told(train=False), {"train": True, "deterministic": False}) == (
        {"train": True},
        {"train": None, "deterministic": False},
    )
    assert calls.takes(Told.__call__, {"train", "other"})
    assert not calls.takes(Told.__call__, {"other"})


def test_names_of_collections() -> None:
    assert calls.names("mutable", "cache") == ("cache",)
    assert calls.names("mutable", ["a", "b"]) == ("a", "b")
    for wrong in (3, [1], {"a": 1}):
        with pytest.raises(TypeError, match="mutable must be names of collections"):
            calls.names("mutable", wrong)


# -- what draws


def test_what_depends_on_the_input() -> None:
    def counted(fn: Any) -> tuple[bool, int, int]:
        return tuple(dependence(fn, KEY))

    draw = jax.random.uniform
    other = jax.random.key(1)
    assert counted(lambda key: draw(key, (3,))) == (True, 1, 0)
    assert counted(lambda key: draw(other, (3,))) == (False, 0, 1)
    assert counted(lambda key: (draw(other), draw(key), draw(key), "text")[:3]) == (True, 2, 1)
    assert counted(lambda key: draw(key) * 0 + X) == (True, 1, 0)
    assert counted(lambda key: (draw(key), X)[1]) == (False, 1, 0)
    loop = lambda key: jax.lax.scan(lambda c, k: (c + draw(k), None), 0.0, key[None])[0]  # noqa: E731
    assert counted(jax.jit(loop)) == (True, 1, 0)


def test_what_is_a_key() -> None:
    legacy = jax.random.PRNGKey(0)
    for key in (KEY, legacy, np.asarray(legacy), jax.random.split(legacy)):
        assert is_key(key)
    for other in (X, legacy[:1], legacy.astype(jnp.int32), np.zeros(3, np.uint32), "key", 3):
        assert not is_key(other)
    assert paths_of_keys({"a": {"key": KEY}, "b": [X, legacy]}) == ["a/key", "b/1"]
    assert [is_array(x) for x in (X, np.ones(2), np.float32(1), 1.0, None)] == [True] * 3 + [
        False
    ] * 2
