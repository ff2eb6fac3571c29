"""The kernels of attention for Hopper GPUs, in Pallas' interpreter, against the blocks of XLA: the
same masks and values.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop.functional.attention import _gpu, _triton
from tests import catalogue
from tests.compilation import quick
from tests.functional import lowered

_hopper: Any = _gpu._loaded_for_hopper()
_hopper_parts: Any = None if _hopper is None else _hopper._hopper_parts
pytestmark = pytest.mark.skipif(
    _hopper is None, reason="this JAX has another Mosaic GPU dialect of Pallas"
)
_RATE = 0.3


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels with small blocks, so that lengths of tens have many of them."""
    tile = _hopper.Tile(16, 16, 2)
    monkeypatch.setattr(_gpu, "INTERPRET", True)
    monkeypatch.setattr(_gpu, "HOPPER", True)
    tiles = _hopper.Tiles(tile, tile._replace(queries=8), tile._replace(keys=8))
    monkeypatch.setattr(_hopper, "TILES", {64: tiles})
    monkeypatch.setattr(_hopper, "PADDED", 16)
    small = _triton.Tile(16, 16, 4, 2)
    monkeypatch.setattr(_triton, "TILES", {64: _triton.Tiles(small, small, small)})
    monkeypatch.setattr(_triton, "PADDED", 16)


def _inputs(
    queries: int, keys: int, heads: int = 1, examples: int = 1, dtype: Any = jnp.bfloat16
) -> list[jax.Array]:
    """Queries, keys, values and a cotangent. All heads share keys and values."""
    random = np.random.default_rng(0)
    shapes = [(examples, queries, heads, 60), *[(examples, keys, 1, 60)] * 2]
    return [
        jnp.asarray(random.standard_normal(shape, np.float32), dtype)
        for shape in [*shapes, shapes[0]]
    ]


def _results(
    implementation: Any, key: jax.Array | None, arrays: list[jax.Array], rate: Any, options: Any
) -> list[np.ndarray]:
    @quick
    def run(rate: Any, cotangent: jax.Array, *arrays: jax.Array) -> Any:
        y, pull = jax.vjp(
            lambda *arrays: jaxdrop.dot_product_attention(
                key,
                *arrays,
                rate,
                implementation=implementation,
                deterministic=key is None,
                **options,
            ),
            *arrays,
        )
        return y, *pull(cotangent)

    *arrays, cotangent = arrays
    return [np.asarray(x, np.float32) for x in run(rate, cotangent, *arrays)]


@pytest.mark.parametrize(
    ("key", "rate", "inputs", "options"),
    [
        (catalogue.KEY, _RATE, {"queries": 53, "keys": 53, "heads": 2}, {"is_causal": True}),
        (catalogue.KEY, jnp.float32(_RATE), {"queries": 20, "keys": 80, "dtype": jnp.float16}, {}),
        (
            catalogue.KEY,
            _RATE,
            {"queries": 30, "keys": 50, "examples": 2},
            {"local_window_size": (20, 3), "query_offset": np.array([0, 15], np.int32)},
        ),
        (None, 0.0, {"queries": 40, "keys": 40}, {"is_causal": True}),
    ],
    ids=[
        "causal, shared keys",
        "a traced rate, float16, blocks of keys that fill the rows of weights",
        "offsets and a window",
        "no dropout",
    ],
)
def test_the_blocks_of_xla(
    monkeypatch: pytest.MonkeyPatch, key: Any, rate: Any, inputs: Any, options: Any
) -> None:
    for kernel in ("forward", "of_queries", "of_keys"):
        monkeypatch.setattr(_triton, kernel, None)
    arrays = _inputs(**inputs)
    found, right = (
        _results(implementation, key, arrays, rate, options) for implementation in ("pallas", "xla")
    )
    for ours, blocks in zip(found, right, strict=True):
        np.testing.assert_allclose(ours, blocks, rtol=0, atol=2**-6 * np.abs(blocks).max())


@pytest.mark.usefixtures("relaxed")
def test_queries_that_see_no_key_and_rate_1() -> None:
    """Both give 0, and finite gradients."""
    run = functools.partial(_results, "pallas", catalogue.KEY, _inputs(37, 8))
    y, *gradients = run(_RATE, {"local_window_size": (2, 0)})
    assert not y[:, 10:].any()
    assert y[:, :10].any()
    assert all(np.isfinite(x).all() for x in gradients)
    assert not any(x.any() for x in run(1.0, {"is_causal": True}))


def test_blocks_that_are_seen_whole_need_no_mask_of_scores() -> None:
    """Each block of a stretch is computed once: those that need no mask come first. If nothing is
    limited, none does.
    """
    steps = _hopper_parts.Steps(*np.int32([1, 3, 6, 8]))
    tile, none = _hopper.Tile(0, 0, 2), (None,) * 4
    part = _hopper_parts.Part(None, tile, *none, -1, steps, None)

    def step(stage: jax.Array, start: jax.Array, found: jax.Array, *, partly: bool) -> jax.Array:
        new = jnp.stack([stage, start, jnp.int32(partly)])
        return jnp.concatenate([found[1:], new[None]])

    for limited in (True, False):
        found = part.walk(10, step, limited, jnp.full((7, 3), -1, jnp.int32))
        order = [3, 4, 5, 1, 2, 6, 7]
        expected = [(n % 2, 10 * block, limited and n > 2) for n, block in enumerate(order)]
        np.testing.assert_array_equal(found, expected)


def test_the_kernels_of_triton_take_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernels in (_hopper, _triton):
        monkeypatch.setattr(kernels, "forward", functools.partial(_refuse, kernels.__name__))
    mask = np.ones((1, 1, 24, 24), bool)
    for length, options, taker in [
        (24, {}, _hopper),
        (24, {"bias": np.ones((1, 1, 24, 24), np.float32)}, _triton),
        (24, {"mask": mask}, _triton),
        (24, {"segment_ids": np.zeros((1, 24), np.int32)}, _triton),
        (24, {"scale": -1.0}, _triton),
        (24, {"scale": 0.0}, _triton),
        (2**16, {}, _hopper),
        (2**16 + 16, {}, _triton),  # positions of two words
    ]:
        shape = jax.ShapeDtypeStruct((1, length, 1, 60), jnp.bfloat16)
        attend = functools.partial(jaxdrop.dot_product_attention, implementation="pallas")
        with pytest.raises(NotImplementedError, match=taker.__name__):
            jax.eval_shape(
                functools.partial(attend, catalogue.KEY, rate=_RATE, **options),
                *[shape] * 3,
            )


@pytest.mark.parametrize("depth", [60, 128])
def test_programs_for_a_gpu(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made here, up to the instructions that copy and multiply, of blocks that a GPU has
    room for.
    """
    monkeypatch.undo()
    monkeypatch.setattr(_gpu, "HOPPER", True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    here: Any = types.SimpleNamespace(compute_capability="9.0")
    monkeypatch.setattr(jax, "devices", lambda: [here])

    with jax.enable_x64(depth == 128):
        lowered.attention("cuda", "mosaic_gpu", catalogue.KEY, _RATE, depth, is_causal=True)
    for tiles in _hopper.TILES.values():
        assert not any(_hopper.PADDED % length for tile in tiles for length in tile[:2])
    for capability in ("10.0", "8.9", None):
        here.compute_capability = capability
        assert not _hopper.is_here()
    del here.compute_capability
    assert not _hopper.is_here()


def _refuse(name: str, *_: Any) -> Any:
    raise NotImplementedError(name)
