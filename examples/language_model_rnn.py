#!/usr/bin/env python3
"""A recurrent language model learns a short text: with no dropout, and with four kinds of it.

    python examples/language_model_rnn.py  # a quarter of an hour on two CPU cores
    python examples/language_model_rnn.py --quick  # half a minute, most of it compilation
    python examples/language_model_rnn.py --data my_text.txt  # not Python's language reference
    python examples/language_model_rnn.py --level characters

Learns from so few words that a model knows them by heart soon, unless it is kept from it, and
validates on the text's end. Two LSTM layers read the text in windows. The state goes from each
window to the next one; gradients do not. Compared are

- no dropout;
- per step: the rates of the next one, with other masks at each time step;
- variational: word types, input, state, output and what is between layers, each with one mask for
  all steps of a window, at the rates of Gal & Ghahramani's code (arXiv:1512.05287);
- zoneout, at the rates of Krueger et al. for words (arXiv:1606.01305);
- AWD: weight drop on the recurrent kernels, and locked dropout elsewhere, with regularization of
  the activations and of their changes, at the values of Merity et al. for Penn Treebank
  (arXiv:1708.02182).

All start from the same parameters, and take the same number of steps with the same learning rates.
No rate has been tuned to the text. Prints the losses after the last step, which is what one gets
who does not know when to stop; beside them the lowest on the way. Then the best kind predicts by
Monte Carlo dropout too. Draws the losses.

On tiny Shakespeare, the validation losses of three seeds are 4.63 to 4.74 without dropout (3.77 to
3.82 a quarter of the way), 4.04 to 4.07 with zoneout, 3.75 to 3.79 with variational dropout,
whether masks change at each step or not, and 3.68 to 3.69 with AWD, which 20 samples lower by 0.01.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _arguments
import _figures
import _tables
import _text
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax
from matplotlib.figure import Figure
from models import rnn
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jaxdrop

Array: TypeAlias = jax.Array | npt.NDArray[Any]
# The model's output for (params, tokens, carry, key). Without a key nothing is dropped.
Apply: TypeAlias = Callable[..., rnn.Output]

EVALUATIONS = 10
COLORS = _figures.ORANGE, _figures.PINK, _figures.BLUE, _figures.GREEN, "black"


class Method(NamedTuple):
    """A way to keep a model from learning its text by heart."""

    rates: dict[str, Any]
    """Arguments of the model."""
    weights: tuple[float, float] = (0.0, 0.0)
    """Of the squares of activations in the loss, and of those of their changes."""


VARIATIONAL = {
    "embedding_rate": 0.3,
    "input_rate": 0.5,
    "recurrent_rate": 0.3,
    "dropout": 0.5,
    "output_rate": 0.5,
}
AWD = {
    "embedding_rate": 0.1,
    "input_rate": 0.4,
    "weight_rate": 0.5,
    "dropout": 0.25,
    "output_rate": 0.4,
}
METHODS = {
    "no dropout": Method({}),
    "per step": Method(VARIATIONAL | {"per_step": True, "locked": False}),
    "variational": Method(VARIATIONAL),
    "zoneout": Method({"cell_zoneout": 0.5, "hidden_zoneout": 0.05}),
    "AWD": Method(AWD, weights=(2.0, 1.0)),
}


class Course(NamedTuple):
    """What all kinds have in common. Rows of tokens have the token behind them at their end."""

    windows: Array
    """Those of an epoch: `(windows, batch, length + 1)`."""
    training: Array
    """A part of the training text to evaluate on: `(batch, length + 1)`."""
    validation: Array
    carry: Any
    """The state before a text."""
    optimizer: optax.GradientTransformationExtraArgs
    steps: int


class Curves(NamedTuple):
    """Mean cross-entropies in nats per token, with nothing dropped: `(evaluations,)`, or with an
    axis of seeds before it.
    """

    steps: Array
    training: Array
    validation: Array


class Run(NamedTuple):
    """What a method leads to; with each seed."""

    apply: Apply
    params: tuple[Any, ...]
    curves: Curves


# -- the model as a function of its parameters


def functional(model: rnn.LanguageModel) -> Apply:
    graph, _, streams = nnx.split(model, nnx.Param, ...)

    def apply(
        params: Any, tokens: Array, carry: Any = None, key: jax.Array | None = None
    ) -> rnn.Output:
        model = nnx.view(nnx.merge(graph, params, streams), deterministic=key is None)
        return model(tokens, carry, None if key is None else nnx.Rngs(key))

    return apply


def losses(output: rnn.Output, rows: Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(output.logits, rows[:, 1:])


# -- training and evaluation


@functools.partial(jax.jit, static_argnames=("apply", "optimizer"))
def train_step(
    apply: Apply,
    optimizer: Any,
    params: Any,
    moments: Any,
    carry: Any,
    rows: Array,
    key: jax.Array,
    weights: tuple[float, float],
) -> tuple[Any, Any, Any]:
    """One window. The carry is not differentiated with respect to: that truncates the
    backpropagation.
    """

    def loss(params: Any) -> tuple[jax.Array, Any]:
        output = apply(params, rows[:, :-1], carry, key)
        return (
            losses(output, rows).mean() + rnn.activation_regularization(output, *weights),
            output.carry,
        )

    gradient, carry = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments, carry


@functools.partial(jax.jit, static_argnames="apply")
def evaluate(apply: Apply, params: Any, rows: Array) -> jax.Array:
    """The mean loss with nothing dropped."""
    return losses(apply(params, rows[:, :-1]), rows).mean()


@functools.partial(jax.jit, static_argnames="apply")
def monte_carlo(
    apply: Apply, params: Any, rows: Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean loss of single samples, and the mean losses of the mean probabilities of the first
    1, 2, ... samples.
    """
    samples = jaxdrop.mc.predict(
        lambda key: losses(apply(params, rows[:, :-1], key=key), rows), keys, batch_size=1
    )
    log_means = lax.cumlogsumexp(-samples, axis=0).mean((1, 2)) - jnp.log(
        jnp.arange(1, len(keys) + 1)
    )
    return samples.mean(), -log_means


def train(
    apply: Apply,
    params: Any,
    course: Course,
    key: jax.Array,
    weights: tuple[float, float],
    advance: Callable[[], None],
) -> tuple[Any, Curves]:
    """Returns the trained parameters, and how training went."""
    moments, carry = course.optimizer.init(params), course.carry
    record = []

    def look(step: int) -> None:
        record.append(
            [
                step,
                *(
                    float(evaluate(apply, params, rows))
                    for rows in (course.training, course.validation)
                ),
            ]
        )

    for step in range(course.steps):
        if step % max(course.steps // EVALUATIONS, 1) == 0:
            look(step)
        window = step % len(course.windows)
        rows, masks = course.windows[window], jax.random.fold_in(key, step)
        before = carry if window else course.carry
        params, moments, carry = train_step(
            apply, course.optimizer, params, moments, before, rows, masks, weights
        )
        advance()
    look(course.steps)
    return params, Curves(*np.array(record).T)


def compare(
    model: Callable[..., rnn.LanguageModel], course: Course, seeds: int, progress: Progress
) -> dict[str, Run]:
    """Trains with each method, from the same parameters."""
    runs = {}
    starts = [nnx.state(model(rngs=nnx.Rngs(seed)), nnx.Param) for seed in range(seeds)]
    for name, method in METHODS.items():
        task = progress.add_task(name, total=seeds * course.steps)
        apply = functional(model(rngs=nnx.Rngs(0), **method.rates))
        results = [
            train(
                apply,
                start,
                course,
                jaxdrop.key(seed),
                method.weights,
                functools.partial(progress.advance, task),
            )
            for seed, start in enumerate(starts)
        ]
        params, curves = zip(*results, strict=True)
        runs[name] = Run(apply, params, Curves(*map(np.stack, zip(*curves, strict=True))))
    return runs


def sample(run: Run, rows: Array, samples: int) -> tuple[Array, Array]:
    """The losses of Monte Carlo dropout with each seed: of single samples, and of means of ever
    more samples.
    """
    losses = [
        monte_carlo(run.apply, params, rows, jaxdrop.mc.keys(jaxdrop.key(seed), samples))
        for seed, params in enumerate(run.params)
    ]
    single, means = zip(*losses, strict=True)
    return np.stack(single), np.stack(means)


# -- reporting


def usual(loss: float, level: _text.Level) -> str:
    """The perplexity of words, or bits per character."""
    return f"{math.exp(loss):.1f}" if level == "words" else f"{loss / math.log(2):.3f}"


def report(
    rows: Mapping[str, Sequence[Array]], columns: list[str], level: _text.Level, title: str
) -> Table:
    """For each row the means over the seeds of arrays of losses; and of the last array, the loss
    with each seed.
    """
    cells = []
    for name, arrays in rows.items():
        last = arrays[-1]
        numbers = [*(array.mean() for array in arrays), *(last if len(last) > 1 else ())]
        cells.append(
            [name, *(f"{number:.3f}" for number in numbers), usual(float(last.mean()), level)]
        )
    seeds = (
        [f"{'' if seed else 'seed'}\n{seed}" for seed in range(len(last))] if len(last) > 1 else []
    )
    return _tables.table(
        title,
        ["", *columns, *seeds, "perplexity" if level == "words" else "bits per\ncharacter"],
        cells,
    )


@mpl.rc_context(_figures.STYLE)
def draw(runs: Mapping[str, Run], best: str, sampled: Array, epoch: int, unit: str) -> Figure:
    """The losses over the steps, as means over the seeds and their ranges; and those of Monte Carlo
    dropout.
    """
    figure = Figure(figsize=(11, 4.2))
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for (name, run), color in zip(runs.items(), COLORS, strict=True):
        steps, *both = run.curves
        for axes, values in zip((left, middle), both, strict=True):
            axes.plot(steps[0], values.mean(0), color=color, label=name)
            axes.fill_between(
                steps[0], values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0
            )
    for axes, name in ((left, "Training"), (middle, "Validation")):
        axes.set(
            xlabel=f"step ({epoch} an epoch)",
            title=f"{name} loss, with nothing dropped",
            xlim=(0, steps[0, -1]),
        )
    left.set_ylabel(f"cross-entropy (nats per {unit})")
    middle.set_ylim(
        top=max(run.curves.validation[:, 1:].max() for run in runs.values())
    )  # all begin far above, with one loss
    middle.legend()
    color = dict(zip(runs, COLORS, strict=True))[best]
    right.plot(
        range(1, sampled.shape[1] + 1),
        sampled.mean(0),
        "o-",
        markersize=3,
        color=color,
        label="mean of samples",
    )
    right.axhline(
        runs[best].curves.validation[:, -1].mean(),
        color=color,
        linestyle="--",
        label="nothing dropped",
    )
    right.set(
        xlabel="samples", ylabel=f"validation loss (nats per {unit})", title=f"MC-dropout: {best}"
    )
    _figures.whole_numbers(right)
    right.legend()
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "a smaller model, few steps and two seeds")
    parser.add_argument(
        "--data", type=Path, help="a text to learn from (default: Python's language reference)"
    )
    parser.add_argument(
        "--level",
        choices=("words", "characters"),
        default="words",
        help="the unit of text that the model predicts (default: words)",
    )
    parser.add_argument("--tokens", type=int, default=30_000, help="to learn from (default: 30000)")
    parser.add_argument(
        "--validation", type=int, default=5_000, help="tokens to validate on (default: 5000)"
    )
    parser.add_argument(
        "--at-least",
        type=int,
        default=2,
        help="words that are rarer in training are unknown (default: 2)",
    )
    parser.add_argument("--layers", type=int, default=2, help="(default: 2)")
    parser.add_argument(
        "--width",
        type=int,
        default=256,
        help="units of a layer, and features of a token (default: 256)",
    )
    parser.add_argument(
        "--length", type=int, default=32, help="of the windows, in tokens (default: 32)"
    )
    parser.add_argument("--batch", type=int, default=16, help="windows a step (default: 16)")
    parser.add_argument("--steps", type=int, default=600, help="(default: 600)")
    parser.add_argument(
        "--learning-rate", type=float, default=5e-3, help="the highest (default: 0.005)"
    )
    parser.add_argument(
        "--samples", type=int, default=20, help="of Monte Carlo dropout (default: 20)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="how many, of the parameters and the masks (default: 3)",
    )
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.validation, options.width, options.length = 5_000, 1_000, 32, 16
        options.steps, options.samples, options.seeds = 10, 3, 2
    start = time.perf_counter()
    console = Console(highlight=False)

    steps, peak, batch = options.steps, options.learning_rate, options.batch
    at_least = options.at_least if options.level == "words" else 0
    text = _text.load(
        options.data, options.level, options.tokens, options.validation, at_least=at_least
    )
    model = functools.partial(
        rnn.LanguageModel, len(text.vocabulary), width=options.width, layers=options.layers
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, peak, steps // 20, steps, peak / 20)),
    )
    course = Course(
        windows=_text.consecutive(text.training, batch, options.length),
        training=_text.whole(text.training[: options.validation], batch),
        validation=_text.whole(text.validation, batch),
        carry=model(rngs=nnx.Rngs(0)).start(batch),
        optimizer=optimizer,
        steps=steps,
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        runs = compare(model, course, options.seeds, progress)

    size = sum(leaf.size for leaf in jax.tree.leaves(runs["AWD"].params[0]))
    epochs = steps / len(course.windows)
    kinds = f"{options.tokens} {options.level} of {len(text.vocabulary)} kinds"
    title = f"{size} parameters, {kinds}, {steps} steps ({epochs:.1f} epochs)"
    final = {name: run.curves.validation[:, -1] for name, run in runs.items()}
    rows = {
        name: [run.curves.training[:, -1], run.curves.validation.min(1), final[name]]
        for name, run in runs.items()
    }
    console.print(
        report(
            rows, ["training\nloss", "lowest\nvalidation", "validation\nloss"], options.level, title
        ),
        "",
    )

    best = min(list(runs)[1:], key=lambda name: final[name].mean())
    single, means = sample(runs[best], course.validation, options.samples)
    samples = {
        "nothing dropped": [final[best]],
        "one sample": [single],
        f"mean of {options.samples} samples": [means[:, -1]],
    }
    console.print(
        report(samples, ["validation\nloss"], options.level, f"Monte Carlo dropout: {best}")
    )

    figure = draw(runs, best, means, len(course.windows), options.level.removesuffix("s"))
    _figures.save({"losses.png": figure}, options.out, console, start)


if __name__ == "__main__":
    main()
