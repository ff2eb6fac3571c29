"""What pages quote of figures of GPUs, and of programs that were compiled for TPUs."""

from __future__ import annotations

import math

from benchmarks._figures import number
from results.files import Figures
from results.markdown import NONE, ratio, size, table
from results.rows import FLAX, GPU, OWN, SAME, Row, over, ratios, sizes


def gpu(known: Figures) -> str | None:
    """Dropout by itself, and a training step, on the GPU that was measured."""
    if not known.has(GPU):
        return None
    names = (OWN, SAME, FLAX, "flax.linen, rbg")
    rows = [
        [
            f"forward, 256 MiB of {dtype}, over a multiplication",
            *ratios(known.row(GPU, "one call, forward", dtype), names, "multiply"),
        ]
        for dtype in ("bfloat16", "float32")
    ]
    kept = known.row(GPU, "bytes kept for the backward pass", "bfloat16")
    rows.append(["stored for the backward pass, bfloat16", *sizes(kept, names)])
    step = known.row(GPU, "training step of the transformer")
    rows.append(
        [
            "step of a transformer (12 layers of width 1024, 16 x 1024 tokens), dropout 0.1 in four"
            " places, over the same without",
            ratio(over(step, OWN, "no dropout")),
            "",
            ratio(over(step, "flax.nnx", "flax.nnx, no dropout")),
            "",
        ]
    )
    times = [number(step.get(name), "s") for name in (OWN, "flax.nnx")]
    rows.append(["time of that step", times[0], "", times[1], ""])
    return table(["", "jaxdrop.key", "the same threefry key", "Flax, threefry", "Flax, rbg"], rows)


def gpu_attention(known: Figures) -> str | None:
    """Attention on the GPU that was measured."""
    if not known.has(GPU):
        return None
    names = (OWN, "kernel, no dropout", "jaxdrop.key, XLA", "jaxdrop, no dropout", "torch, dropout")
    rows = []
    for title, case in (
        ("length 8192, 1 x 16 heads of 128", "length 8192, 1 x 16 heads of 128"),
        ("length 8192, 1 x 16 heads of 64, full", "length 8192, 1 x 16 heads of 64"),
        ("length 2048, 4 x 16 heads of 64", "length 2048"),
        ("length 32768, 1 x 8 heads of 128", "length 32768"),
    ):
        times = known.row(GPU, "attention, forward + backward", case)
        rows.append([title, *(number(times.get(name), "s") for name in names)])
    head = ["attention, causal unless said", "with dropout", "its kernels without"]
    head += ["XLA's blocks", "no dropout (cuDNN)", "PyTorch, with dropout"]
    return table(head, rows)


def gpu_sides(known: Figures) -> str | None:
    """Attention with a bias or a mask on the GPU that was measured."""
    made = known.table(GPU, "attention with a bias or a mask")
    if made is None:
        return None
    names = ("kernel", "XLA's blocks", "XLA's blocks, no dropout")
    rows = [
        [case, *(number(row.get(name), "s") for name in names)]
        for case, row in made.figures.items()
    ]
    head = ["attention with a bias or a mask of every weight", "with dropout"]
    return table([*head, "XLA's blocks", "XLA's blocks, no dropout"], rows)


def gpu_residual(known: Figures) -> str | None:
    """Of the time of a residual block that drops branches by a mask, on the GPU."""
    row = known.row(GPU, "residual block", "time")
    return _ratio_or_none(row, "k of n examples", "masked")


def gpu_tokens(known: Figures) -> str | None:
    """Of the time of a transformer that sees all tokens, on the GPU."""
    row = known.row(GPU, "transformer, 12 layers, 4 x 2048", "time")
    return _ratio_or_none(row, "half length, 10 of 12 layers", "whole length")


def gpu_norm(known: Figures) -> str | None:
    """Of the time without dropout."""
    row = known.row(GPU, "forward + backward", "dropout + residual + layer norm")
    return _ratio_or_none(row, OWN, "no dropout")


def _ratio_or_none(row: Row, own: str, other: str) -> str | None:
    found = over(row, own, other)
    return None if found is None else ratio(found)


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
            cells = [f"{row[none] / 1e6:.3g} M", ratio(over(row, name, none))]
            pair = sizes(kept.figures[case], (none, name)) if kept else []
            cells.append(" and ".join(pair))
            added = exchanged.figures[case] if exchanged else {}
            cells.append(f"{added[none]:.0f} and {added[name]:.0f}" if added else NONE)
            cells.append(ratio(over(spent.figures[case], name, none)) if spent else NONE)
            rows.append([f"{case}: {name}, over {none}", *cells])
    head = ["on 256 chips, v5e:16x16", "cycles without", "cycles with / without"]
    return table([*head, "temporaries", "exchanges", "processor time to compile"], rows)


def tpu_train(known: Figures) -> str | None:
    """The training step that was compiled for chips of TPUs, by mesh."""
    rows = []
    for run in known.runs:
        if run.suite != "tpu-train":
            continue
        own = Figures([run])
        chips = math.prod(map(int, run.content["target"].split(":")[1].split("x")))
        cycles = own.table(run.suite, "estimated cycles")
        for mesh in cycles.figures if cycles else ():
            estimate = own.row(run.suite, "estimated cycles", mesh)
            kept = own.row(run.suite, "temporaries", mesh)
            held = own.row(run.suite, "parameters", mesh)
            counts = [
                sum(own.row(run.suite, "collectives", f"{mesh}, {name}").values())
                for name in (OWN, "no dropout")
            ]
            cells = [f"{chips}, `{mesh}`", f"{estimate['no dropout'] / 1e6:.0f} M"]
            cells += [size(kept["no dropout"]), size(held["no dropout"])]
            names = ("jaxdrop.key, not in attention", OWN)
            cells += ratios(estimate, names, "no dropout")
            cells += [ratio(over(kept, OWN, "no dropout")), f"{counts[0] - counts[1]:.0f}"]
            rows.append(cells)
    head = ["chips, mesh", "cycles", "temporaries", "parameters, optimizer"]
    head += ["three places: cycles", "four places: cycles", "temporaries", "collectives"]
    return table(head, rows) if rows else None
