"""The rules of `mc.analytic`, operation by operation, against oracles that know none of them:

- functions of coins, against all values of the coins, one by one;
- functions of normal variables, against integrals;
- any function of numbers that hardly vary, against its derivative;
- masks, against the probabilities that their generator has.

The functions of a table are one program, which is compiled once.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax import random as jr
from jax.sharding import AxisType, PartitionSpec
from scipy import stats

from jaxdrop import mc
from jaxdrop.mc._analytic import _gaussian
from jaxdrop.mc._analytic._values import Moments

Body = Callable[[Any], Any]
EXACT = ("diagonal", "linearized")


@pytest.fixture(autouse=True)
def _mixed_operands() -> Iterator[None]:
    """The tables mix booleans with numbers, and arrays of several ranks, to be short."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def found(bodies: dict[str, Body], draw: Callable[[jax.Array], Any], precision: Any) -> Any:
    """Mean and variance of each function of one draw."""

    def fn(key: jax.Array) -> Any:
        x = draw(key)
        return {name: body(x) for name, body in bodies.items()}

    result = mc.analytic(fn, precision=precision)()
    return {name: (result.mean[name], result.variance[name]) for name in bodies}


def summed(bodies: dict[str, Body], values: np.ndarray, weights: np.ndarray) -> Any:
    """The same from all values of the draw, and their probabilities."""
    each = jax.jit(jax.vmap(lambda x: {name: body(x) for name, body in bodies.items()}))(values)
    moments = {}
    for name, y in each.items():
        y = np.asarray(y, np.float64)
        mean = np.tensordot(weights, y, 1)
        moments[name] = (mean, np.tensordot(weights, (y - mean) ** 2, 1))
    return moments


def compare(ours: Any, exact: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    wrong = []
    for name, both in exact.items():
        for what, own, other in zip(("mean", "variance"), ours[name], both, strict=True):
            if not np.allclose(own, other, rtol, atol):
                wrong.append(f"{what} of {name}: {np.asarray(own)}, not {np.asarray(other)}")
    assert not wrong, "\n".join(wrong)


# -- coins

CHANCES = np.float32([[0.2, 0.5, 0.75], [0.9, 0.35, 0.6]])
C = np.array([True, False, True])
V = np.float32([0.5, -0.2, 1])
TABLE = np.float32([[1, 2], [4, 9]])
ORDERS = {"lt": lax.lt, "le": lax.le, "gt": lax.gt, "ge": lax.ge, "eq": lax.eq, "ne": lax.ne}


def window(b: Any, combine: Any, start: bool, padding: str) -> Any:
    return lax.reduce_window(b, start, combine, (2, 2), (1, 1), padding)


# No coin is used twice: `diagonal` takes the operands of an operation to be independent.
COINS: dict[str, Body] = {
    "and": lambda b: b[0] & b[1],
    "or": lambda b: b[0] | b[1],
    "xor": lambda b: b[0] ^ b[1],
    "not": lambda b: ~b,
    "any": lambda b: b.any(0),
    "all": lambda b: b.all(1),
    "any, not": lambda b: ~b.any(1),
    "any and constant": lambda b: b.any(0) & C,
    "constant or any": lambda b: C | b.any(0),
    "coin xor any": lambda b: b[0] ^ b[1].any(),
    **{f"coins, {name}": lambda b, f=f: f(b[0], b[1]) for name, f in ORDERS.items()},
    **{f"any, {name}": lambda b, f=f: f(b.any(0), jnp.asarray(C)) for name, f in ORDERS.items()},
    **{f"numbers, {name}": lambda b, f=f: f(b[0] * 2.0, b[1] * 1.0) for name, f in ORDERS.items()},
    "choice": lambda b: jnp.where(b[0], 2.0, 3.0 * b[1]),
    "other choice": lambda b: jnp.where(b[0], 3.0 * b[1], 2.0),
    "choice by any": lambda b: jnp.where(b.any(0), 2.0, V),
    "one coin for all": lambda b: jnp.where(b[0, 0], 2 * V, 1.0),
    "one coin for all coins": lambda b: jnp.where(b[0, 0], b[1] * 2.0, b[0, 1:].any() * 1.0),
    "three cases": lambda b: lax.select_n(b[0].astype(jnp.int32), V, 2 * V, 4 * V),
    "branch": lambda b: lax.cond(b[0, 0], lambda: 5.0, lambda: b[1, 0] * 2.0),
    "branch by any": lambda b: lax.cond(b[0].any(), lambda: V, lambda: b[1] * 1.0),
    "a float": lambda b: b.any(0) * 2.0 + 1,
    "square": lambda b: (b.any(0) - 0.25) ** 2,
    "relu": lambda b: jax.nn.relu(b.any(0) - 0.5),
    "absolute": lambda b: jnp.abs(b.any(0) - 0.25),
    "clipped": lambda b: jnp.clip(b.any(0) * 1.0, 0.2, 0.7),
    "float and constant": lambda b: b.any(0).astype(jnp.float32) > 0.5,
    "largest of two": lambda b: jnp.maximum(3 * b[0], 2.0 * b[1]),
    "smallest of two": lambda b: jnp.minimum(3 * b[0], 2.0 * b[1] + 1),
    "product": lambda b: (b[0] + 1.0) * b[1],
    "difference": lambda b: b[0] * 2.0 - b[1],
    "quotient": lambda b: (b[0] + 1.0) / (b[1] + 2.0),
    "quotient, any": lambda b: b[0, 0] / (b[1].any() + 2.0),
    "power": lambda b: (b[0] + 2.0) ** (b[1] + 1.0),
    "angle": lambda b: jnp.arctan2(b[0] * 1.0, b[1] + 1.0),
    "count": lambda b: b.sum(1),
    "half a count": lambda b: (2.0 * b).sum(0) * 0.5,
    "bits": lambda b: b.astype(jnp.int32) & 3,
    "padded": lambda b: jnp.pad(b * 2.0, 1, constant_values=3.0),
    "padded coins": lambda b: jnp.pad(b, ((1, 0), (0, 1)), constant_values=True),
    "turned": lambda b: b[:, ::-1].T,
    "beside": lambda b: jnp.concatenate([b, C[None]], 0),
    "all, beside": lambda b: jnp.concatenate([b, C[None]], 0).all(0),
    "stacked": lambda b: jnp.stack([b[0], ~b[1], jnp.asarray(C)], 1),
    "tiled": lambda b: jnp.tile(b, (2, 2)),
    "counts beside": lambda b: jnp.concatenate([b.sum(0), np.arange(3)]),
    "counts, padded": lambda b: jnp.pad(b.sum(0), 1, constant_values=7),
    "counts, put": lambda b: lax.dynamic_update_slice(jnp.arange(5), b.sum(0), (1,)),
    "counts, added": lambda b: jnp.arange(5).at[np.array([0, 4, 4])].add(b.sum(0)),
    "window": lambda b: window(b, lax.bitwise_or, False, "VALID"),
    "window, all": lambda b: window(b, lax.bitwise_and, True, "VALID"),
    "window, padded": lambda b: window(b, lax.bitwise_and, True, "SAME"),
    "looked up": lambda b: jnp.asarray(TABLE)[b[0].astype(jnp.int32)],
    "looked up by any": lambda b: jnp.asarray(TABLE)[b.any(0).astype(jnp.int32)],
    "rows": lambda b: lax.scan(lambda n, row: (n + row.any(), ~row), 0.0, b)[1],
    "count of rows": lambda b: lax.scan(lambda n, row: (n + row.any(), ~row), 0.0, b)[0],
    "any so far": lambda b: lax.scan(lambda a, row: (a | row, ()), jnp.asarray(C), b)[0],
}


@pytest.mark.parametrize("precision", EXACT)
def test_functions_of_coins(precision: str) -> None:
    compare(found(COINS, lambda key: jr.bernoulli(key, CHANCES), precision), of_all_coins())


@functools.cache
def of_all_coins() -> Any:
    coins = np.array(list(itertools.product((False, True), repeat=6))).reshape(-1, 2, 3)
    return summed(COINS, coins, np.where(coins, CHANCES, 1 - CHANCES).prod((1, 2)))


# -- normal variables

MEANS = np.float32([[1.2, -0.7, 0.3], [2.1, 0.4, -1.5]])
STDS = np.float32([[0.5, 0.6, 0.8], [0.4, 0.9, 0.7]])


def narrow(x: Any) -> Any:
    """Nearly always `x`, which has the dtype of the other case where the program runs."""
    return jnp.where(x > -100, x, jnp.ones(3, jnp.bfloat16)).astype(jnp.float32)


NORMALS: dict[str, Body] = {
    "product": lambda x: x[0] * x[1],
    "sum": lambda x: x[0] + x[1],
    "difference": lambda x: x[0] - x[1],
    "twice": lambda x: x + x,
    "nothing": lambda x: x - x,
    "itself": lambda x: x * x,
    "largest": lambda x: jnp.maximum(x[0], x[1]),
    "smallest": lambda x: jnp.minimum(x[0], x[1]),
    "largest entry": lambda x: x.max(0),
    "smallest entry": lambda x: x.min(0),
    "at least": lambda x: lax.max(x[0], jnp.asarray(V)),
    "constant, at least": lambda x: lax.max(jnp.asarray(V), x[0]),
    "at most": lambda x: lax.min(x[1], jnp.asarray(V)),
    "at most infinity": lambda x: jnp.minimum(x, np.float32([[1, np.inf, -1]])),
    **{f"numbers, {name}": lambda x, f=f: f(x[0], x[1]) for name, f in ORDERS.items()},
    **{f"limit, {name}": lambda x, f=f: f(x[0], jnp.asarray(V)) for name, f in ORDERS.items()},
    **{f"{name}, limit": lambda x, f=f: f(jnp.asarray(V), x[1]) for name, f in ORDERS.items()},
    "certain": lambda x: 0 * x[0] + 1 >= jnp.ones(3),
    "both": lambda x: (x[0] > 0.1) & (x[1] > V),
    "either": lambda x: (x[0] > 0.1) | (x[1] < V),
    "not": lambda x: ~(x[0] > V),
    "and a constant": lambda x: (x[0] > V) & C,
    "as a float": lambda x: 2.0 * (x[0] > V) - 1,
    "how many": lambda x: (x > 0.1).sum(0),
    "choice": lambda x: jnp.where(x[0] > 0.1, x[1], V),
    "choice of constants": lambda x: jnp.where(x[0] > V, 1.0, -V),
    "known choice": lambda x: jnp.where(C, x[0], x[1]),
    "known choice of a constant": lambda x: jnp.where(C, V, x[0]),
    "exponential": lambda x: jnp.exp(x / 2),
    "power of a number": lambda x: 1.5 ** x[0],
    "cube": lambda x: x**3,
    "quotient of its own": lambda x: x / (x**2 + 6),
    "quotient by an activation": lambda x: x[0] / (jax.nn.relu(x[1]) + 5),
    "over an activation": lambda x: V / (jnp.tanh(x[1]) + 2),
    "activation, from a constant": lambda x: 2 - jax.nn.relu(x[1]),
    "activation of many steps": lambda x: -(3 * jax.nn.gelu(x[0]) - V) / 2,
    "from a constant": lambda x: V - x[0],
    "over a constant": lambda x: x[0] / V,
    "negative": lambda x: -x,
    "sine": lambda x: jnp.sin(x[0]),
    "bfloat16": lambda x: 2 * x[0].astype(jnp.bfloat16).astype(jnp.float32),
    "bfloat16, choice": lambda x: narrow(x[0].astype(jnp.bfloat16)),
    "bfloat16, at least": lambda x: jnp.maximum(x, 0.1).astype(jnp.bfloat16).astype(jnp.float32),
    "constant": lambda x: lax.stop_gradient(x[0]),
    "constant of an exponential": lambda x: lax.stop_gradient(jnp.exp(x[0] / 2)),
    "constant of a sum": lambda x: lax.stop_gradient(x.sum(0)),
    "checkpoint": lambda x: jax.checkpoint(jnp.sin)(x[0]),
    "outside": lambda x: x.at[:, np.array([0, 9])].get(mode="fill", fill_value=7.0),
    "repeated": lambda x: x[:, :1] * V,
    "stacked": lambda x: jnp.stack([x[0], V, -x[1]]),
    "tiled": lambda x: jnp.tile(x[0], 2),
    "logarithm to base 2": lambda x: jnp.log2(x[0] + 9),
    "so far": lambda x: jnp.cumsum(x, 0),
}


@pytest.mark.parametrize("precision", EXACT)
def test_functions_of_normal_variables(precision: str) -> None:
    """Against integrals, which are sums over a lattice."""
    exact = of_a_lattice()
    ours = found(NORMALS, lambda key: MEANS + STDS * jr.normal(key, (2, 3)), precision)
    if precision == "diagonal":
        exact = {name: value for name, value in exact.items() if name != "twice"}
    compare(ours, exact, rtol=5e-3, atol=3e-3)


@functools.cache
def of_a_lattice() -> Any:
    number, step = 46368, 28657  # Fibonacci's: no lattice of so many points is more even
    places = np.arange(number)[:, None] * np.array([1, step]) % number
    z = stats.norm.ppf((places + 0.5) / number)[..., None]
    grid = (MEANS + STDS * z).astype(np.float32)
    return summed(NORMALS, grid, np.full(number, 1 / number))


def test_powers_and_logarithms_are_those_of_a_log_normal_variable() -> None:
    """With the mean and the variance that the normal one has; of a mean that is not positive, the
    value there.
    """
    mean, std = np.float32([0.8, 2, 5]), np.float32([0.3, 1, 3])
    log_variance = np.log1p((std / mean) ** 2)
    log_mean = np.log(mean) - log_variance / 2

    def power(p: float) -> Any:
        first, second = (np.exp(q * log_mean + q * q * log_variance / 2) for q in (p, 2 * p))
        return first, second - first**2

    bodies: dict[str, Body] = {
        "root": jnp.sqrt,
        "inverse root": lax.rsqrt,
        "over": lambda x: 3 / x,
        "negative over": lambda x: 3 / -x,
        "power": lambda x: x**2.5,
        "inverse square": lambda x: x**-2,
        "logarithm": jnp.log,
        "logarithm of 1 and": lambda x: jnp.log1p(x - 1),
        "logarithm of a sum": lambda x: jnp.log((x / 2 + x / 2)[None].sum(0)),
        "negative": lambda x: (-x) ** -2,
        "cube below": lambda x: (-x) ** -3,
        "certain": lambda x: jnp.sqrt(0 * x + 4),
        "of mean 0": lambda x: jnp.sqrt(x - mean),
        "logarithm of a certain number": lambda x: jnp.log(0 * x + 4),
    }
    logarithm = (log_mean, log_variance)
    over, wide = power(-1)
    zero = np.zeros(3)
    exact = {
        "root": power(0.5),
        "inverse root": power(-0.5),
        "over": (3 * over, 9 * wide),
        "negative over": (-3 * over, 9 * wide),
        "power": power(2.5),
        "inverse square": power(-2),
        "logarithm": logarithm,
        "logarithm of 1 and": logarithm,
        "logarithm of a sum": logarithm,
        "negative": power(-2),
        "cube below": (-power(-3)[0], power(-3)[1]),
        "certain": (zero + 2, zero),
        "of mean 0": (zero, zero),
        "logarithm of a certain number": (zero + math.log(4), zero),
    }
    for precision in EXACT:
        if precision == "linearized":  # there, both halves are one variable; above, two
            del exact["logarithm of a sum"]
        ours = found(bodies, lambda key: mean + std * jr.normal(key, (3,)), precision)
        compare(ours, exact)


# -- numbers that hardly vary

SHAPE = (2, 3, 4)
RNG = np.random.default_rng(0)
AT = RNG.uniform(0.5, 2, SHAPE).astype(np.float32)
NOISE = (3e-4 * RNG.uniform(0.5, 2, SHAPE)).astype(np.float32)
A = RNG.normal(size=(3, 5)).astype(np.float32)
K, LONG = (RNG.normal(size=(5, 3, n)).astype(np.float32) for n in (2, 6))


def by_hand(x: Any, axes: Any) -> Any:
    e = jnp.exp(x)
    return e / e.sum(axes, keepdims=True)


def shares(x: Any) -> Any:
    return x / x.sum(0)


FIRST = np.array([True, False])[:, None, None]
CASES = np.broadcast_to(np.int32([0, 2])[:, None, None], (2, 1, 4))


def masked(x: Any, axis: int) -> Any:
    return jax.nn.softmax(
        jnp.where(np.add.outer(np.arange(3), np.arange(4)) != 2, x, -jnp.inf), axis
    )


def scanned(x: Any, reverse: bool) -> Any:
    def step(h: Any, row: Any) -> Any:
        number, own = row
        h = h * 0.5 + number * own
        return h, (number + 1.0, h[0] * 2)

    numbers = jnp.arange(2.0) + 1
    return lax.scan(step, jnp.zeros((3, 4)), (numbers, x), reverse=reverse)[0]


SMOOTH: dict[str, Body] = {
    **{f"softmax, {axis}": lambda x, axis=axis: jax.nn.softmax(x, axis) for axis in (0, -1)},
    "softmax over all axes": lambda x: jax.nn.softmax(x, (0, 1, 2)),
    **{f"softmax by hand, {axes}": lambda x, axes=axes: by_hand(x, axes) for axes in (0, (1, 2))},
    "masked softmax": lambda x: masked(x, 1),
    "softmax by hand, turned": lambda x: shares(jnp.exp(x).swapaxes(0, 1)),
    "softmax by hand of an activation": lambda x: by_hand(jnp.tanh(x), 1),
    "share or quotient": lambda x: x / jnp.where(FIRST, 5.0, x.sum(1, keepdims=True)),
    "less another maximum": lambda x: x[0] - x[1].max(0),
    "case by a number": lambda x: lax.select_n(jax.nn.relu(x).astype(jnp.int32), AT, 2 * AT, AT**2),
    **{f"log of a sum, {axis}": lambda x, axis=axis: jnp.log(x.sum(axis)) for axis in (0, 2)},
    "log of a maximum": lambda x: jnp.log(x.max(1)),
    "log1p of a sum": lambda x: jnp.log1p(x.sum(0)),
    "log of a sum of exp": lambda x: jnp.log(jnp.exp(x).sum((0, 2))),
    "logsumexp": lambda x: jax.nn.logsumexp(x, 1),
    **{f"share, {axes}": lambda x, axes=axes: x / x.sum(axes, keepdims=True) for axes in (0, 2)},
    "share of a sum": lambda x: x / x.sum((0, 1), keepdims=True),
    "quotient": lambda x: x[0] / x[1],
    "quotient of negatives": lambda x: x[0] / -x[1],
    "quotient of sums": lambda x: (x[0] * 2).sum(0) / (x[1] * 3).sum(0),
    "angle": lambda x: jnp.arctan2(x[0], x[1]),
    "angle with a constant": lambda x: jnp.arctan2(1.5, x),
    "power": lambda x: x[0] ** x[1],
    "remainder": lambda x: lax.rem(x[0], jnp.float32(0.4)),
    "clamped": lambda x: lax.clamp(x[0] - 3, x[1], jnp.float32(9)),
    "matrix": lambda x: jnp.einsum("bij,ik->bkj", x, A),
    "matrix before": lambda x: A.T @ x,
    "both": lambda x: x[0] @ x[1].T,
    "convolution": lambda x: lax.conv(x, jnp.asarray(K), (1,), "VALID"),
    "kernel": lambda x: lax.conv(jnp.asarray(LONG), x, (1,), "VALID"),
    "product": lambda x: x.prod(1),
    "products so far": lambda x: jnp.cumprod(x[0, 0])[1:2],
    "sorted": lambda x: jnp.sort(x, 1),
    "sorted beside": lambda x: lax.sort((x[0], x[1]), dimension=0, num_keys=1)[1],
    "norm": lambda x: jnp.linalg.norm(x, axis=2),
    "largest": lambda x: x.max(1),
    "largest of many": lambda x: jnp.tile(x, (1, 6, 1)).max(1),
    "smallest of many": lambda x: x.min(),
    "smallest of two axes": lambda x: x.min((0, 1)),
    "pooled": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 1, 2), "SAME"),
    "pooled, least": lambda x: lax.reduce_window(
        x, jnp.inf, lax.min, (2, 1, 3), (1, 1, 1), "VALID"
    ),
    "window sum": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 2), (1, 1, 2), "VALID"),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=2),
    "beside": lambda x: jnp.concatenate([A[:, :4], x[0], x[1] * 2]),
    "rows": lambda x: x[:, np.array([2, 0])],
    "set": lambda x: x.at[0, 1].set(2.0),
    "added": lambda x: jnp.asarray(A).at[np.array([0, 2]), 1].add(x[0, 0, :2]),
    "put": lambda x: lax.dynamic_update_slice(jnp.asarray(A), x[0, :2, :3], (1, 0)),
    "loop": lambda x: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h), x[0]),
    "scan": lambda x: scanned(x, False),
    "scan backward": lambda x: scanned(x, True),
    "branch": lambda x: lax.switch(jnp.asarray(1), [lambda: x[0], lambda: x[1] * 2, lambda: x[0]]),
}
ENTANGLED: dict[str, Body] = {
    "log softmax": lambda x: jax.nn.log_softmax(x, 1),
    "share or quotient, turned": lambda x: x / jnp.where(FIRST, x.sum(1, keepdims=True), 5.0),
    "share or quotient, twice": lambda x: (
        x / jnp.where(FIRST[::-1], 2.0, jnp.where(FIRST, 5.0, x.sum(1, keepdims=True)))
    ),
    "share or one of two quotients": lambda x: (
        x / lax.select_n(CASES, x.sum(1, keepdims=True), 2 * AT[:, :1], 3 * AT[:, :1])
    ),
    "share or quotient, of fewer axes": lambda x: (
        x / jnp.where(FIRST[:, 0], 5.0, x.sum(1))[:, None]
    ),
    "share of the maximum": lambda x: x / x.max(1, keepdims=True),
    "share of itself": lambda x: x[0] / x[0].sum(()),
    "share, turned": lambda x: x[0, :, :3] / x[0, :, :3].sum(0, keepdims=True).T,
    "variance": lambda x: x.var(2),
    "normalized": lambda x: (x - x.mean(1, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True)),
    "rows of a scan": lambda x: lax.scan(lambda h, r: (h + r, jnp.tanh(h * r)), x[0] * 0.1, x)[1],
    "quadratic": lambda x: (x[0] @ x[1].T @ x[0]).sum(1),
    "shares of logits": lambda x: jax.nn.softmax(x[0] @ x[1].T) @ x[0],
}


COVARIANCES = (
    *("softmax, 0", "share, 2", "quotient of negatives", "both", "angle", "norm", "scan"),
    *("scan backward", "share or quotient", "largest", "matrix"),
    *("pooled, least", "smallest of many", "log of a sum, 2", "branch", "matrix before"),
)


def test_functions_of_numbers_that_hardly_vary() -> None:
    """Entry by entry; and the covariances of entries, which a weighted sum of them has."""
    bodies = SMOOTH | ENTANGLED

    def every(x: Any) -> Any:
        return {name: body(x) for name, body in bodies.items()}

    def draw(key: jax.Array) -> Any:
        return AT + NOISE * jr.normal(key, SHAPE)

    values, slopes = jax.jit(lambda x: (every(x), jax.jacfwd(every)(x)))(jax.device_put(AT))
    weights = {name: np.cos(np.arange(x.size)).reshape(x.shape) for name, x in values.items()}
    entries, sums = {}, {}
    for name, own in weights.items():
        changes = np.asarray(slopes[name]) * NOISE / 3e-4
        entries[name] = values[name], (changes**2).sum((-1, -2, -3))
        changes = np.tensordot(own, changes, own.ndim)
        sums[name] = (own * values[name]).sum(), (changes**2).sum()
    totals = {
        name: lambda x, name=name: (bodies[name](x) * weights[name].astype(np.float32)).sum()
        for name in (*ENTANGLED, *COVARIANCES)
    }
    for precision, chosen, exact in (("diagonal", SMOOTH, entries), ("linearized", totals, sums)):
        ours = found(chosen, draw, precision)
        scaled = {name: (mean, variance / 9e-8) for name, (mean, variance) in ours.items()}
        compare(scaled, {name: exact[name] for name in chosen}, rtol=5e-3, atol=1e-4)


# -- masks, and other draws


def bits(key: Any, kind: str = "uint8") -> Any:
    return jr.bits(key, (3,), kind)


def halves(key: Any) -> Any:
    return jr.uniform(key, (3,))


def two(key: Any, draw: Callable[[Any], Any]) -> Any:
    return draw(key), draw(jr.fold_in(key, 1))


def folded(key: Any) -> Any:
    return lax.while_loop(lambda x: x[1] < 3, lambda x: (jr.fold_in(*x), x[1] + 1), (key, 0))[0]


def row(key: Any) -> Any:
    """Words of the first turn of a loop, handed to the second one, which starts with none."""
    start = jnp.zeros(3, np.uint8)
    return lax.scan(lambda last, own: (bits(own), last), start, jr.split(key))[0]


def carried(key: Any) -> Any:
    """The same beside a number; it starts with words."""

    def turn(last: Any, own: Any) -> Any:
        return (last[0] + 1.0, bits(own)), last[1]

    return lax.scan(turn, (0.0, bits(key)), jr.split(jr.fold_in(key, 1)))


def moved_floats(key: Any) -> Any:
    words = (bits(key, "uint32") >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(words[::-1], jnp.float32)


CONSTANT = jr.key(3)
THIRDS = np.float32([0.1, 0.2, 0.3])
DRAWS: dict[str, tuple[Body, Any]] = {
    "equal": (lambda key: bits(key) == 3, 1 / 256),
    "not equal": (lambda key: bits(key) != 3, 255 / 256),
    "above all": (lambda key: (bits(key) & 15) == np.uint8(20), 0),
    "below": (lambda key: bits(key) < 3, 3 / 256),
    "at most": (lambda key: bits(key) <= 3, 4 / 256),
    "above": (lambda key: bits(key) > 3, 252 / 256),
    "at least": (lambda key: bits(key) >= 3, 253 / 256),
    "limit below": (lambda key: lax.lt(jnp.full(3, 3, np.uint8), bits(key)), 252 / 256),
    "limit at least": (lambda key: lax.ge(jnp.full(3, 3, np.uint8), bits(key)), 4 / 256),
    "below more": (lambda key: (bits(key) & 15) < np.uint8(20), 1),
    "at least more": (lambda key: (bits(key) & 15) >= np.uint8(20), 0),
    "no bit": (lambda key: (bits(key) & 0).astype(bool), 0),
    "as booleans": (lambda key: bits(key).astype(bool), 255 / 256),
    "folded into a constant": (
        lambda key: jr.bernoulli(jr.fold_in(CONSTANT, jr.bits(key)), 0.2, (3,)),
        0.2,
    ),
    "one of two constants": (
        lambda key: jr.bernoulli(jnp.where(jr.bernoulli(key), jr.key(1), jr.key(2)), 0.2, (3,)),
        0.2,
    ),
    "one bit": (lambda key: (bits(key) & 1).astype(bool).astype(jnp.float32), 1 / 2),
    "some bits": (lambda key: ((bits(key) & 7) >> 1) < 1, 1 / 4),
    "high bits": (lambda key: (bits(key) >> 4) < 4, 1 / 4),
    "behind a barrier": (lambda key: lax.optimization_barrier(bits(key)) < 64, 1 / 4),
    "whole numbers": (lambda key: (bits(key, "uint32") >> 1).astype(np.int32) < 2**30, 1 / 2),
    "remainder": (lambda key: lax.rem(bits(key, "uint32"), jnp.full(3, 10, np.uint32)) < 3, 0.3),
    "sum": (lambda key: bits(key) + np.uint8(7) < 64, 1 / 4),
    "sum of two": (lambda key: jnp.bitwise_xor(*two(key, bits)) < 64, 1 / 4),
    "odd multiple": (lambda key: bits(key) * np.uint8(3) < 64, 1 / 4),
    "chosen": (lambda key: jnp.where(jr.bernoulli(key, 0.3, (3,)), *two(key, bits)) < 64, 1 / 4),
    "numbers of words": (lambda key: bits(key).astype(jnp.float32) < 64, 1 / 4),
    "uniform below": (lambda key: halves(key) < 0.25, 1 / 4),
    "outside": (lambda key: halves(key) < np.float32([-1, 0, 2]), np.float32([0, 0, 1])),
    "at the end": (lambda key: halves(key) < 1, 1),
    "negative, outside": (lambda key: -halves(key) < np.float32([-2, 0, 1]), np.float32([0, 1, 1])),
    "moved floats": (lambda key: moved_floats(key) < 1.25, 1 / 4),
    "uniform above": (lambda key: halves(key) > 0.25, 3 / 4),
    "limit below uniform": (lambda key: lax.lt(jnp.full(3, 0.25), halves(key)), 3 / 4),
    "negative": (lambda key: -halves(key) < -0.25, 3 / 4),
    "wide": (lambda key: jr.uniform(key, (3,), minval=-1, maxval=3) < 0, 1 / 4),
    "of one value": (lambda key: jr.uniform(key, (3,), minval=0.5, maxval=0.5) < 0.7, 1),
    "scaled": (lambda key: (1 - halves(key)) / 2 < 0.125, 1 / 4),
    "bfloat16": (lambda key: jr.uniform(key, (3,), "bfloat16").astype(jnp.float32) < 0.25, 1 / 4),
    "moved": (lambda key: halves(key)[::-1] < THIRDS, THIRDS),
    "of high resolution": (lambda key: jr.bernoulli(key, 0.25, (3,), mode="high"), 1 / 4),
    "two uniform": (lambda key: lax.lt(*two(key, halves)), 1 / 2),
    "two, one of them wide": (lambda key: 2 * halves(key) >= halves(jr.fold_in(key, 1)), 3 / 4),
    "stacked": (lambda key: jnp.stack(two(key, bits)) < 64, 1 / 4),
    "tiled": (lambda key: jnp.tile(bits(key), 2) < 64, 1 / 4),
    "rows of words": (
        lambda key: lax.scan(lambda n, word: (n, word < 64), 0.0, bits(key))[1],
        1 / 4,
    ),
    "rows of keys": (
        lambda key: lax.scan(lambda n, own: (n, bits(own) < 64), 0.0, jr.split(key))[1],
        1 / 4,
    ),
    "carried beside a number": (lambda key: carried(key)[0][1] < 64, 1 / 4),
    "order": (lambda key: jnp.argsort(halves(key)) < 1, 1 / 3),
    "order of 16 bits": (lambda key: jnp.argsort(bits(key, "uint16")) < 1, 1 / 3),
    "order of bytes": (lambda key: jr.permutation(key, 3).astype(jnp.uint8) < 2, 2 / 3),
    "one for all": (lambda key: jnp.where(jr.bernoulli(key, 0.25), jnp.ones(3), 0), 1 / 4),
    "of a branch": (
        lambda key: jr.bernoulli(
            lax.cond(halves(key)[0] < 0.5, lambda: jr.fold_in(key, 1), lambda: key), 0.2
        ),
        0.2,
    ),
    "branch by a word": (lambda key: lax.cond(bits(key)[0] & 1, lambda: 1.0, lambda: 0.0), 1 / 2),
    "of a loop": (
        lambda key: jr.bernoulli(lax.fori_loop(0, 3, lambda i, own: jr.fold_in(own, i), key), 0.2),
        0.2,
    ),
    "of a choice by a number": (
        lambda key: jnp.where(jr.normal(key, (3,)) > 1, *two(key, bits)) < 64,
        1 / 4,
    ),
    "of a sum with a count": (
        lambda key: bits(key) + jr.bernoulli(key, 0.5, (3,)).sum().astype(np.uint8) < 64,
        1 / 4,
    ),
    "of a while loop": (lambda key: jr.bernoulli(folded(key), 0.2), 0.2),
}


@pytest.mark.parametrize("precision", EXACT)
def test_masks_of_all_kinds_of_draws(precision: str) -> None:
    bodies = {name: body for name, (body, _) in DRAWS.items()}
    exact = {name: (p, p * (1 - p)) for name, (_, p) in DRAWS.items()}
    compare(found(bodies, lambda key: key, precision), exact, atol=1e-4)


def test_the_linear_part_draws_these_masks() -> None:
    """What a mask differs by from its probability is linear in it."""
    # Results of loops and branches have no values in it.
    bodies = {name: body for name, (body, _) in DRAWS.items() if not name.startswith("of a ")}

    def every(key: jax.Array) -> Any:
        return {name: body(key) * 1.0 for name, body in bodies.items()}

    key = jr.key(5)
    y, parts = jax.jit(lambda key: (every(key), mc.linear_part(every)(key)))(key)
    for name in bodies:
        p = DRAWS[name][1]
        np.testing.assert_allclose(
            y[name] - parts[name], np.broadcast_to(p, y[name].shape), atol=1e-4, err_msg=name
        )


H = np.float32([0, 1 / 12])
UNIFORM: dict[str, tuple[Body, Any, Any]] = {
    "itself": (halves, 1 / 2, 1 / 12),
    "from 1 to -1": (lambda key: 1 - 2 * halves(key), 0, 1 / 3),
    "of words": (lambda key: bits(key).astype(jnp.float32) / 256, 1 / 2, 1 / 12),
    "square": (lambda key: halves(key) ** 2, 1 / 3, 4 / 45),
    "inverse": (lambda key: 1 / (1 + halves(key)), math.log(2), 1 / 2 - math.log(2) ** 2),
    "at least a half": (lambda key: jnp.maximum(halves(key), 0.5), 5 / 8, 5 / 192),
    "at most a half": (lambda key: jnp.minimum(0.5, halves(key)), 3 / 8, 5 / 192),
    "difference": (lambda key: lax.sub(*two(key, halves)), 0, 1 / 6),
    "quantile": (lambda key: lax.erf_inv(halves(key)), 1 / math.sqrt(math.pi), 1 / 2 - 1 / math.pi),
    "exponential": (lambda key: -jnp.log1p(-halves(key)), 1, 1),
    "normal": (lambda key: jr.normal(key, (3,)), 0, 1),
    "equal": (lambda key: halves(key) == 0.5, 0, 0),
    "largest of three": (lambda key: jr.normal(key, (3,)).max(), 0.84628, 0.55947),
    "smallest of a window": (
        lambda key: lax.reduce_window(jr.normal(key, (3,)), jnp.inf, lax.min, (3,), (1,), "VALID"),
        -0.84628,
        0.55947,
    ),
    "beside a number": (lambda key: jnp.concatenate([THIRDS[:1] + 0.4, halves(key)[:1]]), 1 / 2, H),
    "padded": (lambda key: jnp.pad(halves(key)[:1], (1, 0), constant_values=0.5), 1 / 2, H),
}


def test_functions_of_uniform_and_normal_numbers() -> None:
    bodies = {name: body for name, (body, *_) in UNIFORM.items()}
    ours = found(bodies, lambda key: key, "diagonal")
    compare(ours, {name: moments for name, (_, *moments) in UNIFORM.items()}, atol=2e-2)


# -- what has no rule


def index(key: Any) -> Any:
    return jr.bernoulli(key, 0.5, (1,)).astype(jnp.int32)


def number(key: Any) -> Any:
    return jr.normal(key, (4,))


def floats(key: Any, places: int, exponent: int) -> Any:
    words = bits(key, "uint32") >> np.uint32(places)
    return lax.bitcast_convert_type(words | np.uint32(exponent), jnp.float32)


def turns(key: Any, length: int) -> Any:
    """Words, which a loop keeps for one turn and then returns."""
    start = jnp.zeros(3, np.uint8)
    return lax.scan(lambda last, own: (bits(own), last), start, jr.split(key, length))[1]


UNKNOWN: dict[str, tuple[Body, str]] = {
    "key": (lambda key: key, "random words of shape ()"),
    "bits": (bits, "random words of shape"),
    "compared words": (lambda key: lax.lt(*two(key, bits)), "random words"),
    "unequal remainders": (
        lambda key: (bits(key, "uint16") % 10) < 3,
        "a comparison of random words",
    ),
    "few words": (
        lambda key: lax.rem(bits(key) & 7, jnp.full(3, 10, np.uint8)) < 1,
        "a comparison",
    ),
    "a bit in the middle": (lambda key: (bits(key) & 2) == 2, "a comparison of random words"),
    "bits that differ by entry": (
        lambda key: bits(key) & jnp.append(jnp.full(2, 7, np.uint8), jnp.full(1, 3, np.uint8)) < 1,
        "a comparison",
    ),
    "no words": (lambda key: (bits(key)[:0] & jnp.full(0, 7, np.uint8)) < 1, "a comparison"),
    "bits with a sign": (
        lambda key: bits(key, "uint32").astype(np.int32) < 64,
        "a comparison",
    ),
    "words of fewer bits": (
        lambda key: bits(key, "uint32").astype(np.uint8) < 64,
        "a comparison",
    ),
    "a sum of few words": (lambda key: (bits(key) & 7) + np.uint8(5) < 7, "a comparison"),
    "words beside a constant": (
        lambda key: jnp.concatenate([np.zeros(1, np.uint8), bits(key)]) < 64,
        "a comparison",
    ),
    "words in a stack with a constant": (
        lambda key: jnp.stack([np.zeros(3, np.uint8), bits(key)]) < 64,
        "a comparison",
    ),
    "padded words": (lambda key: jnp.pad(bits(key), 1) < 64, "a comparison"),
    "words or a constant": (
        lambda key: jnp.where(jr.bernoulli(key, 0.5, (3,)), bits(key), np.uint8(0)) < 64,
        "a comparison",
    ),
    "floats from 2 to 4": (lambda key: floats(key, 9, 0x40000000), "floats that"),
    "floats of few digits": (lambda key: floats(key, 10, 0x3F800000), "floats that"),
    "a random table": (
        lambda key: number(key)[index(jr.fold_in(key, 1))],
        "an index or a position",
    ),
    "sorted by two": (
        lambda key: lax.sort((*two(key, bits), jnp.arange(3, dtype=np.uint8)), num_keys=2)[2] < 1,
        "a comparison",
    ),
    "windows of two arrays": (
        lambda key: lax.reduce_window(
            two(key, index),
            (1, 1),
            lambda a, b: (a[0] & b[0], a[1] & b[1]),
            (1,),
            (1,),
            "SAME",
        ),
        "a function of a window",
    ),
    "window of several steps": (
        lambda key: lax.reduce_window(number(key), 0.0, lambda a, b: a * b + a, (2,), (1,), "SAME"),
        "a function of a window",
    ),
    "first of a window": (
        lambda key: lax.reduce_window(number(key), 0.0, lambda a, b: a, (2,), (1,), "SAME"),
        "a function of a window",
    ),
    "words of the turn before, beside a number": (
        lambda key: (
            lax.scan(
                lambda last, own: ((last[0] + 1.0, bits(own)), last[1]),
                (0.0, jnp.zeros(3, np.uint8)),
                jr.split(key),
            )[1]
            < 3
        ),
        "a comparison of random words",
    ),
    "floats": (
        lambda key: lax.bitcast_convert_type(bits(key, "uint32"), jnp.float32),
        "floats that",
    ),
    "sorted": (lambda key: lax.sort((halves(key), number(key)[:3]))[1], "sorted by random words"),
    "position": (lambda key: lax.dynamic_slice(jnp.arange(3.0), index(key), (1,)), "dynamic_slice"),
    "scattered": (lambda key: jnp.zeros(3).at[index(key)].add(1.0), "an index (scatter)"),
    "dilated": (
        lambda key: lax.reduce_window(
            number(key), -jnp.inf, lax.max, (2,), (1,), "SAME", None, (2,)
        ),
        "a dilated window",
    ),
    "window": (
        lambda key: lax.reduce_window(number(key), 1.0, lax.mul, (2,), (1,), "SAME"),
        "a function of a window",
    ),
    "rejection": (
        lambda key: lax.while_loop(lambda x: x < 1, lambda x: x + number(key)[0], 0.0),
        "a while loop",
    ),
    "bits of a count": (lambda key: (number(key) > 0).sum() & 1, "whole numbers that and makes"),
    "half of a count": (lambda key: (number(key) > 0).sum() // 2, "whole numbers that"),
    "bits of a sum": (
        lambda key: lax.population_count((number(key) > 0).sum()),
        "whole numbers that population_count",
    ),
    "branch by many words": (
        lambda key: lax.switch(bits(key)[0].astype(jnp.int32), [lambda: 1.0, lambda: 2.0]),
        "a choice of a branch",
    ),
    "words of the turn before": (lambda key: turns(key, 2) < 3, "a comparison of random words"),
    "largest place": (lambda key: jnp.argmax(halves(key)), "the place of the largest"),
    "largest power": (lambda key: jnp.argmax(halves(key) ** 2), "the place of the largest"),
    **{
        name: (lambda key, words=words: words(key) < 64, "a comparison of random words")
        for name, words in {
            "one or the other": lambda key: jnp.bitwise_or(*two(key, bits)),
            "one and the other": lambda key: jnp.bitwise_and(*two(key, bits)),
            "product": lambda key: jnp.multiply(*two(key, bits)),
            "double": lambda key: bits(key) + bits(key),
            "even multiple": lambda key: bits(key) * np.uint8(6),
            "shifted to the left": lambda key: bits(key) << np.uint8(1),
            "of two ranges": lambda key: jnp.append(bits(key), bits(key) >> 1),
        }.items()
    },
    "large": (lambda key: jnp.sort(jr.normal(key, (4097,))), "4097 random entries"),
    "shards": (
        lambda key: jax.shard_map(
            jnp.sin,
            mesh=jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,)),
            in_specs=PartitionSpec("i"),
            out_specs=PartitionSpec("i"),
        )(number(key)),
        "a function on parts of arrays",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_rule(name: str) -> None:
    fn, message = UNKNOWN[name]
    with pytest.raises(NotImplementedError, match=rf"{re.escape(message)}[^$]*\n1\. sample"):
        mc.analytic(fn)()
    if name != "shards":
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            mc.analytic(fn, precision="linearized")()


def test_a_random_number_for_several_entries() -> None:
    """Taken to be one for each entry by `diagonal`, as everything is."""

    def fn(key: jax.Array) -> jax.Array:
        return jnp.broadcast_to(halves(key)[:1], (3,)) < 0.25

    np.testing.assert_allclose(mc.analytic(fn)().mean, 3 * [0.25])
    with pytest.raises(NotImplementedError, match="a random number for several entries"):
        mc.analytic(fn, precision="linearized")()


def test_the_linear_part_of_words_that_numbers_choose() -> None:
    def by_two(key: jax.Array) -> jax.Array:
        return jnp.where(jnp.less(*two(key, number))[:3], *two(key, bits)) < 64

    for fn in (DRAWS["of a choice by a number"][0], DRAWS["of a sum with a count"][0], by_two):
        with pytest.raises(NotImplementedError, match="random words that are made of random numb"):
            mc.linear_part(lambda key, fn=fn: fn(key) * 1.0)(jr.key(0))


def test_limits_that_are_arguments() -> None:
    """They are not known while the rules run: those of uniform numbers, and of a maximum."""
    x = np.float32([-1.0, 0.0, 0.4])

    def fn(key: jax.Array, x: jax.Array) -> Any:
        keys = jr.split(key, 4)
        return {
            "mask": jr.uniform(keys[0], (3,), minval=x, maxval=x + 2) < 1.0,
            "cut": jr.truncated_normal(keys[1], x, x + 2),
            "one side": jnp.maximum(jr.normal(keys[2], (3,)), x[0]),
            "known": jr.uniform(keys[3], (3,), minval=-1.0, maxval=2.0) < x,
        }

    found = mc.analytic(fn, in_axes=None)(x)
    at = stats.norm.pdf(1), stats.norm.cdf(1)
    second = at[1] - at[0] + 1 - at[1]  # of the larger of -1 and a normal number
    cut = stats.truncnorm(x, x + 2)
    exact = {
        "mask": ((1 - x) / 2, (1 - x**2) / 4),
        "cut": (cut.mean(), cut.var()),
        "one side": (at[0] + at[1] - 1, second - (at[0] + at[1] - 1) ** 2),
        "known": ((1 + x) / 3, (1 + x) * (2 - x) / 9),
    }
    compare({name: (found.mean[name], found.variance[name]) for name in exact}, exact, atol=1e-3)


def test_comparisons_of_counts() -> None:
    """Whole numbers that are equal often: of 400 coins, against the binomial distribution."""
    limit, other = np.int32([180, 200, 215]), 300

    def draw(key: jax.Array) -> Any:
        return (jr.bernoulli(key, 0.5, (400, 1)) + jnp.zeros((1, 3), jnp.int32)).sum(0)

    def fn(key: jax.Array) -> Any:
        n = draw(key)
        m = jr.bernoulli(jr.fold_in(key, 1), 2 / 3, (other, 1)).sum(0)
        return {name: (f(n, jnp.asarray(limit)), f(n[:1], m)) for name, f in ORDERS.items()}

    found = mc.analytic(fn)()
    values = np.arange(401)
    one = stats.binom(400, 0.5).pmf(values)
    joint = one[:, None] * stats.binom(other, 2 / 3).pmf(values[: other + 1])
    for name in ORDERS:
        order = getattr(
            np,
            {
                "lt": "less",
                "le": "less_equal",
                "gt": "greater",
                "ge": "greater_equal",
                "eq": "equal",
                "ne": "not_equal",
            }[name],
        )
        exact = one @ order(values[:, None], limit)
        both = (joint * order(values[:, None], values[: other + 1])).sum()
        np.testing.assert_allclose(found.mean[name][0], exact, atol=2e-3, err_msg=name)
        np.testing.assert_allclose(found.mean[name][1], [both], atol=2e-3, err_msg=name)


def test_what_is_drawn_twice_is_one_draw() -> None:
    """By `linearized`, also from limits and words that are computed again; other limits, other
    words and other keys make other masks.
    """

    def part(key: jax.Array, place: int) -> Any:
        return jnp.split(jr.uniform(key, (6,)), 2)[place]

    def masks(key: jax.Array) -> list[Any]:
        other, order = jr.fold_in(key, 1), jr.permutation(key, 3)
        return [
            [bits(own) < limit for own, limit in ((key, 64), (key, 64), (key, 65), (other, 64))],
            [
                jr.bernoulli(own, p, (3,))
                for own, p in ((key, 0.3), (key, 0.3), (key, 0.4), (other, 0.3))
            ],
            [order < 1, order < 1, order < 2, jr.permutation(other, 3) < 1],
            [part(key, 0) < 0.3, part(key, 0) < 0.3, part(key, 1) < 0.3, part(other, 0) < 0.3],
        ]

    def fn(key: jax.Array) -> Any:
        return [[1.0 * first - each for each in rest] for first, *rest in masks(key)]

    found = mc.analytic(fn, precision="linearized")()
    p = [np.array([64, 65, 64]) / 256, np.array([0.3, 0.4, 0.3])]
    p += [np.array([1, 2, 1]) / 3, np.full(3, 0.3)]
    for variances, own in zip(found.variance, p, strict=True):
        assert not np.any(variances[0])
        spread = own * (1 - own)
        for each, exact in zip(variances[1:], spread[0] + spread[1:], strict=True):
            np.testing.assert_allclose(each, 3 * [exact], rtol=1e-4)


def test_long_loops_with_covariances() -> None:
    for length, message in ((512, "a comparison of random words"), (513, "a loop of 513 turns")):
        with pytest.raises(NotImplementedError, match=message):
            mc.analytic(lambda key, n=length: turns(key, n) < 3, precision="linearized")()


FACTORS = np.int32([0, 1, 2])


def test_whole_numbers_beside_random_ones() -> None:
    """What takes one value where the means are, whatever the masks: it is listed."""

    def fn(key: jax.Array, x: jax.Array) -> Any:
        b = jr.bernoulli(key, CHANCES)
        y = x + b
        return {
            "place": jnp.argmax(y, 1),
            "case": lax.select_n(b.astype(jnp.int32).sum(0) * FACTORS, V, 2 * V, 4 * V),
            "half": b.astype(jnp.uint32).sum(1) >> np.uint32(1),
            "less its maximum": y - y.max(1, keepdims=True),
            "branch": lax.cond(x[0, 0] > 0, lambda: (y[0], 2 * x[0]), lambda: (x[0], y[0])),
            "known": lax.switch(
                x[0, 1].astype(int), [lambda own=i: (y, own * x) for i in range(4)]
            )[1],
        }

    x, spread = np.float32([[1, 2, 9], [9, 1, 1]]), CHANCES * (1 - CHANCES)
    # The case at the mean, or the last one; and half of the mean number of each row.
    means = {"case": V * np.float32([1, 2, 4]), "half": CHANCES.sum(1) / 2}
    variances = {"case": 0 * V, "half": spread.sum(1) / 4, "less its maximum": spread}
    for precision in ("diagonal", "linearized", "enumerated"):
        found = mc.analytic(fn, precision=precision, in_axes=None)(x)
        np.testing.assert_array_equal(found.mean["place"], [2, 0])
        assert not found.variance["place"].any()
        np.testing.assert_allclose(found.mean["branch"][0], x[0] + CHANCES[0], rtol=1e-5)
        np.testing.assert_array_equal(found.mean["branch"][1], 2 * x[0])
        np.testing.assert_array_equal(found.mean["known"], 2 * x)
        np.testing.assert_allclose(found.variance["branch"][0], spread[0], rtol=1e-4)
        assert not found.variance["branch"][1].any()
        assert len(found.linearized) == 2
        if precision == "diagonal":
            for name, mean in means.items():
                np.testing.assert_allclose(found.mean[name], mean, rtol=1e-5, err_msg=name)
            for name, own in variances.items():
                np.testing.assert_allclose(found.variance[name], own, rtol=1e-4, err_msg=name)
        alone = mc.analytic(
            lambda key: fn(key, jnp.asarray(x))["place"],
            precision=precision,
            allow_deterministic=True,
        )()
        np.testing.assert_array_equal(alone.mean, [2, 0])


def test_closed_forms_have_derivatives_where_nothing_varies() -> None:
    """As in a max pool over a channel that a ReLU has switched off. `linearized` differentiates
    means in variances.
    """

    def derivatives(mean: Any, variance: Any) -> Any:
        forms: dict[str, Callable[[Any, Any], Any]] = {
            "at_least": lambda m, v: _gaussian.at_least(m, v, 0.0),
            "maximum": lambda m, v: _gaussian.maximum(m, v, 0.0, v),
            "compared": lambda m, v: _gaussian.compared(
                "gt", False, Moments(m, v), Moments(0.0 * m, v)
            ),
            "square": _gaussian.square,
            "power": lambda m, v: _gaussian.power(m, v, 0.5),
            "inverse_power": lambda m, v: _gaussian.inverse_power(m, v, -1),
            "logarithm": lambda m, v: _gaussian.logarithm(jnp.abs(m) + 1, v),
        }
        return {
            name: jax.grad(lambda m, v, form=form: form(m, v).mean, (0, 1))(mean, variance)
            for name, form in forms.items()
        }

    means = jnp.array([-3.0, 0.0, 2.0])
    for name, found in jax.jit(jax.vmap(derivatives, (0, None)))(means, 0.0).items():
        for each in found:
            none = (means <= 0) & name.endswith("power")  # as of the plain function
            assert (np.isfinite(np.asarray(each)) | none).all(), name
