"""Every check of an argument, once. A message names the argument as the caller knows it, quotes the
value, and says what to do.

`name` is that of the argument in the function that checks it. A layer, or a function that calls
another one, has names of its own for what it hands on: within `renamed(x="inputs")` the messages
speak of `inputs`.
"""

from jaxdrop._checks._arrays import (
    broadcasts,
    can_be_array,
    check_array,
    check_features,
    check_float_dtype,
    check_ids,
    check_inexact,
    check_real,
    check_shape,
    check_unmasked,
    is_key,
    is_real,
    known,
    unwrapped,
)
from jaxdrop._checks._facts import (
    Check,
    Facts,
    at_least,
    axis,
    facts,
    facts_of,
    one_of,
    one_rate,
    optional,
)
from jaxdrop._checks._keys import check_key, check_keys, consume_key
from jaxdrop._checks._messages import check_not_traced, quoted, renamed, shown
from jaxdrop._checks._numbers import (
    Rate,
    check_known_rate,
    check_number,
    check_numbers,
    check_one_rate,
    check_parameter,
    check_rate,
    check_rate_shape,
)
from jaxdrop._checks._offsets import check_offset
from jaxdrop._checks._settings import (
    LONGEST,
    axis_numbers,
    check_axis,
    check_broadcast_dims,
    check_callable,
    check_count,
    check_flag,
    check_integer,
    check_integer_or_array,
    check_integers,
    check_one_of,
    check_text,
)
from jaxdrop._checks._signatures import check_fit, hint_methods, hinted
from jaxdrop._checks._sites import Site, check_site, check_spec

__all__ = [
    "LONGEST",
    "Check",
    "Facts",
    "Rate",
    "Site",
    "at_least",
    "axis",
    "axis_numbers",
    "broadcasts",
    "can_be_array",
    "check_array",
    "check_axis",
    "check_broadcast_dims",
    "check_callable",
    "check_count",
    "check_features",
    "check_fit",
    "check_flag",
    "check_float_dtype",
    "check_ids",
    "check_inexact",
    "check_integer",
    "check_integer_or_array",
    "check_integers",
    "check_key",
    "check_keys",
    "check_known_rate",
    "check_not_traced",
    "check_number",
    "check_numbers",
    "check_offset",
    "check_one_of",
    "check_one_rate",
    "check_parameter",
    "check_rate",
    "check_rate_shape",
    "check_real",
    "check_shape",
    "check_site",
    "check_spec",
    "check_text",
    "check_unmasked",
    "consume_key",
    "facts",
    "facts_of",
    "hint_methods",
    "hinted",
    "is_key",
    "is_real",
    "known",
    "one_of",
    "one_rate",
    "optional",
    "quoted",
    "renamed",
    "shown",
    "unwrapped",
]
