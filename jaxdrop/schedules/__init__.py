"""Rates that change during training: functions of the step, in Optax's form `schedule(count) ->
rate`.

`count` is the number of steps taken so far: a Python number or a traced one. Pass the value of a
schedule as the rate of a function or a module. One compiled step serves all counts:

    schedule = schedules.early(0.1, cutoff=10_000)

    @jax.jit
    def step(params, batch, key, count):
        ... jaxdrop.dropout(key, x, schedule(count)) ...

Any function of a count is a schedule, so these mix with Optax's, as in
`optax.join_schedules([constant(0.1), linear(0.1, 0.5, 1000)], [500])`, and `lambda count:
schedule(count % period)` repeats a schedule. Unlike Optax's, these reach their first and last rates
exactly, however XLA rounds (`optax.linear_schedule(0.5, 0.0, 10)` ends at -7e-9 under `jit`), and
take integer counts under strict dtype promotion.
"""

from jaxdrop.schedules._counts import Count, Schedule
from jaxdrop.schedules._ramps import constant, cosine, cyclic, linear
from jaxdrop.schedules._recipes import (
    annealed,
    curriculum,
    dropblock,
    early,
    late,
    layer_skip,
    scheduled_drop_path,
)
from jaxdrop.schedules._stages import in_stages

__all__ = [
    "Count",
    "Schedule",
    "annealed",
    "constant",
    "cosine",
    "curriculum",
    "cyclic",
    "dropblock",
    "early",
    "in_stages",
    "late",
    "layer_skip",
    "linear",
    "scheduled_drop_path",
]


def __dir__() -> list[str]:
    return __all__
