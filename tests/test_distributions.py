"""Distributions that `jax.random` draws from this library's keys: what JAX's own tests check with
its generators. Against closed forms, each with a probability of error of 1e-6.

JAX's tests (tests/random_lax_test.py) pass with these keys, too, but for `poisson`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxdrop
from tests import statistics

pytestmark = pytest.mark.sweep

LEVEL = 1e-6
NUMBER = 2**16
WEIGHTS = np.array([0.05, 0.1, 0.15, 0.3, 0.4], np.float32)
PAIRS = NUMBER // 4

KEYS = {
    "hash": jaxdrop.key(0),
    "stratified": jaxdrop.mc.keys(jaxdrop.key(1), 10)[3],
    "antithetic": jaxdrop.mc.keys(jaxdrop.key(2), 10, strategy="antithetic")[3],
}

CONTINUOUS: dict[str, tuple[Callable[[jax.Array], jax.Array], Callable[..., np.ndarray]]] = {
    name: (functools.partial(draw, shape=(NUMBER,)), law.cdf)
    for name, draw, law in (
        ("uniform", jax.random.uniform, stats.uniform),
        ("normal", jax.random.normal, stats.norm),
        ("exponential", jax.random.exponential, stats.expon),
        ("gumbel", jax.random.gumbel, stats.gumbel_r),
        ("laplace", jax.random.laplace, stats.laplace),
        ("logistic", jax.random.logistic, stats.logistic),
        ("cauchy", jax.random.cauchy, stats.cauchy),
        ("gamma", functools.partial(jax.random.gamma, a=2.5), stats.gamma(2.5)),
        (
            "truncated normal",
            functools.partial(jax.random.truncated_normal, lower=-0.5, upper=2),
            stats.truncnorm(-0.5, 2),
        ),
    )
}


def _ordered_pairs(draw: Callable[[jax.Array], jax.Array], key: jax.Array) -> jax.Array:
    """Numbers of the first two results of many draws, `5 first + second`."""
    first, second = jax.vmap(draw, out_axes=1)(jax.random.split(key, PAIRS))[:2]
    return 5 * first + second


_DIFFERENT = np.where(np.eye(5, dtype=bool), 0, 1 / 20).ravel()

DISCRETE: dict[str, tuple[Callable[[jax.Array], jax.Array], np.ndarray]] = {
    "bernoulli": (
        lambda key: jax.random.bernoulli(key, 0.3, (NUMBER,)).astype(int),
        np.array([0.7, 0.3]),
    ),
    "randint": (lambda key: jax.random.randint(key, (NUMBER,), 0, 37), np.full(37, 1 / 37)),
    "randint of 8 bits": (
        lambda key: jax.random.randint(key, (NUMBER,), 0, 100, jnp.uint8),
        np.full(100, 1 / 100),
    ),
    "categorical": (
        lambda key: jax.random.categorical(key, jnp.log(WEIGHTS), shape=(NUMBER,)),
        WEIGHTS / WEIGHTS.sum(),
    ),
    "choice": (
        lambda key: jax.random.choice(key, 5, (NUMBER,), p=jnp.asarray(WEIGHTS)),
        WEIGHTS / WEIGHTS.sum(),
    ),
    "choice without replacement": (
        lambda key: _ordered_pairs(lambda k: jax.random.choice(k, 5, (2,), replace=False), key),
        _DIFFERENT,
    ),
    "permutation": (
        lambda key: _ordered_pairs(lambda k: jax.random.permutation(k, 5), key),
        _DIFFERENT,
    ),
}


@functools.cache
def _drawn(generator: str) -> dict[str, np.ndarray]:
    """A sample of each distribution, in one program."""
    draws = {name: draw for name, (draw, _) in (CONTINUOUS | DISCRETE).items()}
    keys = jax.random.split(KEYS[generator], len(draws))
    drawn = jax.jit(
        lambda keys: {
            name: draw(key) for (name, draw), key in zip(draws.items(), keys, strict=True)
        }
    )(keys)
    return {name: np.asarray(values) for name, values in drawn.items()}


@pytest.mark.parametrize("generator", KEYS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(name: str, generator: str) -> None:
    values = np.float64(_drawn(generator)[name])
    assert stats.kstest(values, CONTINUOUS[name][1]).pvalue > LEVEL


@pytest.mark.parametrize("generator", KEYS)
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete(name: str, generator: str) -> None:
    values, law = _drawn(generator)[name], DISCRETE[name][1]
    counts = np.bincount(values, minlength=len(law))
    possible = law > 0
    assert counts[~possible].sum() == 0
    assert statistics.chi_square(counts[possible], law[possible] * values.size) > LEVEL


@pytest.mark.parametrize("name", KEYS)
def test_what_jax_draws_with_its_own_generator_only(name: str) -> None:
    with pytest.raises(NotImplementedError, match="only implemented for the threefry2x32 RNG"):
        jax.random.poisson(KEYS[name], 3.0)
