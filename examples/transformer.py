#!/usr/bin/env python3
"""A small transformer learns to write: without dropout, and with dropout in four places and drop
path.

    python examples/transformer.py  # some minutes on two CPU cores
    python examples/transformer.py --quick  # half a minute, and too few steps to learn much
    python examples/transformer.py --linen  # the same model in Flax Linen
    python examples/transformer.py --data my_text.txt

Predicts the next character of Python's language reference, as it comes with every Python, without
the paragraphs that it repeats. Learns from the first 20000 characters: so few that the model learns
them by heart unless it is kept from it. Validates on the last 20000. Both runs start from the same
parameters and take the same batches through one compiled step: in one, a schedule raises the rates
from 0 within the first quarter of the steps; in the other they stay at 0. Prints a table and a
sample of text, and draws the losses. Then 16 networks, each with masks of its own in the last
quarter of the blocks, continue one text, from one reading of it, and all together say how sure they
are of each character.

With seed 0, the validation loss of the model without dropout falls to 2.38 nats within 450 steps,
and is 3.43 after 1000. With dropout it falls to 2.34 within 850 steps, and is 2.38 after 1000. What
dropout saves here is the choice of when to stop.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _arguments
import _figures
import _generation
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
from models import transformer, transformer_linen
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import jaxdrop

Array: TypeAlias = jax.Array | npt.NDArray[Any]
# The logits of (params, tokens, key, strength). Without a key nothing is dropped; `strength`
# multiplies the rates.
Apply: TypeAlias = Callable[..., jax.Array]

EVALUATIONS = 20


class Curves(NamedTuple):
    """Mean cross-entropies in nats per character, with nothing dropped."""

    steps: Array
    training: Array
    validation: Array


# -- the model as a function of its parameters


def nnx_model(
    seed: int, *, skip: transformer.Skip | None = None, **shape: Any
) -> tuple[Apply, Any]:
    graph, params = nnx.split(transformer.Transformer(**shape, skip=skip, rngs=nnx.Rngs(seed)))

    def apply(
        params: Any, tokens: Array, key: jax.Array | None = None, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        model = nnx.view(nnx.merge(graph, params), deterministic=key is None)
        return model(tokens, None if key is None else nnx.Rngs(key), strength=strength)

    return apply, params


def linen_model(seed: int, **shape: Any) -> tuple[Apply, Any]:
    model = transformer_linen.Transformer(**shape)

    def apply(
        params: Any, tokens: Array, key: jax.Array | None = None, strength: float | jax.Array = 1.0
    ) -> jax.Array:
        rngs = {} if key is None else {"dropout": key}
        return model.apply(params, tokens, deterministic=key is None, strength=strength, rngs=rngs)

    return apply, model.init(
        jax.random.key(seed), jnp.zeros((1, shape["length"]), int), deterministic=True
    )


# -- training


def mean_loss(logits: jax.Array, rows: Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


@functools.partial(jax.jit, static_argnames=("apply", "optimizer"))
def train_step(
    apply: Apply,
    optimizer: Any,
    params: Any,
    state: Any,
    rows: Array,
    key: jax.Array,
    step: int,
    strength: Array,
) -> tuple[Any, Any]:
    """One step. Its masks follow from (key, step), and its rates are traced: no other strength
    compiles anything again.
    """

    def loss(params: Any) -> jax.Array:
        return mean_loss(apply(params, rows[:, :-1], jax.random.fold_in(key, step), strength), rows)

    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnames="apply")
def evaluate(apply: Apply, params: Any, rows: Array) -> jax.Array:
    """The mean loss with nothing dropped."""
    return mean_loss(apply(params, rows[:, :-1]), rows)


def train(
    apply: Apply,
    params: Any,
    text: _text.Text,
    schedule: jaxdrop.schedules.Schedule,
    options: argparse.Namespace,
    progress: Progress,
    name: str,
) -> tuple[Any, Curves]:
    """Returns the trained parameters, and how training went."""
    steps, length = options.steps, options.length
    rates = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, steps // 10, steps, options.learning_rate / 10
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=0.01))
    state = optimizer.init(params)
    key = jaxdrop.key(options.seed)
    random = np.random.default_rng(options.seed)
    fixed = np.linspace(0, options.characters - length - 1, options.batch * 8, dtype=int)
    samples = [_text.windows(part, fixed, length) for part in (text.training, text.validation)]

    record = []
    for step in progress.track(range(steps + 1), description=f"Training with {name}"):
        if step % max(steps // EVALUATIONS, 1) == 0:
            record.append([step, *(float(evaluate(apply, params, rows)) for rows in samples)])
        rows = _text.windows(
            text.training, random.integers(options.characters - length, size=options.batch), length
        )
        params, state = train_step(
            apply, optimizer, params, state, rows, key, step, np.float32(schedule(step))
        )
    return params, Curves(*np.array(record).T)


@functools.partial(jax.jit, static_argnames=("apply", "count"))
def write(
    apply: Apply, params: Any, prompt: Array, key: jax.Array, count: int, temperature: float = 0.7
) -> jax.Array:
    """The numbers of `count` characters that follow the prompt, sampled one by one."""

    def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        token = jax.random.categorical(key, apply(params, window[None])[0, -1] / temperature)
        return jnp.append(window[1:], token), token

    return lax.scan(step, jnp.asarray(prompt), jax.random.split(key, count))[1]


def continuations(model: transformer.Transformer, prompt: Array, count: int, seed: int) -> Any:
    """Texts of 16 networks, `count` characters each; and how sure networks are of the first."""
    first = len(model.path_rates) - max(len(model.path_rates) // 4, 1)
    cache, decode = _generation.decoder(model, first)
    key = jaxdrop.key(seed)

    @jax.jit
    def write(prompt: jax.Array, key: jax.Array) -> _generation.Written:
        keys = jaxdrop.mc.keys(key, 16)
        return _generation.write_many(decode, cache, prompt, keys, count=count, temperature=0.5)

    texts = write(prompt, key)
    key, given = jax.random.fold_in(key, 1), jnp.asarray(prompt)
    sure = _generation.uncertainty(decode, cache, given, texts.tokens[0], key, tolerance=0.02)
    return texts, sure


# -- reporting


def report(runs: dict[str, Curves], title: str) -> Table:
    rows = []
    for name, curves in runs.items():
        best = np.argmin(curves.validation)
        numbers = curves.training[-1], curves.validation[-1], curves.validation[best]
        bits = curves.validation[-1] / math.log(2)
        rows.append(
            [
                name,
                *(f"{number:.3f}" for number in numbers),
                f"{curves.steps[best]:.0f}",
                f"{bits:.2f}",
            ]
        )
    columns = [
        "",
        "training\nloss",
        "validation\nloss",
        "lowest\nvalidation",
        "\nat step",
        "bits per\ncharacter",
    ]
    return _tables.table(title, columns, rows)


def shade(tokens: Array, sure: _generation.Uncertainty, vocabulary: Array) -> Text:
    """A text, each character the redder the more the networks disagree on it."""
    information = np.asarray(sure.tokens.mutual_information)
    shades = np.round(255 * (1 - information / max(information.max(), 1e-9))).astype(int)
    return Text.assemble(
        *(
            (str(vocabulary[token]), f"on rgb(255,{shade},{shade}) black")
            for token, shade in zip(np.asarray(tokens), shades, strict=True)
        )
    )


@mpl.rc_context(_figures.STYLE)
def draw(runs: dict[str, Curves], strengths: Array, rates: dict[str, float]) -> Figure:
    """The losses over the steps, and below them the rates."""
    figure = Figure(figsize=(7, 5.6))
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    _figures.losses(upper, runs)
    upper.set(ylabel="cross-entropy (nats per character)", ylim=(0, None))
    for (name, rate), style in zip(rates.items(), ("-", ":"), strict=True):
        lower.plot(rate * strengths, color=_figures.GRAY, label=name, linestyle=style)
    lower.set(xlabel="step", ylabel="rate", ylim=(0, None), title="Rates of the run with dropout")
    lower.legend(loc="lower right", ncols=2)
    return figure


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "a smaller model and few steps")
    parser.add_argument(
        "--data", type=Path, help="a text to learn from (default: Python's language reference)"
    )
    parser.add_argument(
        "--characters",
        type=int,
        default=20_000,
        help="to learn from, and to validate on (default: 20000)",
    )
    parser.add_argument("--linen", action="store_true", help="train the model in Flax Linen")
    parser.add_argument(
        "--norm", choices=("pre", "post"), default="pre", help="where the layer normalizations are"
    )
    parser.add_argument("--layers", type=int, default=3, help="(default: 3)")
    parser.add_argument(
        "--width", type=int, default=96, help="features of each character (default: 96)"
    )
    parser.add_argument("--heads", type=int, default=4, help="of attention (default: 4)")
    parser.add_argument(
        "--length", type=int, default=64, help="of the texts, in characters (default: 64)"
    )
    parser.add_argument("--batch", type=int, default=16, help="texts a step (default: 16)")
    parser.add_argument("--steps", type=int, default=1000, help="(default: 1000)")
    parser.add_argument(
        "--learning-rate", type=float, default=3e-3, help="the highest (default: 0.003)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=0.1,
        help="of dropout; drop path ends at half of it (default: 0.1)",
    )
    for name, help in {
        "units": "of hidden units of the MLPs",
        "examples": "of examples in a residual branch",
        "tokens": "of tokens in all layers but the first and the last",
    }.items():
        parser.add_argument(
            f"--skip-{name}",
            type=float,
            default=0.0,
            metavar="RATE",
            help=f"the share {help} that training does not compute, in NNX (default: 0)",
        )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the batches and the masks (default: 0)"
    )
    options = parser.parse_args()
    skip = transformer.Skip(
        units=options.skip_units, examples=options.skip_examples, tokens=options.skip_tokens
    )
    if options.linen and any((skip.units, skip.examples, skip.tokens)):
        parser.error("--skip-units, --skip-examples and --skip-tokens: go without --linen")
    if options.quick:
        options.layers, options.width, options.length, options.batch, options.steps = (
            2,
            32,
            64,
            4,
            20,
        )
    start = time.perf_counter()
    console = Console(highlight=False)

    text = _text.load(options.data, "characters", options.characters, options.characters)
    shape: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("length", "width", "heads", "layers", "rate", "norm")
    }
    make = linen_model if options.linen else functools.partial(nnx_model, skip=skip)
    shape |= {"vocabulary": len(text.vocabulary), "path_rate": options.rate / 2}
    apply, params = make(options.seed, **shape)
    rising = jaxdrop.schedules.linear(0.0, 1.0, max(options.steps // 4, 1))
    schedules = {"no dropout": jaxdrop.schedules.constant(0.0), "dropout": rising}
    runs = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, schedule in schedules.items():
            trained, runs[name] = train(apply, params, text, schedule, options, progress, name)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    console.print(
        report(runs, f"{size} parameters, {options.characters} characters; cross-entropy in nats")
    )

    prompt = text.validation[: options.length]
    written = write(apply, trained, prompt, jaxdrop.key(options.seed), 400)
    console.print(
        "\n[bold]What the model with dropout writes behind a text from the validation data[/bold]"
    )
    given, new = ("".join(text.vocabulary[np.asarray(tokens)]) for tokens in (prompt, written))
    console.print(given, style="dim", markup=False, end="")
    console.print(new, markup=False)

    if not options.linen:
        model = transformer.Transformer(**shape, rngs=nnx.Rngs(options.seed))
        nnx.update(model, trained)
        half = options.length // 2
        texts, sure = continuations(model, prompt[:half], half - 1, options.seed)
        console.print(
            f"\n[bold]{len(texts.tokens)} networks continue the first {half} characters. How far"
            f" {sure.num_samples} networks disagree on those of the first one, in red:[/bold]"
        )
        console.print(shade(texts.tokens[0], sure, text.vocabulary))
        console.print(
            f"log-probability {sure.score:.1f} nats, with a standard deviation of"
            f" {sure.spread:.1f} from network to network"
        )

    rates = {"dropout": options.rate, "drop path, last layer": options.rate / 2}
    figure = draw(runs, np.array([rising(step) for step in range(options.steps)]), rates)
    _figures.save({"losses.png": figure}, options.out, console, start)


if __name__ == "__main__":
    main()
