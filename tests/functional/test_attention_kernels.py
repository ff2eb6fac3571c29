"""The GPU kernels of attention, in Pallas' interpreter, against the blocks of XLA: the same masks
and values.
"""

from __future__ import annotations

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop.functional.attention import (
    _block,
    _gpu,
    _problem,
    _sight,
    _triton,
    _triton_kernels,
)
from jaxdrop.random import _drawing
from tests import catalogue
from tests.compilation import quick
from tests.functional import lowered

RATE = 0.3
_TILE = _triton.Tile(16, 16, 4, 2)


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels with small blocks, so that lengths of tens have many of them."""
    monkeypatch.setattr(_gpu, "INTERPRET", True)
    monkeypatch.setattr(
        _triton,
        "TILES",
        {16: _triton.Tiles(_TILE, _TILE._replace(queries=8), _TILE._replace(keys=8))},
    )
    monkeypatch.setattr(_triton, "PADDED", 16)


def _inputs(queries: int = 37, keys: int = 37, heads: int = 4, groups: int = 4) -> list[jax.Array]:
    """Queries, keys, values and a cotangent."""
    shapes = [
        (2, queries, heads, 12),
        (2, keys, groups, 12),
        (2, keys, groups, 12),
        (2, queries, heads, 12),
    ]
    return [
        jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate(shapes)
    ]


def _both(
    key: jax.Array, arrays: list[jax.Array], rate: Any, pulled: bool, options: dict[str, Any]
) -> None:
    """The output by the kernels is that by the blocks, and gradients if they are pulled back."""
    found = []
    for implementation in ("pallas", "xla"):

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, implementation: Any = implementation
        ) -> jax.Array:
            return jaxdrop.dot_product_attention(
                key, q, k, v, rate, implementation=implementation, **options
            )

        @quick
        def run(
            q: jax.Array, k: jax.Array, v: jax.Array, cotangent: jax.Array, attend: Any = attend
        ) -> Any:
            if not pulled:
                return (attend(q, k, v),)
            y, pull = jax.vjp(attend, q, k, v)
            return y, *pull(cotangent)

        found.append(run(*arrays))
    for ours, blocks in zip(*found, strict=True):
        ours, blocks = np.asarray(ours, np.float32), np.asarray(blocks, np.float32)
        np.testing.assert_allclose(ours, blocks, rtol=0, atol=2**-6 * np.abs(blocks).max())


_SAMPLE = jaxdrop.mc.keys(catalogue.KEY, 5)[2]


_RANDOM = np.random.default_rng(0)
_BIAS = _RANDOM.standard_normal((2, 4, 37, 37), np.float32)
_SEEN = _RANDOM.random((2, 4, 37, 37)) < 0.5
_SEEN[0, 0, 3] = False  # a query that sees no key
_SEEN[:, :, 16:32, :16] = True
_LENGTHS = {
    "query_seq_lengths": np.array([30, 37], np.int32),
    "key_value_seq_lengths": np.array([0, 33], np.int32),
}
_SEGMENTS = np.array([[0] * 3 + [1] * 20 + [2] * 14, [0] * 16 + [3] * 16 + [7] * 5], np.int32)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("key", "rate", "sizes", "pulled", "options"),
    [
        (
            catalogue.KEY,
            RATE,
            {"queries": 9, "keys": 50, "groups": 2},
            True,
            {"local_window_size": (7, 3), "query_offset": 30},
        ),
        (
            _SAMPLE,
            jnp.float32(RATE),
            {"queries": 18},
            True,
            {"broadcast_dims": (0, 1), "is_causal": True},
        ),
        (
            catalogue.KEYS["threefry"],
            RATE,
            {"groups": 2},
            False,
            {"is_causal": True, "scale": 30.0},
        ),
        (catalogue.KEY, RATE, {"groups": 2}, True, {"bias": _BIAS, "mask": _SEEN[:, :1]}),
        (
            catalogue.KEY,
            RATE,
            {"groups": 2},
            True,
            {"mask": _SEEN[:1], "bias": _BIAS[:1, :, :1], **_LENGTHS, "is_causal": True},
        ),
        (
            catalogue.KEY,
            RATE,
            {"queries": 20},
            True,
            {
                "segment_ids": (_SEGMENTS[:, 5:25], _SEGMENTS),
                "query_offset": np.array([5, 9], np.int32),
                "local_window_size": (9, 2),
            },
        ),
    ],
    ids=[
        "groups, window and offset",
        "causal, a sample, shared, a known array as rate",
        "threefry, large scores",
        "bias of each example, mask of all heads",
        "lengths, a mask of each head, a bias of all examples and queries",
        "segments, offsets and a window",
    ],
)
def test_the_blocks_of_xla(
    key: jax.Array, rate: Any, sizes: dict[str, int], pulled: bool, options: dict[str, Any]
) -> None:
    _both(key, _inputs(**sizes), rate, pulled, options)


@pytest.mark.parametrize("turned", [False, True])
def test_stretches_hold_what_is_seen(turned: bool) -> None:
    """From the first block to the last that is seen, and from the first in which every query sees
    every key to the next in which one does not.
    """
    padded, block = (48, 48), (8, 16)
    lead = (2, 4, 1)

    def pad(x: np.ndarray) -> np.ndarray:
        width = [(0, 0)] * (x.ndim - 2) + [(0, 11 if n == 37 else 0) for n in x.shape[-2:]]
        return np.pad(x, width)

    q = jax.ShapeDtypeStruct((*lead, padded[0], 12), jnp.bfloat16)
    offset = np.array([5, -3], np.int32).reshape(2, 1, 1, 1, 1)
    segments = tuple(
        jnp.asarray(pad(x))
        for x in (_SEGMENTS[:, None, None, :, None], _SEGMENTS[:, None, None, None])
    )
    mask = pad(_SEEN[:, :, None])
    for before, after, allowed, some in [
        (None, 0, (), None),
        (5, None, (mask,), None),
        (9, 3, (), segments),
        (None, None, (mask, pad(np.ones((1, 4, 1, 37, 1), bool))), segments),
    ]:
        plan = _block.Plan((29, 37), (29, 37), 1.0, before, after, (), None, None)
        operands = _block.Operands(
            None, None, None, q, q, q, None, tuple(map(jnp.asarray, allowed)), some, None
        )
        found = np.asarray(
            _sight.stretches(plan, operands, jnp.asarray(offset), block, of_keys=turned)
        )
        number, column = np.arange(48)[:, None], np.arange(48)
        limits = [number < 29, column < 37, *allowed]
        if before is not None:
            limits.append(column >= number + offset - before)
        if after is not None:
            limits.append(column <= number + offset + after)

        def tiles(x: np.ndarray) -> np.ndarray:
            return np.broadcast_to(x, (*lead, 48, 48)).reshape(*lead, 6, 8, 3, 16)

        # Blocks are seen whose limits each let a weight through, and whose segments' ranges meet.
        inside = (-3, -1)
        seen = np.logical_and.reduce([tiles(x).any(inside) for x in limits])
        whole = np.logical_and.reduce([tiles(x).all(inside) for x in limits])
        if some:
            of_queries, of_keys = (tiles(np.asarray(x)) for x in some)
            meet = of_keys.min(inside) <= of_queries.max(inside)
            seen &= meet & (of_queries.min(inside) <= of_keys.max(inside))
            whole &= (of_queries == of_keys).all(inside)
        if turned:
            seen, whole = seen.swapaxes(-1, -2), whole.swapaxes(-1, -2)
        found = np.broadcast_to(found, (*lead, *found.shape[-2:]))
        at = np.arange(seen.shape[-1])
        end = np.where(seen, at + 1, 0).max(-1)

        def first(blocks: np.ndarray, end: np.ndarray = end, at: np.ndarray = at) -> np.ndarray:
            return np.minimum(np.where(blocks, at, 99).min(-1), end)

        whole_from = first(whole)
        whole_to = first(~whole & (at >= whole_from[..., None]))
        expected = np.stack([first(seen), whole_from, whole_to, end], -1)
        np.testing.assert_array_equal(found, expected)


def test_blocks_that_are_seen_whole_need_no_mask_of_scores() -> None:
    """Each block of a stretch is computed once."""

    def block(j: jax.Array, counts: jax.Array, *, partly: bool) -> jax.Array:
        return counts.at[int(partly), j].add(1)

    stretch = jnp.array([1, 3, 6, 8])
    counts = _triton_kernels._over(stretch, block, jnp.zeros((2, 9), int))
    expected = [[0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.usefixtures("relaxed")
def test_rate_1_and_no_dropout() -> None:
    q, k, v, _ = _inputs(16, 16)

    @quick
    def attend(key: jax.Array | None, rate: Any) -> jax.Array:
        return jaxdrop.dot_product_attention(
            key, q, k, v, rate, implementation="pallas", deterministic=key is None
        )

    assert not attend(catalogue.KEY, 1.0).any()
    plain = jax.nn.dot_product_attention(q, k, v)
    chex.assert_trees_all_close(attend(None, 0.5), plain, atol=2**-6)


def test_transformations() -> None:
    """Batches of keys and of gradients, forward mode, and second derivatives, in float32, which the
    tests may have.
    """
    q = jax.random.normal(jax.random.key(0), (1, 20, 2, 12))
    keys = jax.random.split(catalogue.KEY, 2)

    def results(implementation: Any) -> Any:
        def loss(q: jax.Array, key: jax.Array = keys[0]) -> jax.Array:
            y = jaxdrop.dot_product_attention(
                key, q, q, q, RATE, is_causal=True, implementation=implementation
            )
            return (y**2).sum()

        grad = jax.grad(loss)
        return {
            "gradients of many keys": jax.vmap(lambda key: grad(q, key))(keys),
            "second derivative": jax.jvp(grad, (q,), (q,)),
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gpu, "refusal", lambda plan, operands: None)
        found = quick(results, static_argnums=0)("pallas")
    expected = quick(results, static_argnums=0)("xla")
    for name, right in expected.items():
        chex.assert_trees_all_close(
            found[name], right, rtol=1e-3, atol=1e-4 * float(jnp.abs(jnp.asarray(right[0])).max())
        )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("keys", [2**15, 2**15 + 8, 2**15 + 16])
def test_more_than_2_32_weights(keys: int) -> None:
    """Positions of two words, where no array of all weights could be made."""
    heads = 5
    words, draw = _drawing.words_and_draw(catalogue.KEY)
    last = jaxdrop.masks.last_kept(np.full(1, 2**22, np.uint32))
    rows, columns = (
        jnp.arange(16, dtype=jnp.uint32)[:, None],
        jnp.arange(keys - 16, keys, dtype=jnp.uint32)[None],
    )
    problem = _problem.Problem(
        (keys, keys), 1, 1.0, None, None, heads * keys**2, draw, None, _triton.TILES[16], True
    )
    for head in (0, 3, heads - 1):  # one that ends behind 2**32, and one that begins there
        high, low = (np.full(1, word, np.uint32) for word in divmod(head * keys**2, 2**32))
        mask = _problem.Mask.loaded(_problem.Mask(words, last, low, high))
        first, near = columns[0, 0], columns - columns[0, 0]
        found = _problem.bits(problem, mask, rows, first, near)
        bits = jaxdrop.random.bits_at(
            catalogue.KEY, (jnp.full((1, 1), head), rows, columns), (heads, keys, keys)
        )
        np.testing.assert_array_equal(found, bits)


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = _inputs(24, 24)

    def attend(x: jax.Array = q, **options: Any) -> jax.Array:
        return jaxdrop.dot_product_attention(
            catalogue.KEY, x, k.astype(x.dtype), v.astype(x.dtype), RATE, **options
        )

    for options, word in [
        ({"x": q.astype(jnp.float32)}, "float32"),
        ({"precision": "highest"}, "precision"),
        ({"broadcast_dims": (-1,)}, "shared"),
        ({"broadcast_dims": (-2,)}, "shared"),
    ]:
        with pytest.raises(ValueError, match=f"implementation='pallas'.*{word}"):
            attend(implementation="pallas", **options)
    (length,) = jax.export.symbolic_shape("length")
    for shapes, word in [
        (((24, 24), (24, 24)), "up to 16, not of 24 and 24"),
        (((24, 12), (24, 9)), "of one depth .* not of 12 and 9"),
        (((length, 12), (length, 12)), "symbolic"),
    ]:
        x, y = (jax.ShapeDtypeStruct((2, at, 2, depth), q.dtype) for at, depth in shapes)
        with pytest.raises(ValueError, match=f"implementation='pallas'.*{word}"):
            jax.eval_shape(
                lambda x, y: jaxdrop.dot_product_attention(
                    catalogue.KEY, x, x, y, RATE, implementation="pallas"
                ),
                x,
                y,
            )
    with pytest.raises(
        ValueError, match=r"implementation must be one of 'xla', 'pallas', got 'triton'"
    ):
        attend(implementation="triton")
    monkeypatch.setattr(_gpu, "INTERPRET", False)
    with pytest.raises(ValueError, match="the backend is cpu, not a GPU"):
        attend(implementation="pallas")


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="this JAX wants to be told of a GPU that is there"
)
@pytest.mark.parametrize("depth", [60, 128])
def test_programs_for_a_gpu(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made here, with the instructions of the hardware."""
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mask = np.ones((1, 1, 600, 200), bool)
    call = "__gpu$xla.gpu.triton"
    with jax.enable_x64(depth == 128):
        program = lowered.attention("cuda", call, catalogue.KEY, RATE, depth, mask=mask)
    for instruction in ("ex2.approx.ftz.f32", "fma.rn.f32", "setp.ls.u32"):
        assert instruction in program
    # Blocks of a mask take room, and so there are fewer stages.
    found = re.findall(r"num_stages = (\d+) : i32, num_warps = (\d+) : i32", program)
    assert sorted(found) == sorted(
        ("2", str(tile.warps)) for tile in _triton.TILES[-(-depth // 64) * 64]
    )
    for tiles in _triton.TILES.values():
        for tile in tiles:
            assert not _triton.PADDED % tile.queries
            assert not _triton.PADDED % tile.keys
            assert not tile.warps & (tile.warps - 1)


def test_a_program_that_runs_elsewhere_computes_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels were chosen for a GPU, and no GPU runs it: gradients too."""
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    _both(catalogue.KEY, _inputs(heads=2, groups=1), RATE, True, {"is_causal": True})


def test_a_bias_that_needs_a_gradient_is_differentiated_by_blocks() -> None:
    q, k, v, _ = _inputs(24, 24)
    bias = jnp.zeros((2, 4, 24, 24))

    def loss(q: jax.Array, bias: jax.Array) -> jax.Array:
        y = jaxdrop.dot_product_attention(
            catalogue.KEY, q, k, v, RATE, bias=bias, implementation="pallas"
        )
        return y.astype(jnp.float32).sum()

    for argument, kernels in ((0, 3), (1, 1)):
        program = str(jax.make_jaxpr(jax.grad(loss, argument))(q, bias))
        assert program.count("pallas_call[") == kernels


@pytest.mark.parametrize("rate", [RATE, 0.0])
def test_when_the_kernels_are_the_default(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """On a single GPU with each option they take, except where lengths are short."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(_gpu, "_SHORT", 16)

    def are_default(length: int = 24, **options: Any) -> bool:
        q, k, v, _ = _inputs(length, length)

        def attend(q: jax.Array) -> jax.Array:
            return jaxdrop.dot_product_attention(catalogue.KEY, q, k, v, rate, **options)

        return "pallas_call" in str(jax.make_jaxpr(attend)(q))

    monkeypatch.setattr(jax, "device_count", lambda: 1)
    square = jnp.zeros((2, 4, 24, 24))
    for options in (
        {"local_window_size": 5},
        {"bias": square},
        {"bias": square[:1, :, :1]},
        {"mask": square == 0},
        {"query_seq_lengths": jnp.array([3, 24])},
        {"segment_ids": jnp.zeros((2, 24), jnp.int32)},
    ):
        assert are_default(**options), options
        assert not are_default(**options, implementation="xla"), options
    assert are_default(26, local_window_size=5)
    assert not are_default(12, local_window_size=5)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not are_default(
        25, local_window_size=5
    )  # not a length of before, for which the choice is cached
