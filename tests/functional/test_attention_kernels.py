"""The GPU kernels of attention, in Pallas' interpreter, against the blocks of XLA: the same masks
and values.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop.functional.attention import _gpu, _triton, _triton_kernels
from jaxdrop.random import _drawing
from tests import catalogue
from tests.compilation import quick

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
        (catalogue.KEYS["threefry"], RATE, {"groups": 2}, False, {"is_causal": True}),
    ],
    ids=[
        "groups, window and offset",
        "causal, a sample, shared, a known array as rate",
        "threefry",
    ],
)
def test_the_blocks_of_xla(
    key: jax.Array, rate: Any, sizes: dict[str, int], pulled: bool, options: dict[str, Any]
) -> None:
    _both(key, _inputs(**sizes), rate, pulled, options)


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


@pytest.mark.parametrize("keys", [2**15, 2**15 + 8])
def test_more_than_2_32_weights(keys: int) -> None:
    """Positions of two words, where no array of all weights could be made."""
    heads = 5
    words, draw = _drawing.words_and_draw(catalogue.KEY)
    last = jaxdrop.masks.last_kept(np.full(1, 2**22, np.uint32))
    rows, columns = (
        jnp.arange(16, dtype=jnp.uint32)[:, None],
        jnp.arange(keys - 16, keys, dtype=jnp.uint32)[None],
    )
    problem = _triton.Problem(
        (keys, keys), 1, 1.0, None, None, heads * keys**2, draw, _triton.TILES[16], True
    )
    for head in (0, 3, heads - 1):  # one that ends behind 2**32, and one that begins there
        high, low = (np.full(1, word, np.uint32) for word in divmod(head * keys**2, 2**32))
        kept = _triton_kernels._keep(problem, (words, last, low, high), rows, columns)
        bits = jaxdrop.random.bits_at(
            catalogue.KEY, (jnp.full((1, 1), head), rows, columns), (heads, keys, keys)
        )
        np.testing.assert_array_equal(kept, bits >> 9 < 2**22)


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = _inputs(24, 24)

    def attend(x: jax.Array = q, **options: Any) -> jax.Array:
        return jaxdrop.dot_product_attention(
            catalogue.KEY, x, k.astype(x.dtype), v.astype(x.dtype), RATE, **options
        )

    for options, word in [
        ({"x": q.astype(jnp.float32)}, "float32"),
        ({"mask": jnp.ones((24, 24), bool)}, "mask"),
        ({"precision": "highest"}, "precision"),
        ({"broadcast_dims": (-1,)}, "shared"),
    ]:
        with pytest.raises(ValueError, match=f"implementation='pallas'.*{word}"):
            attend(implementation="pallas", **options)
    with pytest.raises(
        ValueError, match=r"implementation must be one of 'xla', 'pallas', got 'triton'"
    ):
        attend(implementation="triton")
    monkeypatch.setattr(_gpu, "INTERPRET", False)
    with pytest.raises(ValueError, match="the backend is cpu, not a GPU"):
        attend(implementation="pallas")
