"""The TPU kernels of attention, in Pallas' interpreter, against the blocks of XLA: the same masks
and values.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

import jaxdrop
from jaxdrop.functional.attention import _mosaic, _mosaic_kernels, _target
from tests import catalogue
from tests.compilation import quick
from tests.functional import lowered

RATE = 0.3
_LENGTH = 20


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels with small blocks, so that a length of 20 has several of them."""
    monkeypatch.setattr(_target, "platform", lambda: "tpu")
    monkeypatch.setattr(_mosaic, "INTERPRET", pltpu.InterpretParams())
    monkeypatch.setattr(_mosaic, "BLOCK", (16, 8))
    monkeypatch.setattr(_mosaic, "_UNIT", 8)


_RANDOM = np.random.default_rng(0)
_SEEN = _RANDOM.random((2, 1, _LENGTH, _LENGTH)) < 0.5
_SEEN[0, 0, 3] = False  # a query that sees no key
_SEEN[:, :, :16, 8:16] = True
_LENGTHS = {
    "query_seq_lengths": np.array([13, 20], np.int32),
    "key_value_seq_lengths": np.array([0, 18], np.int32),
}
_SEGMENTS = np.array([[0] * 3 + [1] * 9 + [2] * 8, [0] * 8 + [3] * 12], np.int32)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("key", "rate", "queries", "options"),
    [
        (
            catalogue.KEYS["threefry"],
            RATE,
            _LENGTH,
            {"bias": _RANDOM.standard_normal((2, 2, _LENGTH, _LENGTH), np.float32), "mask": _SEEN},
        ),
        (
            jaxdrop.mc.keys(catalogue.KEY, 5)[2],
            RATE,
            _LENGTH,
            {
                "bias": _RANDOM.standard_normal((1, 2, 1, _LENGTH), np.float32),
                "broadcast_dims": (0,),
                "is_causal": True,
                **_LENGTHS,
            },
        ),
        (
            catalogue.KEY,
            jnp.float32(RATE),
            12,
            {
                "segment_ids": (_SEGMENTS[:, 5:17], _SEGMENTS),
                "query_offset": np.array([5, 8], np.int32),
                "local_window_size": (9, 2),
            },
        ),
    ],
    ids=[
        "threefry, a bias of each example, a mask of all heads",
        "a sample, causal, lengths, a bias of all examples and queries, shared",
        "segments, offsets and a window, a known array as rate",
    ],
)
def test_the_blocks_of_xla(
    key: jax.Array, rate: Any, queries: int, options: dict[str, Any]
) -> None:
    q, k, v, cotangent = (
        np.asarray(jax.random.normal(jax.random.key(i), (2, *shape, 12)))
        for i, shape in enumerate(((queries, 2), (_LENGTH, 1), (_LENGTH, 1), (queries, 2)))
    )
    found = []
    for implementation in ("pallas", "xla"):

        @quick
        def run(
            q: jax.Array, k: jax.Array, v: jax.Array, implementation: Any = implementation
        ) -> Any:
            y, pull = jax.vjp(
                lambda *arrays: jaxdrop.dot_product_attention(
                    key, *arrays, rate, implementation=implementation, **options
                ),
                q,
                k,
                v,
            )
            return y, *pull(cotangent)

        found.append(run(q, k, v))
    for ours, blocks in zip(*found, strict=True):
        np.testing.assert_allclose(
            ours, blocks, rtol=0, atol=2e-6 * float(np.abs(np.asarray(blocks)).max())
        )


def test_products_have_the_precision_that_is_given_and_are_summed_in_float32() -> None:
    lowered.check_products(catalogue.KEY, "pallas")


@pytest.mark.parametrize("of_keys", [False, True])
def test_blocks_that_are_seen_whole_need_no_mask_of_scores(of_keys: bool) -> None:
    """Each block of a stretch is computed once."""
    scalars = _mosaic_kernels.Scalars(np.array([*[0] * 12, 1, 3, 6, 8]), None, None)
    found = []
    with jax.disable_jit():
        for number in range(9):
            i, j = (number, 1) if of_keys else (1, number)
            block = _mosaic_kernels.Block.of(scalars, 2, 1, i, j, of_keys=of_keys)
            block.run(lambda *, partly, number=number: found.append((number, partly)))
    assert found == [(number, not 3 <= number < 6) for number in range(1, 8)]


@pytest.mark.parametrize("x64", [False, True])
def test_programs_for_a_tpu(x64: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made here, of blocks of the sizes that a TPU gets, without dropout."""
    monkeypatch.undo()
    monkeypatch.setattr(_target, "platform", lambda: "tpu")

    bias = jax.ShapeDtypeStruct((1, 2, 600, 1), jnp.float32)
    with jax.enable_x64(x64):
        lowered.attention("tpu", "tpu_custom_call", None, 0.0, 64, bias=bias, is_causal=True)


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(dtype: Any = jnp.float32, length: int = 16, **options: Any) -> Any:
        x = jax.ShapeDtypeStruct((2, length, 2, 8), dtype)
        return jax.eval_shape(
            lambda q: jaxdrop.dot_product_attention(catalogue.KEY, q, q, q, RATE, **options), x
        )

    for given, word in [
        ({"dtype": jnp.float16}, "float16"),
        ({"broadcast_dims": (-1,)}, "shared"),
        ({"length": 2**17}, "scalar memory"),
    ]:
        with pytest.raises(ValueError, match=f"implementation='pallas'.*{word}"):
            attend(implementation="pallas", **given)
    monkeypatch.setattr(_mosaic, "forward", None)
    attend()  # by default XLA's blocks
