"""Dropout around a recurrent cell of any framework.

A framework gives `run` its loop over time and its cell, and calls the hooks inside the cell. This
package decides on rates, keys, time and padding. A mask is a function of (key, site, gate, step)
and of the position in an array without the time axis: it depends neither on the length of a
sequence nor on its padding.
"""

from jaxdrop.functional.recurrent._arguments import (
    check_settings,
    checked_carry,
    checked_inputs,
    flag,
)
from jaxdrop.functional.recurrent._rates import (
    GRU,
    LSTM,
    MGU,
    SIMPLE,
    Family,
    Rates,
    check_between,
    family_of,
    in_call,
    is_zero,
)
from jaxdrop.functional.recurrent._run import (
    Body,
    Carry,
    Cell,
    Drop,
    Hooks,
    Loop,
    Plan,
    Policy,
    Site,
    directed,
    fold,
    on_candidate,
    over_time,
    run,
)
from jaxdrop.functional.recurrent._stacks import Layer, stack
from jaxdrop.functional.recurrent._time import spec_of_steps, time_axis_of

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "SIMPLE",
    "Body",
    "Carry",
    "Cell",
    "Drop",
    "Family",
    "Hooks",
    "Layer",
    "Loop",
    "Plan",
    "Policy",
    "Rates",
    "Site",
    "check_between",
    "check_settings",
    "checked_carry",
    "checked_inputs",
    "directed",
    "family_of",
    "flag",
    "fold",
    "in_call",
    "is_zero",
    "on_candidate",
    "over_time",
    "run",
    "spec_of_steps",
    "stack",
    "time_axis_of",
]
