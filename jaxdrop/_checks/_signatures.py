"""Calls that do not fit a signature: who was called, and what the argument is called here."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jaxdrop._checks._deprecation import renamed_fields
from jaxdrop._checks._messages import renamed

Function = TypeVar("Function", bound=Callable[..., Any])

# What other libraries call an argument -> what it is called here, and how that is meant. What the
# signature has first counts.
_ELSEWHERE: dict[tuple[str, ...], dict[str, str]] = {
    (
        "p",
        "prob",
        "drop_prob",
        "drop_rate",
        "dropout",
        "dropout_rate",
        "drop_probability",
        "probability",
    ): {
        "rate": "rate is the probability of dropping, as in rate=0.1",
        "dropout_rate": "it is called dropout_rate here, as in Flax",
        "input_rate": "input_rate drops from the input, and output_rate from the output",
    },
    ("keep_prob", "keep_rate", "keep_probability"): {
        "rate": "rate is the probability of dropping, not of keeping: rate=1 - keep_prob"
    },
    ("noise_shape", "broadcast_axes", "mask_axes"): {
        "broadcast_dims": (
            "broadcast_dims=(...) names the axes along which all entries share one mask value"
        )
    },
    ("training", "train", "is_training"): {
        "deterministic": "deterministic=True turns dropout off: deterministic=not training"
    },
    ("eval", "evaluation", "inference"): {"deterministic": "deterministic=True is evaluation"},
    ("key", "rng", "rngs", "seed", "dropout_rng", "prng_key"): {
        "rngs": "rngs=... takes an nnx.Rngs, and in the call of a layer also a key",
        "rng": "rng=... takes a key; usual is layer.apply(variables, x, rngs={'dropout': key})",
        "key": "a PRNG key comes first, such as jaxdrop.key(seed)",
    },
    ("inverted", "scale_by_keep", "rescale"): {
        "scale_by_keep": "it is called scale_by_keep here: whether to divide by 1 - rate",
        "normalize": "it is called normalize here, and names the share that divides kept values",
    },
    ("normalization", "batchwise"): {
        "normalize": "it is called normalize here, and names the share that divides kept values"
    },
    ("level", "per_example", "mode", "per"): {
        "per": "it is called per here, and says what has a draw of its own, as in per='batch'",
        "mode": "it is called mode here: mode='row' or mode='batch'",
    },
    ("preset", "rounding", "scaling"): {
        "rule": "it is called rule here, and names whose rule to follow"
    },
    ("batch_first",): {"time_major": "the batch comes first, unless time_major=True"},
    ("embed_dim", "d_model", "input_size"): {"in_features": "it is called in_features here"},
    ("hidden_size", "units"): {
        "hidden_features": "it is called hidden_features here",
        "features": "it is called features here",
    },
    ("nhead", "n_heads"): {"num_heads": "it is called num_heads here"},
    ("unk_id", "mask_id"): {
        "replacement": "replacement is the id that takes a dropped one's place"
    },
    ("inplace",): dict.fromkeys(
        ("x", "rate", "inputs"), "JAX arrays do not change: use what is returned"
    ),
}


def hinted(function: Function) -> Function:
    """A function whose TypeError for arguments that do not fit says what they are called here. Its
    signature stays.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            check_fit(function, function.__qualname__, args, kwargs)
            raise

    return call  # type: ignore[return-value]


def hint_methods(cls: type, *names: str) -> None:
    """The same for the constructor and the call of a class of layers, by whose name the messages
    call them.

    In a call they speak of its arguments: `cls._handed_on` is what `renamed` takes.
    """
    for name in names or ("__init__", "__call__"):
        if name in vars(cls):
            setattr(cls, name, _hinted_method(vars(cls)[name]))


def _hinted_method(function: Function) -> Function:
    @functools.wraps(function)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with renamed(type(self)._handed_on):
                return function(self, *args, **kwargs)
        except TypeError:
            check_fit(function, f"the call of {type(self).__name__}", (self, *args), kwargs)
            raise

    @functools.wraps(function)
    def constructed(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = renamed_fields(type(self), kwargs)
        try:
            function(self, *args, **kwargs)
        except TypeError:
            check_fit(function, type(self).__name__, (self, *args), kwargs)
            raise

    return called if function.__name__ == "__call__" else constructed  # type: ignore[return-value]


def check_fit(
    function: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raises a TypeError with a hint if the arguments do not fit the signature."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        known = [p for p in signature.parameters if p not in ("self", "parent", "name")]
        by_name = [
            p for p in known if signature.parameters[p].kind is inspect.Parameter.KEYWORD_ONLY
        ]
        first = known[: len(known) - len(by_name)]
        takes = f"It takes {', '.join([*first, '*', *by_name] if first and by_name else known)}."
        for given in kwargs:
            if given not in signature.parameters:
                raise TypeError(
                    f"{name} has no argument {given!r}{_hint(given, known)} {takes}"
                ) from None
        raise TypeError(f"{name}: {error}. {takes}") from None


def _hint(given: str, known: Sequence[str]) -> str:
    for names, ways in _ELSEWHERE.items():
        for name, way in ways.items() if given in names else ():
            if name in known:
                return f": {way}."
    close = difflib.get_close_matches(given, known)
    return f": is {close[0]} meant?" if close else "."
