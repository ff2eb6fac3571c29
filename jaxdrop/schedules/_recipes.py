"""Schedules that papers publish."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks

Count = int | float | jax.Array | np.ndarray
Schedule = Callable[[Count], float | jax.Array]


@_checks.hinted
def constant(rate: float) -> Schedule:
    """`rate` at every step: `optax.constant_schedule`, with the rate checked.

    It stays a Python number: at 0 and 1 nothing is drawn.

    Args:
      rate: a number in [0, 1].

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1].
    """
    rate = _rate("rate", rate)
    return lambda count: rate


@_checks.hinted
def linear(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`start + (end - start) f`, with `f = (count - begin) / steps` held within [0, 1].

    Args:
      start: the rate up to step `begin`.
      end: the rate from step `begin + steps` on.
      steps: how many steps the change takes, at least 1.
      begin: when it begins.

    Raises:
      TypeError, ValueError: a rate is not a number in [0, 1]; a step is not an integer, or too
        small.
    """
    start, end = _rate("start", start), _rate("end", end)
    fraction = _fraction(steps, begin)
    return lambda count: _between(start, end, fraction(count))


@_checks.hinted
def cosine(start: float, end: float, steps: int, *, begin: int = 0) -> Schedule:
    """`start + (end - start) (1 - cos(pi f)) / 2`, with `f` as in `linear`: slow at both ends, up
    or down.

    Downward and from step 0 it is `optax.cosine_decay_schedule(start, steps, alpha=end / start)`.

    Args and Raises: as `linear`.

    References:
      Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2016,
      arXiv:1608.03983, for the shape.
    """
    start, end = _rate("start", start), _rate("end", end)
    fraction = _fraction(steps, begin)
    return lambda count: _between(
        start, end, 0.5 - 0.5 * jnp.cos(np.float32(math.pi) * fraction(count))
    )


@_checks.hinted
def cyclic(start: float, turn: float, period: int) -> Schedule:
    """From `start` linearly to `turn` in half a period, back in the other half, and so on.

    `cyclic(rate, 0, steps)` over a training of `steps` steps is the V of scheduled DropHead.

    Args:
      start: the rate at 0, `period`, `2 period`, ...
      turn: the rate in the middle between them.
      period: in steps, at least 2.

    Raises:
      TypeError, ValueError: a rate is not a number in [0, 1]; `period` is not an integer, or too
        small.

    References:
      Smith, "Cyclical learning rates for training neural networks", 2015, arXiv:1506.01186, for the
      shape. Zhou et al., "Scheduled DropHead: a regularization method for transformer models",
      2020, arXiv:2004.13342, for the V.
    """
    start, turn = _rate("start", start), _rate("turn", turn)
    period = _steps("period", period, least=2)

    def schedule(count: Count) -> jax.Array:
        phase = (_count(count) % period).astype(jnp.float32) / np.float32(period)
        return _between(start, turn, 1 - jnp.abs(2 * phase - 1))

    return schedule


@_checks.hinted
def early(rate: float, cutoff: int, *, decay: bool = False) -> Schedule:
    """Early dropout: `rate` for the first `cutoff` steps, and 0 from then on.

    From `cutoff` on a mask keeps everything and its scale is 1: the values are those of a model
    without dropout, bit for bit.

    Args:
      rate: a number in [0, 1].
      cutoff: the first step without dropout, at least 1 (with `decay`, 2).
      decay: fall linearly, from `rate` at step 0 to 0 at step `cutoff - 1`.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1]; `cutoff` is not an integer, or too
        small.

    References:
      Liu, Xu, Jin, Shen & Darrell, "Dropout reduces underfitting", 2023, arXiv:2303.01500: rate 0.1
      (0.5 for stochastic depth), for 50 of 300 epochs.
    """
    if _checks.check_flag(decay, "decay"):
        return linear(rate, 0.0, _steps("cutoff", cutoff, least=2) - 1)
    return _switch(_rate("rate", rate), 0.0, _steps("cutoff", cutoff))


@_checks.hinted
def late(rate: float, cutoff: int) -> Schedule:
    """Late dropout: 0 for the first `cutoff` steps, and `rate` from then on.

    Args:
      rate: a number in [0, 1].
      cutoff: the first step with dropout, at least 1.

    Raises and References: as `early`; 0.4 for the stochastic depth of ViT-B, from epoch 50 of 300.
    """
    return _switch(0.0, _rate("rate", rate), _steps("cutoff", cutoff))


@_checks.hinted
def curriculum(rate: float, gamma: float) -> Schedule:
    """Curriculum dropout: `rate (1 - exp(-gamma count))`, from 0 towards `rate`.

    In terms of keeping, as the paper has it: `(1 - k) exp(-gamma count) + k` with `k = 1 - rate`.

    Args:
      rate: a number in [0, 1], the limit. The authors have 0.1 for the input, 0.25 after
        convolutions, 0.5 in dense layers.
      gamma: per step, above 0. The authors' code takes 1e-3 and 1e-4; `10 / steps` gets to within
        5e-5 of the limit in `steps`.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `gamma` not a positive one.

    References:
      Morerio, Cavazza, Volpi, Vidal & Murino, "Curriculum dropout", 2017, arXiv:1703.06229.
    """
    remaining = annealed(1.0, gamma)
    rate = _rate("rate", rate)
    return lambda count: rate * (1 - remaining(count))


@_checks.hinted
def annealed(rate: float, gamma: float) -> Schedule:
    """Annealed dropout: `rate exp(-gamma count)`, from `rate` towards 0.

    It is `optax.exponential_decay(rate, 1, exp(-gamma))`. For a fall that ends, `linear(rate, 0,
    steps)`.

    Args:
      rate: a number in [0, 1], at step 0.
      gamma: per step, above 0.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `gamma` not a positive one.

    References:
      Rennie, Goel & Thomas, "Annealed dropout training of deep networks", 2014; in the form that
      Morerio et al., "Curriculum dropout", 2017, arXiv:1703.06229, compare with.
    """
    rate = _rate("rate", rate)
    speed = np.float32(_gamma(gamma))
    return lambda count: rate * jnp.exp(-speed * jnp.maximum(_count(count), 0).astype(jnp.float32))


@_checks.hinted
def dropblock(rate: float, steps: int, *, group: int = 4) -> Schedule:
    """DropBlock's schedule: linear from 0 to `rate / 4**(4 - group)` within `steps` steps.

    In terms of keeping, as its code has it: `k(t) = 1 - (1 - k) t / T`, and `1 - (1 - k(t)) / 4**(4
    - group)` for a group of blocks.

    Args:
      rate: a number in [0, 1]; 0.1 in the paper's ResNet-50.
      steps: of the whole training, at least 1.
      group: of the four groups of residual blocks of a ResNet, 1 to 4. The paper drops in groups 3
        and 4.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1]; `steps` is not a positive integer;
        `group` is not 1, 2, 3 or 4.

    References:
      Ghiasi, Lin & Le, "DropBlock: a regularization method for convolutional networks", 2018,
      arXiv:1810.12890.
    """
    if _checks.check_integer(group, "group") not in (1, 2, 3, 4):
        got = _checks.quoted(group)
        raise ValueError(
            f"group must be 1, 2, 3 or 4, got {got}: the groups of residual blocks of a ResNet,"
            " first to last."
        )
    return linear(0.0, _rate("rate", rate) / 4 ** (4 - group), steps)


@_checks.hinted
def scheduled_drop_path(rate: float, steps: int) -> Schedule:
    """ScheduledDropPath: linear from 0 to `rate` within `steps` steps, for the last cell of a
    network.

    `jaxdrop.depth_rates(schedule(count), num_cells, rule="paper")` gives the rates of all cells:
    `rate (cell / num_cells) (count / steps)`, with cells numbered from 1. That is version 3 of
    NASNet's code; this schedule alone is its version 1, `depth_rates` alone version 2.

    Args:
      rate: a number in [0, 1].
      steps: of the whole training, at least 1.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `steps` not a positive integer.

    References:
      Zoph, Vasudevan, Shlens & Le, "Learning transferable architectures for scalable image
      recognition", 2017, arXiv:1707.07012.
    """
    return linear(0.0, _rate("rate", rate), steps)


def _switch(before: float, after: float, step: int) -> Schedule:
    return lambda count: jnp.where(_count(count) < step, np.float32(before), np.float32(after))


def _fraction(steps: int, begin: int) -> Callable[[Count], jax.Array]:
    """How much of a change is done: exactly 0 up to `begin`, exactly 1 from `begin + steps` on."""
    steps, begin = _steps("steps", steps), _steps("begin", begin, least=0)

    def fraction(count: Count) -> jax.Array:
        done = jnp.clip(_count(count), begin, begin + steps) - begin
        # XLA may multiply by the inverse of `steps` instead, and not get 1.
        return jnp.where(done < steps, done.astype(jnp.float32) / np.float32(steps), np.float32(1))

    return fraction


def _count(count: Count) -> jax.Array:
    """The number of steps taken so far, as an array."""
    array = jnp.asarray(_checks.check_array(count, "count"))
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(
            f"count must be the number of steps taken so far, got {_checks.quoted(count)}"
        )
    return array


def _between(start: float, end: float, fraction: jax.Array) -> jax.Array:
    """A weighted mean, which rounding does not take beyond its ends."""
    low, high = sorted((np.float32(start), np.float32(end)))
    return jnp.clip((1 - fraction) * start + fraction * end, low, high)


def _rate(name: str, rate: Any) -> float:
    """A rate that is known now."""
    return _checks.check_known_rate(
        rate, name, "multiply the schedule's value by an array, or by a traced number, instead."
    )


def _gamma(gamma: Any) -> float:
    _checks.check_not_traced(gamma, "gamma")
    meaning = " It is how fast the rate changes per step, 10 / steps for example."
    known = _checks.check_number(gamma, "gamma", meaning=meaning, above=True)
    if not isinstance(known, float):
        raise TypeError(f"gamma must be one number, got {_checks.quoted(gamma)}")
    return known


def _steps(name: str, steps: Any, *, least: int = 1) -> int:
    return _checks.check_count(
        steps, name, least=least, most=2**31 - 1, kind="an integer number of steps"
    )
