"""The words 0 and 2**32 - 1, each drawn once in four billion times, are words like others: where a
logarithm or a division follows, nothing becomes NaN or infinite.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from scipy import special

import jaxdrop
from jaxdrop import _variates, random
from jaxdrop.functional import graphs, sequences, tokens
from jaxdrop.mc import acquisition
from tests.catalogue import RATE, Variant, groups_of_variants, named

# A generator whose bits are all 0, or all 1, as its key says.
CONSTANT = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.asarray(seed, jnp.uint32)[None],
    split=lambda words, shape: jnp.broadcast_to(words, (*shape, 1)),
    fold_in=lambda words, data: words,
    random_bits=lambda words, width, shape: jnp.full(
        shape, -words[0].astype(jnp.int32), f"int{width}"
    ).astype(f"uint{width}"),
    name="constant",
    tag="constant",
)
KEYS = [jax.random.wrap_key_data(jnp.asarray([bit], jnp.uint32), impl=CONSTANT) for bit in (0, 1)]

EXEMPT = {
    **dict.fromkeys(
        (
            tokens.token_dropout,
            jaxdrop.dropout_mlp,
            jaxdrop.drop_path_add,
            jaxdrop.random_ltd,
        ),
        "its rate sets a shape: it cannot be traced",
    ),
    graphs.drop_node: "it asks for the bits of single nodes; this generator draws whole arrays",
    sequences.embedding_dropout: "it asks for the bits of single ids",
}


def test_the_generator_draws_them() -> None:
    for key, word in zip(KEYS, (0, 2**32 - 1), strict=True):
        np.testing.assert_array_equal(random.bits(key, (3,)), np.full(3, word, np.uint32))


@groups_of_variants
def test_extreme_bits_are_ordinary(variants: list[Variant]) -> None:
    """Values and gradients, also of traced rates."""

    @jax.jit
    def all_of_them(key: jax.Array, rate: jax.Array, xs: list[jax.Array]) -> list[list[jax.Array]]:
        def both(variant: Variant, x: jax.Array) -> list[jax.Array]:
            y, vjp = jax.vjp(lambda x, rate: variant.call(key, x, rate), x, rate)
            return [variant.call(key, x, RATE), y, *vjp(jnp.ones_like(y))]

        return [named(variant, both, variant, x) for variant, x in zip(variants, xs, strict=True)]

    variants = [variant for variant in variants if variant.function not in EXEMPT]
    xs = [variant.example() for variant in variants]
    for key in KEYS:
        for variant, found in zip(variants, all_of_them(key, jnp.float32(RATE), xs), strict=True):
            assert all(np.all(np.isfinite(part)) for part in found), variant.name


def test_distributions() -> None:
    words = jnp.asarray([0, 2**32 - 1], jnp.uint32)
    for values in (_variates.uniform(words), _variates.normal(words), _variates.gumbel(words)):
        assert np.all(np.isfinite(values))
        assert values[0] != values[1]


def test_gumbel_values_are_those_of_the_middles_of_intervals() -> None:
    """In float64 of 2**32 intervals. In float32 the last words share the last value below 1."""
    words = np.array([0, 1, 2**16, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    above = (words.astype(np.float64) + 0.5) / 2**32
    with jax.enable_x64(True):
        found = _variates.gumbel(jnp.asarray(words), jnp.float64)
        np.testing.assert_allclose(found, -np.log(-np.log1p(-above)), rtol=1e-12)
    above = np.minimum(np.float32(above), 1 - 2.0**-24)
    found = _variates.gumbel(jnp.asarray(words))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, -np.log(-np.log1p(-np.float64(above))), rtol=2e-6)


def test_concrete_dropout_takes_the_middle_of_the_outermost_intervals() -> None:
    """In value, and with a derivative in the temperature, which multiplies the logarithm of u."""
    logit, temperature = np.log(RATE / (1 - RATE)), 4.0
    for key, u in zip(KEYS, (2.0**-24, 1 - 2.0**-24), strict=True):
        value, slope = jax.value_and_grad(
            lambda temperature, key=key: jaxdrop.concrete_dropout(
                key, jnp.ones(1), jnp.float32(logit), temperature=temperature
            ).sum()
        )(temperature)
        score = logit + np.log(u / (1 - u))
        kept = special.expit(-score / temperature)
        np.testing.assert_allclose(value, kept / (1 - RATE), rtol=1e-5)
        expected = kept * (1 - kept) * score / temperature**2 / (1 - RATE)
        np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_power_sampling_chooses_inputs_of_a_score() -> None:
    """Whatever the bits: an input without a score comes after all that have one."""
    scores = jnp.asarray([0.0, 1.0, 0.0, 2.0])
    for key in KEYS:
        chosen = acquisition.power_sampling(key, scores, 2)
        assert set(np.asarray(chosen).tolist()) == {1, 3}
