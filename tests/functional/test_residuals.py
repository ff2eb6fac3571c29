"""Dropout, residual sum and normalization in one, against their parts, Flax and PyTorch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from tests.catalogue import KEY, RATE
from tests.oracles import assert_close, require, torch_value_and_pull, value_and_pull

P = PartitionSpec
_RNG = np.random.default_rng(0)
X, RESIDUAL = (jnp.asarray(_RNG.normal(size=(4, 5, 8)), jnp.float32) for _ in range(2))
SCALE, BIAS = (jnp.asarray(_RNG.normal(size=8), jnp.float32) for _ in range(2))
ROWS = jnp.asarray([[0.0, 2.0, 1.0, 0.5, 3.0]], jnp.float32)
MASK = np.asarray(jaxdrop.dropout(KEY, jnp.ones_like(X), RATE))


def test_bias_dropout_add_against_pytorch() -> None:
    """The order of Megatron: bias, dropout, residual."""
    mask = require("torch").tensor(MASK)
    ours = value_and_pull(
        lambda x, bias, residual: jaxdrop.bias_dropout_add(KEY, x, bias, residual, RATE),
        X,
        BIAS,
        RESIDUAL,
    )
    assert_close(
        ours,
        torch_value_and_pull(
            lambda x, bias, residual: residual + (x + bias) * mask, X, BIAS, RESIDUAL
        ),
    )


def test_dropout_add_layer_norm_against_pytorch() -> None:
    """The order of flash-attn: row scale, dropout, residual, normalization; value and all
    gradients.
    """
    torch = require("torch")
    mask = torch.tensor(MASK)

    def ours(
        x: jax.Array, residual: jax.Array, scale: jax.Array, bias: jax.Array, rows: jax.Array
    ) -> jax.Array:
        y, z = jaxdrop.dropout_add_layer_norm(
            KEY, x, residual, scale, bias, RATE, row_scale=rows, prenorm=True
        )
        return y + 2 * z

    def theirs(x: Any, residual: Any, scale: Any, bias: Any, rows: Any) -> Any:
        z = x * rows[..., None] * mask + residual
        return torch.nn.functional.layer_norm(z, (8,), scale, bias) + 2 * z

    arrays = X, RESIDUAL, SCALE, BIAS, ROWS
    for mine, value in zip(
        value_and_pull(ours, *arrays), torch_value_and_pull(theirs, *arrays), strict=True
    ):
        np.testing.assert_allclose(mine, value, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("prenorm", [False, True])
def test_dropout_add_layer_norm_is_its_parts(prenorm: bool) -> None:
    z = jaxdrop.dropout(KEY, X, RATE) + RESIDUAL
    norm = nn.LayerNorm(epsilon=1e-5)
    with jax.numpy_rank_promotion("allow"):
        expected = norm.apply({"params": {"scale": SCALE, "bias": BIAS}}, z)
    result = jaxdrop.dropout_add_layer_norm(KEY, X, RESIDUAL, SCALE, BIAS, RATE, prenorm=prenorm)
    y = result[0] if prenorm else result
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    if prenorm:
        np.testing.assert_allclose(result[1], z, rtol=1e-6)


def test_without_optional_arrays() -> None:
    z = jaxdrop.dropout(KEY, X, RATE)
    y, kept = jaxdrop.dropout_add_layer_norm(KEY, X, None, None, None, RATE, prenorm=True)
    np.testing.assert_array_equal(kept, z)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    row = jaxdrop.dropout_add_layer_norm(None, X[0, 0], None, None, None, 0.0)
    np.testing.assert_allclose(row, (X[0, 0] - X[0, 0].mean()) / X[0, 0].std(), 1e-3, 1e-3)
    with pytest.raises(ValueError, match=r"x must have shape \(..., features\), got a scalar"):
        jaxdrop.dropout_add_layer_norm(None, X[0, 0, 0], None, None, None, 0.0)
    np.testing.assert_allclose(
        jaxdrop.bias_dropout_add(KEY, X, None, RESIDUAL, RATE), RESIDUAL + z, rtol=1e-6
    )


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": RATE, "deterministic": True}], ids=str)
def test_nothing_is_dropped(options: dict[str, Any]) -> None:
    np.testing.assert_allclose(
        jaxdrop.bias_dropout_add(None, X, BIAS, RESIDUAL, **options),
        X + BIAS[None, None] + RESIDUAL,
        1e-6,
    )
    _, z = jaxdrop.dropout_add_layer_norm(None, X, RESIDUAL, None, None, prenorm=True, **options)
    np.testing.assert_array_equal(z, X + RESIDUAL)


def test_short_floats_are_summed_in_float32() -> None:
    """A residual of float32 loses nothing to a branch of bfloat16, and the output has the dtype of
    the residual.
    """
    x = X.astype(jnp.bfloat16)
    y = jaxdrop.bias_dropout_add(KEY, x, BIAS.astype(jnp.bfloat16), RESIDUAL, RATE)
    wide = x.astype(jnp.float32) + BIAS.astype(jnp.bfloat16).astype(jnp.float32)[None, None]
    np.testing.assert_allclose(y, RESIDUAL + wide * MASK, rtol=1e-6)
    y, z = jaxdrop.dropout_add_layer_norm(KEY, x, RESIDUAL, SCALE, BIAS, RATE, prenorm=True)
    assert (y.dtype, z.dtype) == (jnp.bfloat16, jnp.float32)
    for residual in (None, x):
        found = jaxdrop.dropout_add_layer_norm(KEY, x, residual, None, None, RATE, prenorm=True)
        assert {each.dtype for each in found} == {x.dtype}


def test_modules_have_the_parameters_of_flax() -> None:
    ours, theirs = (
        jaxdrop.nnx.DropoutAddLayerNorm(8, RATE, rngs=nnx.Rngs(0)),
        nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
    )
    shapes = [
        jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
        for module in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    linen = jaxdrop.linen.DropoutAddLayerNorm(RATE, deterministic=True)
    assert jax.tree.map(jnp.shape, linen.init(KEY, X)) == jax.tree.map(
        jnp.shape, nn.LayerNorm().init(KEY, X)
    )


def test_modules_make_the_same_calls() -> None:
    rngs = nnx.Rngs(0, dropout=KEY)
    norm, add = (
        jaxdrop.nnx.DropoutAddLayerNorm(8, RATE, prenorm=True, rngs=rngs),
        jaxdrop.nnx.BiasDropoutAdd(8, RATE, rngs=rngs),
    )
    norm.scale[...], norm.bias[...], add.bias[...] = SCALE, BIAS, BIAS
    expected = jaxdrop.dropout_add_layer_norm(
        KEY, X, RESIDUAL, SCALE, BIAS, RATE, row_scale=ROWS, prenorm=True
    )
    for mine, value in zip(norm(X, RESIDUAL, row_scale=ROWS, rngs=KEY), expected, strict=True):
        np.testing.assert_array_equal(mine, value)
    np.testing.assert_array_equal(
        add(X, RESIDUAL, rngs=KEY), jaxdrop.bias_dropout_add(KEY, X, BIAS, RESIDUAL, RATE)
    )
    variables = {"params": {"scale": SCALE, "bias": BIAS}}
    linen = jaxdrop.linen.DropoutAddLayerNorm(RATE, prenorm=True, deterministic=False)
    for mine, value in zip(
        linen.apply(variables, X, RESIDUAL, row_scale=ROWS, rng=KEY), expected, strict=True
    ):
        np.testing.assert_array_equal(mine, value)
    linen = jaxdrop.linen.BiasDropoutAdd(RATE, deterministic=False)
    value = jaxdrop.bias_dropout_add(KEY, X, BIAS, RESIDUAL, RATE)
    np.testing.assert_array_equal(
        linen.apply({"params": {"bias": BIAS}}, X, RESIDUAL, rng=KEY), value
    )


def test_rows_divided_over_devices() -> None:
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
    spec = P("a")

    def local(x: jax.Array, residual: jax.Array) -> jax.Array:
        return jaxdrop.dropout_add_layer_norm(KEY, x, residual, SCALE, BIAS, RATE, spec=spec)

    result = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(X, RESIDUAL)
    expected = jaxdrop.dropout_add_layer_norm(KEY, X, RESIDUAL, SCALE, BIAS, RATE)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="divides the features"):
        jax.shard_map(
            lambda x: jaxdrop.dropout_add_layer_norm(
                KEY, x, None, None, None, RATE, spec=P(None, None, "a")
            ),
            mesh=mesh,
            in_specs=P(None, None, "a"),
            out_specs=P(None, None, "a"),
        )(X)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: jaxdrop.bias_dropout_add(KEY, X, BIAS, RESIDUAL[0], RATE),
            ValueError,
            ["residual", "(4, 5, 8)", "(5, 8)"],
        ),
        (
            lambda: jaxdrop.bias_dropout_add(KEY, X, BIAS[:3], RESIDUAL, RATE),
            ValueError,
            ["bias", "(3,)", "(4, 5, 8)"],
        ),
        (
            lambda: jaxdrop.bias_dropout_add(None, X, BIAS, RESIDUAL, RATE),
            ValueError,
            ["bias_dropout_add", "key is None"],
        ),
        (
            lambda: jaxdrop.bias_dropout_add(KEY, X, BIAS, RESIDUAL, -0.1),
            ValueError,
            ["rate", "-0.1"],
        ),
        (
            lambda: jaxdrop.dropout_add_layer_norm(KEY, X, None, SCALE[:3], None, RATE),
            ValueError,
            ["scale", "(3,)", "(8,)"],
        ),
        (
            lambda: jaxdrop.dropout_add_layer_norm(
                KEY, X, None, None, None, RATE, row_scale=ROWS[..., None]
            ),
            ValueError,
            ["row_scale", "(1, 5, 1)", "(4, 5)"],
        ),
        (
            lambda: jaxdrop.dropout_add_layer_norm(KEY, X.astype(complex), None, None, None, RATE),
            TypeError,
            ["complex64"],
        ),
        (
            lambda: jaxdrop.dropout_add_layer_norm(KEY, X, None, None, None, 2),
            ValueError,
            ["rate", "2"],
        ),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as error:
        call()
    for word in words:
        assert word in str(error.value)
