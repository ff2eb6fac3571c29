"""The figures that pages quote, each from its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from benchmarks._figures import number
from results.compare import Comparison, comparisons
from results.files import Figures
from results.markdown import NONE, ratio, size, table

OWN, SAME = "jaxdrop, jaxdrop.key", "jaxdrop, threefry"
FLAX, SWAPPED = "flax.linen", "flax.linen, jaxdrop.key"
_LARGE = "float32 4096 x 4096"
_GPU = "accelerator"
_LOSSES = 20
Row = Mapping[str, float]


def _over(row: Row, own: str, other: str) -> float | None:
    return row[own] / row[other] if row.get(other) and own in row else None


def _least(value: float | None) -> str:
    """How many times faster: two digits are what a run repeats."""
    return NONE if value is None else f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def _largest(known: Figures, suite: str, title: str, name: str) -> float | None:
    """Of all cases, without signs."""
    made = known.table(suite, title)
    return max(abs(row[name]) for row in made.figures.values()) if made else None


def _entries(known: Figures) -> str:
    """Of the array whose residuals the core suite tells, by the shape in its title."""
    made = known.table("core", "8 layers of dense")
    words = made.title.split() if made else []
    sizes = [int(word.strip(",")) for word in words if word.strip(",").isdigit()]
    return f"{math.prod(sizes[-2:]):,}" if len(sizes) > 2 else NONE


def readme(known: Figures) -> str | None:
    """What one import and one key change."""
    if not known.has("core", _GPU):
        return None
    chain = known.row("core", "chain of 20", f"under scan, {_LARGE}")
    kept = known.row("core", "8 layers of dense", "residuals")
    scratch = known.row("core", f"temporaries, {_LARGE}", "forward")
    gpu = known.row(_GPU, "one call, forward", "bfloat16")
    step = known.row(_GPU, "training step of the transformer")
    rows = [
        [
            "20 dropouts in a row, float32 4096 x 4096, two CPU cores",
            "1",
            f"{_least(_over(chain, FLAX, SAME))} times faster",
            f"{_least(_over(chain, FLAX, OWN))} times faster",
        ],
        [
            f"stored for the backward pass, {_entries(known)} entries",
            *(size(kept.get(name)) for name in (FLAX, SAME, OWN)),
        ],
        [
            "temporaries of a call, float32 4096 x 4096",
            *(size(scratch.get(name)) for name in (FLAX, SAME, OWN)),
        ],
        [
            "bfloat16, 2^28 bytes, on an NVIDIA H200, by a multiplication",
            *(ratio(_over(gpu, name, "multiply")) for name in (FLAX, SAME, OWN)),
        ],
        [
            "training step of a transformer on that GPU, by that without dropout",
            ratio(_over(step, "flax.nnx", "flax.nnx, no dropout")),
            "",
            ratio(_over(step, OWN, "no dropout")),
        ],
        [
            "masks",
            "",
            "Flax's, bit for bit",
            "a keyed hash's, which passes PractRand and TestU01's Crush",
        ],
    ]
    return table(["", "Flax", "this import", "and this key"], rows)


def core(known: Figures) -> str | None:
    """Dropout by itself, on a CPU."""
    if not known.has("core"):
        return None
    chain = known.row("core", "chain of 20", f"under scan, {_LARGE}")
    once = known.row("core", "one call, forward", _LARGE)
    scratch = known.row("core", f"temporaries, {_LARGE}", "forward")
    kept = known.row("core", "8 layers of dense", "residuals")
    compiling = known.row("core", "compile time of", "wall")
    tpu = known.row("tpu-core", "estimated cycles", "forward, bfloat16")
    names = (OWN, SAME, FLAX)
    biases = (_largest(known, "core", "bias of the scale", name) for name in names)
    rows = [
        [
            "chain of 20 under `scan`, float32 4096 x 4096: times faster than Flax",
            *(_least(_over(chain, FLAX, name)) for name in (OWN, SAME)),
            "1",
        ],
        [
            "one forward call, float32 4096 x 4096, in multiplications",
            *(ratio(_over(once, name, "multiply")) for name in names),
        ],
        [
            "`flax.linen.Dropout` itself, given `jaxdrop.key`: times faster",
            _least(_over(once, FLAX, SWAPPED)),
            "",
            "1",
        ],
        [
            "temporaries of a jitted forward call, float32 4096 x 4096",
            *(size(scratch.get(name)) for name in names),
        ],
        [
            f"stored for the backward pass across `scan`, by a site of {_entries(known)} entries",
            *(size(kept.get(name)) for name in names),
        ],
        [
            "error of the mean in bfloat16, the largest of rates 0.1, 0.2, 0.3",
            *(NONE if each is None else f"{each:.1e}" for each in biases),
        ],
        [
            "compile time of 72 sites, forward and backward",
            *(ratio(_over(compiling, name, FLAX)) for name in (OWN, SAME)),
            "1",
        ],
        [
            "TPU v5e 2x2, bfloat16 forward, cycles of a multiplication",
            *(ratio(_over(tpu, name, "multiply")) for name in names),
        ],
    ]
    return table(["", "jaxdrop.key", "the same threefry key", "Flax"], rows)


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
        rows.append([title, *(ratio(_over(times, name, OWN)) for name in names)])
    scratch = known.row("attention", "temporaries", "length 4096")
    sizes = [size(scratch[name]) if name in scratch else "" for name in names]
    rows.append(["temporaries at length 4096", *sizes])
    long = next((bar for run in known.runs for bar in run.bars if "32768" in bar["figure"]), None)
    if long is not None and long["figure"].endswith("temporaries"):
        whole = "arguments, results and temporaries at length 32768"
        rows.append([whole, size(long["value"]), *[""] * (len(names) - 1)])
    head = ["jaxdrop.key", "the same threefry key", "no dropout", "`jax.nn`, no dropout"]
    return table(["", *head, "Flax", "PyTorch"], rows)


def gpu(known: Figures) -> str | None:
    """Dropout by itself, and a training step, on the GPU that was measured."""
    if not known.has(_GPU):
        return None
    names = (OWN, SAME, FLAX, "flax.linen, rbg")
    rows = [
        [
            f"forward, 2^28 bytes of {dtype}, by a multiplication",
            *(
                ratio(_over(known.row(_GPU, "one call, forward", dtype), name, "multiply"))
                for name in names
            ),
        ]
        for dtype in ("bfloat16", "float32")
    ]
    kept = known.row(_GPU, "bytes kept for the backward pass", "bfloat16")
    sizes = [size(kept.get(name)) for name in names]
    rows.append(["stored for the backward pass, bfloat16", *sizes])
    step = known.row(_GPU, "training step of the transformer")
    rows.append(
        [
            "step of a transformer, dropout 0.1 in four places, by the same without (12 layers of"
            " width 1024, 16 x 1024 tokens)",
            ratio(_over(step, OWN, "no dropout")),
            "",
            ratio(_over(step, "flax.nnx", "flax.nnx, no dropout")),
            "",
        ]
    )
    return table(["", "jaxdrop.key", "the same threefry key", "Flax, threefry", "Flax, rbg"], rows)


def gpu_attention(known: Figures) -> str | None:
    """Attention on the GPU that was measured."""
    if not known.has(_GPU):
        return None
    names = (OWN, "jaxdrop.key, XLA", "jaxdrop, no dropout", "torch, dropout")
    rows = []
    for title, case in (
        ("length 8192, 1 x 16 heads of 128", "length 8192, 1 x 16 heads of 128"),
        ("length 8192, 1 x 16 heads of 64, full", "length 8192, 1 x 16 heads of 64"),
        ("length 2048, 4 x 16 heads of 64", "length 2048"),
        ("length 32768, 1 x 8 heads of 128", "length 32768"),
    ):
        times = known.row(_GPU, "attention, forward + backward", case)
        rows.append([title, *(number(times.get(name), "s") for name in names)])
    head = ["attention, causal unless said", "with dropout", "XLA's blocks", "no dropout (cuDNN)"]
    return table([*head, "PyTorch, with dropout"], rows)


def gpu_norm(known: Figures) -> str | None:
    """Of the time without dropout, where XLA stores the mask."""
    row = known.row(_GPU, "forward + backward", "dropout + residual + layer norm")
    found = _over(row, OWN, "no dropout")
    return None if found is None else ratio(found)


def losses(known: Figures) -> str | None:
    """The worst ratios of times, each over the peer that is fastest there."""
    found: dict[tuple[str, str, str, str], Comparison] = {}
    for each in comparisons(known.runs):
        if each.table.unit == "s" and not each.run.quick:
            found.setdefault((each.run.suite, each.table.title, each.case, each.ours), each)
    rows = []
    for each in list(found.values())[:_LOSSES]:
        own, other = (number(value, "s") for value in each.figures)
        case = f"{each.case} {each.table.axis}" if each.table.axis else each.case
        what = f"{each.table.title}: {case}"
        machine = each.run.content["machine"]
        device = "" if machine["backend"] == "cpu" else f", {machine['device']}"
        suite = f"`{each.run.suite}`{device}"
        cells = [f"{each.ours}: {own}", f"{each.other}: {other}", suite]
        rows.append([ratio(each.ratio), what, *cells])
    head = ["ratio", "what", "jaxdrop", "the fastest peer", "suite"]
    return table(head, rows) if rows else None


def flax_bias(known: Figures) -> str | None:
    """How far the mean of Flax's dropout is off in bfloat16."""
    found = _largest(known, "core", "bias of the scale", FLAX)
    return None if found is None else f"{100 * found:.2f} %"


def scale(known: Figures) -> str | None:
    """Programs compiled for 256 chips."""
    cycles = known.table("tpu-scale", "estimated cycles")
    if cycles is None:
        return None
    kept, exchanged, spent = (
        known.table("tpu-scale", title)
        for title in ("temporaries", "exchanges", "processor seconds")
    )
    rows = []
    for case, row in cycles.figures.items():
        none = next(iter(row))
        for name in [*row][1:]:
            cells = [f"{row[none]:.3g}", ratio(_over(row, name, none))]
            pair = [size(kept.figures[case][each]) for each in (none, name)] if kept else []
            cells.append(" and ".join(pair))
            added = exchanged.figures[case] if exchanged else {}
            cells.append(f"{added[none]:.0f} and {added[name]:.0f}" if added else NONE)
            cells.append(ratio(_over(spent.figures[case], name, none)) if spent else NONE)
            rows.append([f"{case}: {name}, over {none}", *cells])
    head = ["on 256 chips, v5e:16x16", "cycles without", "cycles with / without"]
    return table([*head, "temporaries", "exchanges", "processor time of compiling"], rows)


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
        rows.append([title, *(ratio(_over(found, own, none)) for own, none in names.items())])
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
        return ["; ".join(ratio(_over(times, other, own)) for other in others) for own in ours]

    errors = known.row("mc", "mean squared error", "error")
    error = ratio(_over(errors, "stratified", "independent"))
    memory = [known.row("mc", "temporaries of mc.moments", case) for case in ("10000", "100 ")]
    many, few = (next(iter(row.values()), math.nan) for row in memory)
    rows = [
        [
            "time, by that of the matrix products alone",
            *(ratio(_over(times, own, "matrix products alone")) for own in ours),
        ],
        [
            "Flax under `vmap`; in a loop: time by this",
            *by("flax.linen, vmap, threefry", "flax.linen, jit, loop"),
        ],
        ["PyTorch in a loop; Keras: time by this", *by("torch, loop", "keras, loop")],
        ["squared error of the mean of 32 samples, digits", "1", error],
        ["temporaries of `mc.moments`, 10000 samples by 100", ratio(many / few), ""],
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
        [title, *(ratio(_over(row, name, "Flax")) for row in made.figures.values())]
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
        rows.append([title, *(ratio(_over(row, name, "before")) for row in found)])
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
            "estimated cycles, TPU v5e, MLP 1024-4096-1024, bfloat16",
            "tpu-compute",
            "estimated cycles",
            "MLP",
        ),
    ):
        row = known.row(suite, figure, case)
        rows.append([title, *(ratio(_over(row, name, "no dropout")) for name in names)])
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
    found = _over(row, "subnetworks", "masked passes, all at once")
    return None if found is None else f"{found:.2f}"


def fast(known: Figures) -> str | None:
    """What a faster key saves in programs of other libraries."""
    if not known.has("other_libraries"):
        return None
    rows = []
    for name, program in _PROGRAMS.items():
        row = known.row("other_libraries", "programs of", name)
        takes = "no: see below" if name == "Keras" else "yes"
        over = ratio(_over(row, "jaxdrop.random.fast", "jax.random.key"))
        rows.append([program, takes, over])
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
BLOCKS: dict[str, Callable[[Figures], str | None]] = {
    "readme": readme,
    "core": core,
    "attention": attention,
    "gpu": gpu,
    "gpu-attention": gpu_attention,
    "gpu-norm": gpu_norm,
    "losses": losses,
    "flax-bias": flax_bias,
    "scale": scale,
    "step": step,
    "samples": samples,
    "variants": variants,
    "replaced": replaced,
    "fast": fast,
    "frameworks": frameworks,
    "skipping": skipping,
    "skipping-range": skipping_range,
    "subnetworks": subnetworks,
}
