"""What pages quote of figures of dropout by itself."""

from __future__ import annotations

import math

from results.files import Figures
from results.markdown import NONE, ratio, table
from results.rows import FLAX, GPU, LARGE, OWN, SAME, SWAPPED, faster, largest, over, ratios, sizes


def _entries(known: Figures) -> str:
    """Of the array whose residuals the core suite tells, by the shape in its title."""
    made = known.table("core", "8 layers of dense")
    words = made.title.split() if made else []
    sizes = [int(word.strip(",")) for word in words if word.strip(",").isdigit()]
    return f"{math.prod(sizes[-2:]):,}" if len(sizes) > 2 else NONE


def readme(known: Figures) -> str | None:
    """What one import and one key change."""
    if not known.has("core", GPU):
        return None
    chain = known.row("core", "chain of 20", f"under scan, {LARGE}")
    kept = known.row("core", "8 layers of dense", "residuals")
    scratch = known.row("core", f"temporaries, {LARGE}", "forward")
    gpu = known.row(GPU, "one call, forward", "bfloat16")
    step = known.row(GPU, "training step of the transformer")
    rows = [
        [
            "20 dropouts in a row, float32 4096 x 4096, two CPU cores",
            "1",
            f"{faster(over(chain, FLAX, SAME))} times faster",
            f"{faster(over(chain, FLAX, OWN))} times faster",
        ],
        [
            f"stored for the backward pass, {_entries(known)} entries",
            *sizes(kept, (FLAX, SAME, OWN)),
        ],
        ["temporaries of a call, float32 4096 x 4096", *sizes(scratch, (FLAX, SAME, OWN))],
        [
            "256 MiB of bfloat16 on an NVIDIA H200, over a multiplication",
            *ratios(gpu, (FLAX, SAME, OWN), "multiply"),
        ],
        [
            "training step of a transformer on that GPU, over one without dropout",
            ratio(over(step, "flax.nnx", "flax.nnx, no dropout")),
            "",
            ratio(over(step, OWN, "no dropout")),
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
    chain = known.row("core", "chain of 20", f"under scan, {LARGE}")
    once = known.row("core", "one call, forward", LARGE)
    scratch = known.row("core", f"temporaries, {LARGE}", "forward")
    kept = known.row("core", "8 layers of dense", "residuals")
    compiling = known.row("core", "compile time of", "wall")
    tpu = known.row("tpu-core", "estimated cycles", "forward, bfloat16")
    names = (OWN, SAME, FLAX)
    biases = (largest(known, "core", "bias of the scale", name) for name in names)
    rows = [
        [
            "chain of 20 under `scan`, float32 4096 x 4096: times faster than Flax",
            *(faster(over(chain, FLAX, name)) for name in (OWN, SAME)),
            "1",
        ],
        [
            "one forward call, float32 4096 x 4096, over a multiplication",
            *ratios(once, names, "multiply"),
        ],
        [
            "`flax.linen.Dropout` itself, given `jaxdrop.key`: times faster",
            faster(over(once, FLAX, SWAPPED)),
            "",
            "1",
        ],
        ["temporaries of a jitted forward call, float32 4096 x 4096", *sizes(scratch, names)],
        [
            f"stored for the backward pass across `scan`, by a site of {_entries(known)} entries",
            *sizes(kept, names),
        ],
        [
            "error of the mean in bfloat16, the largest of rates 0.1, 0.2, 0.3",
            *(NONE if each is None else f"{each:.1e}".replace("e-0", "e-") for each in biases),
        ],
        [
            "compile time of 72 sites, forward and backward, over Flax's",
            *ratios(compiling, (OWN, SAME), FLAX),
            "1",
        ],
        [
            "TPU v5e 2x2, bfloat16 forward, cycles over those of a multiplication",
            *ratios(tpu, names, "multiply"),
        ],
    ]
    return table(["", "jaxdrop.key", "the same threefry key", "Flax"], rows)


def flax_bias(known: Figures) -> str | None:
    """How far the mean of Flax's dropout is off in bfloat16."""
    found = largest(known, "core", "bias of the scale", FLAX)
    return None if found is None else f"{100 * found:.2f} %"
