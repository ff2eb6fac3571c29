"""Wrong calls by chance, and what becomes of each."""

from __future__ import annotations

import ast
import dataclasses
import functools
import random
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

import jaxdrop
from errors import values
from errors.calls import Call
from errors.values import Wrong

Outcome = Literal[
    "good", "accepted, documented", "accepted", "names another argument", "internal error"
]
PACKAGE = str(Path(jaxdrop.__file__).parent)
OWN = (TypeError, ValueError, NotImplementedError)

# What other libraries, and the papers, call the arguments.
FOREIGN = (
    "p",
    "keep_prob",
    "dropout_rate",
    "noise_shape",
    "training",
    "train",
    "seed",
    "inplace",
    "drop_prob",
    "rngs_",
    "axis_",
)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A right call with one argument spoiled, or one argument too many."""

    call: Call
    argument: str
    wrong: Wrong

    @property
    def extra(self) -> bool:
        """Whether the argument does not exist."""
        return self.argument not in self.call.kinds

    def __str__(self) -> str:
        return f"{self.call.name}({self.argument}={self.wrong.name})"


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of a mistake."""

    mistake: Mistake
    outcome: Outcome
    says: str = ""


# What is accepted because it has a meaning: pattern of `call(argument=value)` -> the reason.
DOCUMENTED: dict[str, str] = {
    r"mc\.Regression\.interval\(coverage=a traced (integer|bool)\)": (
        "1, which is out of range, but not known to be: NaN"
    ),
    r"jaxdrop\.mc\..*\(tau=(\[0\.5\]|in a list)\)": "a list of numbers is an array",
    r"jaxdrop\.mc\.choosing\..*\(rate=a traced integer\)": (
        "1, which is out of range, but not known to be: NaN"
    ),
    r"(nnx|linen)\.RNN\.__call__\(initial_carry=a traced array\)": "a state of the right shape",
    r"jaxdrop\.mc\.plots\.\w+\.band\(x=as bool\)": "booleans count as 0 and 1, as in NumPy",
    r"jaxdrop\.mc\.calibration\.fit_temperature\(logits=transposed\)": (
        "five classes in three samples, which the labels fit"
    ),
    r"jaxdrop\.mc\.datasets\.predict_dataset\(batches=(\[\]|\(\)|{})\)": (
        "no batches have no results"
    ),
    r"(.*)(drop_edge|DropEdge)(.*)\((senders|receivers)=an int array\)": (
        "without num_nodes there may be a node 3"
    ),
    r"nnx\.(Stacked)?RNN\.__call__\(inputs=as complex\)": (
        "dropout takes complex numbers, and so do Flax's cells"
    ),
}


def mistakes(calls: Sequence[Call], count: int, seed: int) -> Iterator[Mistake]:
    """`count` mistakes; each call, argument and value is as likely as the others."""
    chance = random.Random(seed)
    while count:
        call = chance.choice(calls)
        if chance.random() < 0.03 and not call.open:
            yield Mistake(call, _extra(chance, call), Wrong("0.1", 0.1))
        else:
            argument = chance.choice(sorted(call.kinds))
            valid = call.fresh[argument]() if argument in call.fresh else call.arguments[argument]
            wrong = chance.choice([*values.STOCK, *values.spoiled(valid)])
            kind = call.kinds[argument]
            if kind.fits(wrong.value, valid) and (kind.traced or not wrong.traced):
                continue
            yield Mistake(call, argument, wrong)
        count -= 1


def _extra(chance: random.Random, call: Call) -> str:
    return chance.choice([name for name in FOREIGN if name not in call.arguments])


def judge(mistake: Mistake) -> Judged:
    """Makes the call."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(mistake)
    except Exception as error:
        says = f"{type(error).__name__}: {error}"
        if not isinstance(error, (*OWN, AttributeError)) or not _raised_by_us(error):
            return Judged(mistake, "internal error", f"{says}\n{_where(error)}")
        named = re.search(rf"\b{re.escape(mistake.argument)}\b", str(error))
        return Judged(mistake, "good" if named else "names another argument", says)
    for pattern in DOCUMENTED:
        if re.fullmatch(pattern, str(mistake)):
            return Judged(mistake, "accepted, documented", pattern)
    return Judged(mistake, "accepted")


def _run(mistake: Mistake) -> None:
    def run(value: Any) -> Any:
        return mistake.call.run(**{mistake.argument: value})

    if mistake.wrong.traced:
        # Lowering alone, and of nothing in particular: what is returned need not be an array.
        jax.eval_shape(lambda value: (run(value), 0)[1], mistake.wrong.value)
    else:
        jax.block_until_ready(
            [
                leaf
                for leaf in jax.tree.leaves(run(mistake.wrong.value))
                if isinstance(leaf, jax.Array)
            ]
        )


def _raised_by_us(error: BaseException) -> bool:
    """Whether the last frame is a `raise` of this library."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return last.filename.startswith(PACKAGE) and last.lineno in _raises(last.filename)


@functools.cache
def _raises(file: str) -> frozenset[int]:
    """The lines of a file's `raise` statements."""
    nodes = [
        node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.Raise)
    ]
    return frozenset(
        line for node in nodes for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    )


def _where(error: BaseException) -> str:
    """The last frames, from ours on."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [at for at, frame in enumerate(frames) if frame.filename.startswith(PACKAGE)]
    shown = frames[ours[-1] if ours else -1 :][:2]
    return "\n".join(
        f"    {Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in shown
    )
