"""Schedules for rates that set shapes."""

from __future__ import annotations

from collections.abc import Callable

from jaxdrop import _checks
from jaxdrop.schedules._counts import Count, Schedule, known_rate, step_of, whole_steps


@_checks.hinted
def in_stages(schedule: Schedule, steps: int, stages: int) -> Callable[[Count], float]:
    """A schedule that is constant in each of `stages` equally long stages, as a Python number.

    A rate that sets a shape (`dropout_mlp`, `drop_path_add`, `random_ltd`, `token_dropout`) is
    static: each of its values compiles a program. A schedule in stages has at most `stages`
    values:

        rate = schedules.in_stages(schedules.linear(0.5, 0.0, 10_000), 10_000, stages=6)

        @functools.partial(jax.jit, static_argnames="rate")
        def step(params, batch, key, rate): ...

        for count in range(20_000):
            params = step(params, batches[count], step_key(key, count), rate=rate(count))

    In stage `i` of `stages` the rate is `schedule(steps i / (stages - 1))`, so that the first and
    the last stage have the first and the last rate of the schedule. From step `steps` on, the last
    stage lasts.

    Args:
      schedule: any schedule of this module or of Optax.
      steps: the number of steps that the stages take, at least `stages`.
      stages: how many there are, at least 2.

    Returns:
      A function from a count of steps, which may not be traced, to a rate.

    Raises:
      TypeError: `schedule` is no function; `steps` or `stages` is no integer; later, a count is
        traced.
      ValueError: there are more stages than steps, or fewer than 2; a rate is outside [0, 1].
    """
    _checks.check_callable(schedule, "schedule", "a count of steps")
    stages = step_of("stages", stages, least=2)
    steps = step_of("steps", steps, least=stages)
    rates = [
        known_rate("schedule", schedule(steps * stage // (stages - 1))) for stage in range(stages)
    ]

    def staged(count: Count) -> float:
        stage = stages * max(whole_steps(count), 0) // steps
        return rates[min(stage, stages - 1)]

    return staged
