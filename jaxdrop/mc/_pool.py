"""Checks and sizes for functions that choose from a pool of inputs."""

from __future__ import annotations

import jax
import numpy as np

from jaxdrop import _checks
from jaxdrop.mc import _inputs, _probabilities

# How many numbers to compute at a time, for all candidates that are scored together.
_AT_ONCE = 2**22


def checked(
    caller: str, logits: _inputs.ArrayLike | None, probs: _inputs.ArrayLike | None, prefix: str = ""
) -> tuple[jax.Array, bool]:
    """Samples of shape (S, N, C), and whether they are logits. `prefix` begins the names of the
    arguments in messages.
    """
    for kind, x in (("logits", logits), ("probs", probs)):
        if x is not None:
            name = f"{prefix}{kind}"
            samples = _inputs.floating(caller, name, x)
            if samples.ndim != 3 or not samples.size:
                sigmoids = (
                    f" For the output of a sigmoid, pass both classes: {prefix}probs=jnp.stack([1 -"
                    " p, p], axis=-1)."
                    if samples.ndim == 2
                    else ""
                )
                raise ValueError(
                    f"{caller} takes {name} of shape (S, N, C), with at least one input, got"
                    f" {samples.shape}.{sigmoids}"
                )
            if kind == "probs":
                _inputs.probabilities(name, samples)
            # A softmax has no value if its largest logit is infinite.
            elif not _inputs.holds(lambda x: np.isfinite(x.max(-1)), samples):
                unknown = ~np.isfinite(np.asarray(samples).max((0, 2)))
                raise ValueError(
                    f"{name} must be finite, or -inf for classes that are ruled out, but those of"
                    f" {unknown.sum()} of {unknown.size} inputs are not, the first at index"
                    f" {unknown.argmax()}. Leave out these inputs."
                )
    return _probabilities.checked(caller, logits, probs)


def number(name: str, num: int, available: int) -> int:
    """The argument `name`: how many to choose of those available."""
    count = _checks.check_integer(num, name)
    if not 1 <= count <= available:
        raise ValueError(f"{name} must lie in [1, {available}], the number of inputs, got {count}")
    return count


def at_once(numbers: int, num_inputs: int) -> int:
    """How many inputs to score at a time, if each takes this many numbers."""
    return min(max(_AT_ONCE // numbers, 1), num_inputs)
