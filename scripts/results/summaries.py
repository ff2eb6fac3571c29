"""The figures that pages quote, each from its file: of models, and of all suites."""

from __future__ import annotations

import math
from collections.abc import Callable

from results import accelerators, dropout, experiment
from results.compare import LINE, Comparison, comparisons, line
from results.files import Figures
from results.markdown import NONE, ratio, size, table
from results.rows import FLAX, GPU, OWN, SAME, over, ratios


def attention(known: Figures) -> str | None:
    """Attention on a CPU."""
    if not known.has("attention"):
        return None
    names = (OWN, SAME, "jaxdrop, no dropout", "jax.nn, no dropout", FLAX, "torch")
    rows = []
    for title, case in (
        ("time at length 4096", "length 4096"),
        ("time at length 2048", "length 2048"),
        ("time at length 197, 16 x 12 heads", "length 197"),
    ):
        times = known.row("attention", "attention with dropout", case)
        rows.append([title, *ratios(times, names, OWN)])
    scratch = known.row("attention", "temporaries", "length 4096")
    sizes = [size(scratch[name]) if name in scratch else "" for name in names]
    rows.append(["temporaries at length 4096", *sizes])
    long = next((bar for run in known.runs for bar in run.bars if "32768" in bar["figure"]), None)
    if long is not None and long["figure"].endswith("temporaries"):
        whole = "arguments, results and temporaries at length 32768"
        rows.append([whole, size(long["value"]), *[""] * (len(names) - 1)])
    head = ["jaxdrop.key", "the same threefry key", "no dropout", "`jax.nn`, no dropout"]
    return table(["", *head, "Flax", "PyTorch"], rows)


def losses(known: Figures) -> str | None:
    """The worst ratios of times, each over the peer that is fastest there."""
    found: dict[tuple[str, str, str, str], Comparison] = {}
    for each in comparisons(known.runs):
        if each.table.unit == "s" and each.ratio > 1:
            found.setdefault((each.run.suite, each.table.title, each.case, each.ours), each)
    rows = [line(each) for each in list(found.values())[:_LOSSES]]
    return table(LINE, rows) if rows else None


def step(known: Figures) -> str | None:
    """A training step on a CPU."""
    if not known.has("training"):
        return None
    names = {OWN: "no dropout", SAME: "no dropout", "flax.nnx": "flax.nnx, no dropout"}
    rows = []
    for title, found in (
        ("time on two CPU cores", known.row("training", "training step of the transformer")),
        ("temporaries on CPU", known.row("training", "temporaries of the step")),
    ):
        rows.append([title, *(ratio(over(found, own, none)) for own, none in names.items())])
    for axis in ("data", "fsdp"):
        exchanged = known.table("devices", "exchanges between devices, training step", "8", axis)
        row = exchanged.figures.get("8", {}) if exchanged else {}
        if row:
            added = [row[name] - row["no dropout"] if name in row else math.nan for name in names]
            cells = [NONE if math.isnan(each) else f"{each:.0f}" for each in added]
            rows.append([f"exchanges added on eight devices, `{axis}=8`", *cells])
    return table(["", "jaxdrop.key", "the same threefry key", "Flax"], rows)


def samples(known: Figures) -> str | None:
    """Monte Carlo samples on a CPU."""
    if not known.has("mc"):
        return None
    times = known.row("mc", "100 samples of a perceptron")
    ours = ("jaxdrop, independent", "jaxdrop, stratified")

    def by(*others: str) -> list[str]:
        return ["; ".join(ratio(over(times, other, own)) for other in others) for own in ours]

    errors = known.row("mc", "mean squared error", "error")
    error = ratio(over(errors, "stratified", "independent"))
    memory = [known.row("mc", "temporaries of mc.moments", case) for case in ("10000", "100 ")]
    many, few = (next(iter(row.values()), math.nan) for row in memory)
    rows = [
        [
            "time over that of the matrix products alone",
            *ratios(times, ours, "matrix products alone"),
        ],
        [
            "time of Flax under `vmap`, and in a loop, over this",
            *by("flax.linen, vmap, threefry", "flax.linen, jit, loop"),
        ],
        ["time of PyTorch in a loop, and of Keras, over this", *by("torch, loop", "keras, loop")],
        ["squared error of the mean of 32 samples, digits", "1", error],
        ["temporaries of `mc.moments`, 10000 samples over 100", ratio(many / few), ""],
    ]
    return table(["", "independent keys", "stratified keys"], rows)


def variants(known: Figures) -> str | None:
    """How many times as fast every variant is as code by hand: the least and the most."""
    found = [run for run in known.runs if run.suite == "variants"]
    times = [
        each.ratio
        for each in comparisons(found)
        if each.table.unit == "s" and each.other == "by hand" and each.ours == "jaxdrop.key"
    ]
    if not times:
        return None
    return f"{1 / max(times):.1f} to {1 / min(times):.0f} times as fast"


def replaced(known: Figures) -> str | None:
    """Models that were not edited."""
    made = known.table("replace", "training step of a model")
    if made is None:
        return None
    names = {
        "Flax, no dropout": "Flax, no dropout",
        "replaced, threefry": "replaced, the same threefry key",
        "replaced, jaxdrop.key": "replaced, `jaxdrop.key`",
    }
    rows = [
        [title, *(ratio(over(row, name, "Flax")) for row in made.figures.values())]
        for name, title in names.items()
    ]
    cases = {"ResNet": "ResNet with batch norm"}
    return table(["", *(cases.get(case, case) for case in made.figures)], rows)


def frameworks(known: Figures) -> str | None:
    """The stand-ins of docs/frameworks.md."""
    if not known.has("frameworks"):
        return None
    rows = []
    for title, case, name in (
        ("big_vision", "big_vision", "after"),
        ("T5X", "t5x", "after"),
        (
            "T5X, a mask entry for each activation instead of one for a length: before",
            "t5x",
            "before, an entry for each",
        ),
        ("the same: after", "t5x", "after, an entry for each"),
        ("MaxText, which drops attention weights after the change only", "maxtext", "after"),
    ):
        found = [
            known.row("frameworks", figure, case)
            for figure in ("operations", "temporaries", "training step")
        ]
        rows.append([title, *(ratio(over(row, name, "before")) for row in found)])
    return table(["stand-in", "operations", "temporaries", "time"], rows)


def skipping(known: Figures) -> str | None:
    """The gradient of an MLP whose dropped units are not computed."""
    if not known.has("compute"):
        return None
    names = ("units", "blocks of 128", "slice", "masked")
    rows = []
    for title, suite, figure, case in (
        ("FLOPs", "compute", "FLOPs of the MLP", "gelu"),
        ("time, MLP 512-2048-512, GELU, two CPU cores", "compute", "MLP", "gelu"),
        (
            "time, MLP 4096-16384-4096, GELU, bfloat16, NVIDIA H200",
            GPU,
            "MLP 4096",
            "gelu",
        ),
        (
            "estimated cycles, TPU v5e, MLP 1024-4096-1024, bfloat16",
            "tpu-compute",
            "estimated cycles",
            "MLP",
        ),
    ):
        row = known.row(suite, figure, case)
        rows.append([title, *ratios(row, names, "no dropout")])
    return table(["rate 0.5, gradient, against no dropout", *names], rows)


def skipping_range(known: Figures) -> str | None:
    """The smallest and the largest time of those, over the activations."""
    made = known.table("compute", "MLP")
    if made is None:
        return None
    names = ("units", "blocks of 128", "slice")
    found = [row[name] / row["no dropout"] for row in made.figures.values() for name in names]
    return f"{min(found):.2f} to {max(found):.2f}"


def subnetworks(known: Figures) -> str | None:
    """Of the time of masked passes, all at once."""
    row = known.row("subnetworks", "time of all samples", "MLP")
    found = over(row, "subnetworks", "masked passes, all at once")
    return None if found is None else f"{found:.2f}"


def fast(known: Figures) -> str | None:
    """What a faster key saves in programs of other libraries."""
    if not known.has("other_libraries"):
        return None
    rows = []
    for name, program in _PROGRAMS.items():
        row = known.row("other_libraries", "programs of", name)
        takes = "no: see below" if name == "Keras" else "yes"
        gain = ratio(over(row, "jaxdrop.random.fast", "jax.random.key"))
        rows.append([program, takes, gain])
    return table(["program", "takes the key", "time"], rows)


_PROGRAMS = {
    "Equinox": "Equinox: training step of an MLP with `eqx.nn.Dropout`",
    "Haiku": "Haiku: the same with `hk.dropout`",
    "Keras": "Keras: the same with `keras.layers.Dropout`",
    "Optax noise": "Optax: `add_noise`, four million parameters",
    "Optax, private": "Optax: `differentially_private_aggregate`, 16 examples of a million",
    "NumPyro": "NumPyro: step of `SVI`, a million latent variables",
    "diffusion": "diffusion sampler: 50 steps with a small convolutional network",
}
_LOSSES = 20
BLOCKS: dict[str, Callable[[Figures], str | None]] = {
    "readme": dropout.readme,
    "core": dropout.core,
    "attention": attention,
    "gpu": accelerators.gpu,
    "gpu-attention": accelerators.gpu_attention,
    "gpu-sides": accelerators.gpu_sides,
    "gpu-norm": accelerators.gpu_norm,
    "gpu-residual": accelerators.gpu_residual,
    "gpu-tokens": accelerators.gpu_tokens,
    "losses": losses,
    "flax-bias": dropout.flax_bias,
    "scale": accelerators.scale,
    "tpu-train": accelerators.tpu_train,
    "step": step,
    "samples": samples,
    "variants": variants,
    "replaced": replaced,
    "fast": fast,
    "frameworks": frameworks,
    "skipping": skipping,
    "skipping-range": skipping_range,
    "ways": experiment.ways,
    "ways-by-width": experiment.by_width,
    "subnetworks": subnetworks,
}
