"""Schedules from papers, by their names there."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks, _shapes
from jaxdrop._references import cites
from jaxdrop.schedules._counts import (
    Schedule,
    between,
    fraction_of,
    known_rate,
    speed_of,
    step_of,
    steps_taken,
    switch,
)
from jaxdrop.schedules._ramps import linear


@cites("liu2023dropout")
@_checks.hinted
def early(rate: float, cutoff: int, *, decay: bool = False) -> Schedule:
    """Early dropout: `rate` for the first `cutoff` steps, and 0 from then on.

    From `cutoff` on a mask keeps all entries and the scale is 1: the outputs are those of a model
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
        return linear(rate, 0.0, step_of("cutoff", cutoff, least=2) - 1)
    return switch(known_rate("rate", rate), 0.0, step_of("cutoff", cutoff))


@_checks.hinted
def late(rate: float, cutoff: int) -> Schedule:
    """Late dropout: 0 for the first `cutoff` steps, and `rate` from then on.

    Args:
      rate: a number in [0, 1].
      cutoff: the first step with dropout, at least 1.

    Raises and References: as `early`; 0.4 for the stochastic depth of ViT-B, from epoch 50 of 300.
    """
    return switch(0.0, known_rate("rate", rate), step_of("cutoff", cutoff))


@cites("morerio2017curriculum")
@_checks.hinted
def curriculum(rate: float, gamma: float) -> Schedule:
    """Curriculum dropout: `rate (1 - exp(-gamma count))`, from 0 towards `rate`.

    The paper has the probability of keeping: `(1 - k) exp(-gamma count) + k` with `k = 1 - rate`.

    Args:
      rate: a number in [0, 1], the limit. The authors have 0.1 for the input, 0.25 after
        convolutions, 0.5 in dense layers.
      gamma: the speed, per step, above 0. The authors' code has 1e-3 and 1e-4. With `10 / steps`
        the rate is within 5e-5 of the limit after `steps` steps.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `gamma` not a positive one.

    References:
      Morerio, Cavazza, Volpi, Vidal & Murino, "Curriculum dropout", 2017, arXiv:1703.06229.
    """
    remaining = annealed(1.0, gamma)
    rate = known_rate("rate", rate)
    return lambda count: rate * (1 - remaining(count))


@cites("rennie2014annealed", "morerio2017curriculum")
@_checks.hinted
def annealed(rate: float, gamma: float) -> Schedule:
    """Annealed dropout: `rate exp(-gamma count)`, from `rate` towards 0.

    It is `optax.exponential_decay(rate, 1, exp(-gamma))`. A schedule that reaches 0 is
    `linear(rate, 0, steps)`.

    Args:
      rate: a number in [0, 1], at step 0.
      gamma: the speed, per step, above 0.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `gamma` not a positive one.

    References:
      Rennie, Goel & Thomas, "Annealed dropout training of deep networks", 2014; in the form that
      Morerio et al., "Curriculum dropout", 2017, arXiv:1703.06229, compare with.
    """
    rate = known_rate("rate", rate)
    speed = np.float32(speed_of(gamma))
    return lambda count: (
        rate * jnp.exp(-speed * jnp.maximum(steps_taken(count), 0).astype(jnp.float32))
    )


@cites("ghiasi2018dropblock")
@_checks.hinted
def dropblock(rate: float, steps: int, *, group: int = 4) -> Schedule:
    """DropBlock's schedule: linear from 0 to `rate / 4**(4 - group)` within `steps` steps.

    The authors' code has the probability of keeping: `k(t) = 1 - (1 - k) t / T`, and `1 - (1 -
    k(t)) / 4**(4 - group)` for a group of blocks.

    Args:
      rate: a number in [0, 1]; 0.1 in the paper's ResNet-50.
      steps: the number of steps of the whole training, at least 1.
      group: the number, 1 to 4, of a group of residual blocks of a ResNet. The paper drops in
        groups 3 and 4.

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
    return linear(0.0, known_rate("rate", rate) / 4 ** (4 - group), steps)


@cites("zoph2018learning")
@_checks.hinted
def scheduled_drop_path(rate: float, steps: int) -> Schedule:
    """ScheduledDropPath: linear from 0 to `rate` within `steps` steps, for the last cell of a
    network.

    `jaxdrop.depth_rates(schedule(count), num_cells, rule="paper")` gives the rates of all cells:
    `rate (cell / num_cells) (count / steps)`, with cells numbered from 1. That is version 3 of
    NASNet's code; this schedule alone is its version 1, `depth_rates` alone version 2.

    Args:
      rate: a number in [0, 1].
      steps: the number of steps of the whole training, at least 1.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], or `steps` not a positive integer.

    References:
      Zoph, Vasudevan, Shlens & Le, "Learning transferable architectures for scalable image
      recognition", 2017, arXiv:1707.07012.
    """
    return linear(0.0, known_rate("rate", rate), steps)


@cites("elhoushi2024layerskip")
@_checks.hinted
def layer_skip(rate: float, steps: int, *, shape: _shapes.Shape = "exp") -> Schedule:
    """LayerSkip's schedule of layer dropout: `rate (2**(count / steps) - 1)`, from 0 to `rate`
    within `steps` steps.

    `jaxdrop.depth_rates(schedule(count), num_layers, rule="exp")` gives the rates of all layers,
    `rate (2**(i / (n - 1)) - 1) (2**(count / steps) - 1)`: the paper's `p_max D(l) S(t)` for
    training from scratch. For continued training and fine-tuning it has `S(t) = 1`, which is
    `constant(rate)`. Progressive layer dropping (arXiv:2010.13369) keeps a layer with a probability
    that falls from 1 towards `k`: `curriculum(1 - k, gamma)`, with the rule `paper`.

    Args:
      rate: a number in [0, 1], that of the last layer at the end.
      steps: how many steps the rise takes, at least 1: those of the whole training.
      shape: `'exp'`, or another shape of `jaxdrop.depth_rates` by its formula there, in `count` for
        `i` and `steps` for `n - 1`: `'linear'`, `'log'`, `'sin'`, `'sigmoid'`, `'step'`.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1], `steps` not a positive integer, or
        `shape` unknown.

    References:
      Elhoushi et al., "LayerSkip: enabling early exit inference and self-speculative decoding",
      2024, arXiv:2404.16710. The other shapes: torchtune, `modules/layer_dropout.py`.
    """
    rate, fraction = known_rate("rate", rate), fraction_of(steps, 0)
    _checks.check_one_of(shape, "shape", _shapes.Shape)
    return lambda count: between(0.0, rate, _shapes.risen(shape, fraction(count), steps, jnp))
