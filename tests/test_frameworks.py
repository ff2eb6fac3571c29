"""The stand-ins of docs/frameworks.md: what changes by the lines that the page changes, and what
does not. The code blocks of the page are what is tested here.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import audit
from scripts import pages
from tests.compilation import quick

pytestmark = pytest.mark.usefixtures("relaxed")

X = np.random.default_rng(0).normal(size=(8, 6, 32)).astype(np.float32)
RAW = jax.random.PRNGKey(7)  # the kind of key that all of these frameworks begin with
KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)
STEP = jax.ShapeDtypeStruct((), jnp.int32)


section = functools.partial(pages.section, "frameworks.md")


def sites_of(fn: Any, *args: Any, **options: Any) -> list[audit.Site]:
    """The places at which a step drops something. Nothing but shared masks may be reported."""
    report = audit.check(fn, *args, training=True, **options)
    assert {each.id for each in report.findings} <= {"JD302"}, report
    return report.sites


def assert_close(found: Any, expected: Any) -> None:
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5)
    jax.tree.map(close, found, expected)


def on_eight_devices(x: Any) -> jax.Array:
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", None, "tensor")))


def parameters(model: Any, keys: Any) -> Any:
    """Numbers for a Linen model's parameters, without a program that draws them."""
    draw = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: draw.normal(scale=0.2, size=leaf.shape).astype(leaf.dtype),
        jax.eval_shape(model.init, keys, X),
    )


# -- big_vision


def test_big_vision_keeps_its_masks_with_its_key_and_is_the_same_on_any_mesh_with_ours() -> None:
    page = section("big_vision")
    params = parameters(page["vit"], KEY)
    before, after = page["vit_before"], page["vit_after"]
    replaced = jaxdrop.linen.replace_dropout()(before)

    @quick
    def losses(number: Any) -> list[jax.Array]:
        return [fn(params, RAW, number, X)[0] for fn in (before, replaced, after)]

    theirs, same, here = losses(3)
    assert_close(same, theirs)
    assert abs(losses(4)[2] - here) > 1e-3
    divided = on_eight_devices(X)
    assert_close(quick(lambda x: after(params, RAW, 3, x)[0])(divided), here)
    sites = sites_of(after, params, KEY, STEP, X, step="step")
    assert [(site.generator, site.repeats) for site in sites] == [("jaxdrop", 2)] * 3


# -- T5X


def test_t5_keeps_its_masks_with_its_key_and_is_the_same_on_any_mesh_with_ours() -> None:
    page = section("T5X and flaxformer")
    layer, blocks = page["t5"], page["t5_blocks"]
    params = parameters(layer, {"params": KEY, "dropout": KEY})

    @quick
    def outputs(number: Any) -> list[Any]:
        theirs = layer.apply(params, X, rngs={"dropout": RAW})
        with jaxdrop.linen.replace_dropout() as report:
            ours = blocks.apply(params, X, rngs={"dropout": RAW})
        assert [row.layer for row in report.replaced] == ["Dropout"] * 3
        return [theirs, ours, page["t5_after"](params, RAW, number, X)[0]]

    theirs, ours, here = outputs(3)
    assert_close(ours, theirs)
    assert abs(outputs(4)[2] - here) > 1e-3
    divided = on_eight_devices(X)
    assert_close(quick(lambda x: page["t5_after"](params, RAW, 3, x)[0])(divided), here)
    sites = sites_of(page["t5_after"], params, KEY, STEP, X, step="step")
    assert [site.generator for site in sites] == ["jaxdrop"] * 4
    assert sites[0].variant == "dot_product_attention"


def test_t5_stores_no_attention_weights() -> None:
    page = section("T5X and flaxformer")
    x = jax.ShapeDtypeStruct((1, 1024, 8), jnp.float32)
    params = jax.eval_shape(page["t5"].init, {"params": KEY, "dropout": KEY}, x)
    temporaries = {
        name: quick(page[name])
        .lower(params, KEY, STEP, x)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for name in ("t5_before", "t5_after")
    }
    one_matrix = 4 * 4 * 1024**2  # of all heads, in float32
    assert temporaries["t5_before"] > 2 * one_matrix
    assert temporaries["t5_after"] < one_matrix


# -- MaxText


SEGMENTS = np.repeat([[0, 1]], 8, 0).repeat(3, 1)


def state_of(model: nnx.Module, step: int = 0) -> Any:
    number = nnx.Variable(jnp.asarray(step, jnp.int32))
    return nnx.split(nnx.Dict({"model": model, "step": number}))


def test_maxtext_layers_keep_their_masks_with_their_streams() -> None:
    page = section("MaxText")

    def twice(make: Any) -> list[Any]:
        """The losses of two steps: streams of keys go on counting."""
        graph, state = state_of(make())
        losses = []
        step = quick(lambda state: page["maxtext_before"](graph, state, X, SEGMENTS)[::2])
        for _ in range(2):
            loss, state = step(state)
            losses.append(loss)
        return losses

    def theirs() -> Any:
        return page["Decoder"](32, page["create_rngs"](0))

    before = twice(theirs)
    assert_close(twice(lambda: jaxdrop.nnx.replace_dropout(theirs()).model), before)
    assert abs(before[0] - before[1]) > 1e-3
    found = audit.check(lambda model: model(X, SEGMENTS), theirs(), training=True).findings
    assert ("JD101", "layers/self_attention") in {(each.id, each.where) for each in found}


def test_maxtext_masks_follow_from_the_step() -> None:
    page = section("MaxText")
    graph, start = state_of(page["create_model"](32, 0))
    step = quick(lambda state, x: page["maxtext_after"](graph, state, x, SEGMENTS)[::2])
    first, state = step(start, X)
    second, _ = step(state, X)
    assert abs(first - second) > 1e-3
    # Restored without its streams, as by another program, at the second step, on a mesh.
    other = nnx.merge(graph, start)
    nnx.reseed(other, policy="match_shape", dropout=jaxdrop.key(99))
    other["step"][...] = jnp.asarray(1, jnp.int32)
    assert_close(step(nnx.state(other), on_eight_devices(X))[0], second)

    def run(state: Any) -> Any:
        return page["maxtext_after"](graph, state, X, SEGMENTS)[0]

    sites = sites_of(run, start, step="state['step']")
    assert [(site.generator, site.repeats) for site in sites] == [
        ("jaxdrop", 1),
        ("jaxdrop", 2),
        ("jaxdrop", 2),
    ]


# -- levanter


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Haliax, where it is installed
def test_levanter_keeps_its_masks_with_its_key_and_its_key_with_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eqx = pytest.importorskip("equinox")
    if not importlib.util.find_spec("haliax"):
        from tests import named_arrays

        named_arrays.install(monkeypatch)
    page = section("levanter")
    hax, theirs = page["hax"], page["hnn"].Dropout
    x = hax.named(X, ("batch", "position", "embed"))
    scale = hax.named(np.linspace(1, 2, 32, dtype=np.float32), "embed")
    models = [
        page["Gpt2Block"](scale, theirs(0.5, broadcast_axes=shared))
        for shared in (None, hax.Axis("position", 6))
    ]
    before, after = page["levanter_before"], page["levanter_after"]
    new = page["replaced"](models)
    assert all(type(model.resid_dropout) is page["Dropout"] for model in new)

    @quick
    def run(step: Any) -> Any:
        return [
            jax.tree.leaves(eqx.filter(fn(model, RAW, step, x), eqx.is_array))
            for fn, each in ((before, models), (before, new), (after, new))
            for model in each
        ]

    once, again = run(3), run(4)
    assert_close(once[2:4], once[:2])
    assert_close(again[:4], once[:4])  # their key is the one that was saved, whatever the step
    for here, later in zip(once[4:], again[4:], strict=True):
        assert abs(here[0] - later[0]) > 1e-3
        np.testing.assert_array_equal(here[-1], RAW)
    np.testing.assert_array_equal(new[0].resid_dropout(x, inference=True).array, X)
    sites = sites_of(lambda *args: after(*args)[0], new[0], KEY, STEP, x, step=2)
    assert [site.generator for site in sites] == ["jaxdrop"] * 2
