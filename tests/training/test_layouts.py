"""What divides a training step among devices, read from the compiled program: FSDP is data
parallelism with parameters that lie in parts, and nothing else.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest

from training import config, data, layouts, models, parallel, steps

pytestmark = pytest.mark.usefixtures("relaxed")

LENGTH, WIDTH, BATCH = 48, 64, 32
MATRICES = 6  # of a block: query, key, value, out, up, down
TABLES = 3  # tokens, positions, head


@functools.cache
def compiled(mesh: str, *options: str) -> jax.stages.Compiled:
    """A step of the transformer on eight devices."""
    sizes = ["--length", LENGTH, "--width", WIDTH, "--batch", BATCH, "--mesh", mesh, *options]
    chosen = config.parse([*map(str, ["--model", "transformer", *sizes])])
    devices = parallel.make_mesh(mesh, jax.devices())
    placement = parallel.Placement(devices, BATCH, 1, "jit")
    source = data.Windows(np.zeros(200, np.int32), LENGTH)
    network = models.build(chosen, data.Data(source, source, classes=96))
    optimizer = steps.make_optimizer(chosen)
    with jax.set_mesh(devices):
        _, target = steps.initialize(network, optimizer, devices)
        step = steps.make_step(network, optimizer, chosen, devices)
        return steps.compile_once(step, target, placement.shapes(source[0]), "jit")


def collectives(mesh: str, *options: str) -> Counter[str]:
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    text = compiled(mesh, *options).as_text() or ""
    return Counter(re.findall(rf" ({kinds})(?:-start)?\(", text))


def gathered(mesh: str) -> Counter[tuple[int, ...]]:
    """The shapes of what all-gathers put together."""
    found = re.findall(
        r" f32\[([\d,]+)\]\S* all-gather(?:-start)?\(", compiled(mesh).as_text() or ""
    )
    return Counter(tuple(map(int, shape.split(","))) for shape in found)


def activations(mesh: str, width: int) -> set[tuple[int, int]]:
    """The shapes of arrays with one row for each token, on one device: (batch, length)."""
    found = re.findall(rf"f32\[(\d+),(\d+),{width}\]", compiled(mesh).as_text() or "")
    shapes = {(int(batch), int(length)) for batch, length in found}
    return {shape for shape in shapes if shape[0] > 2 and shape[1] in (LENGTH, LENGTH // 2)}


def test_fsdp_divides_the_batch_and_gathers_each_matrix() -> None:
    """Twice, in the forward pass and where the backward pass computes the block again; tables once.

    On CPU, XLA writes the sum and the division of a gradient as an all-reduce and a slice.
    """
    assert activations("fsdp=8", WIDTH) == {(BATCH // 8, LENGTH)}
    assert activations("fsdp=8", 4 * WIDTH) == {(BATCH // 8, LENGTH)}
    found = collectives("fsdp=8")
    assert found.keys() == {"all-gather", "all-reduce"}
    assert found["all-gather"] == 2 * MATRICES + TABLES


def test_fsdp_takes_the_work_and_memory_of_data_parallelism() -> None:
    whole, divided = compiled("data=8"), compiled("fsdp=8")
    assert divided.cost_analysis()["flops"] <= 1.02 * whole.cost_analysis()["flops"]
    temporaries, held = (
        [getattr(program.memory_analysis(), name) for program in (whole, divided)]
        for name in ("temp_size_in_bytes", "argument_size_in_bytes")
    )
    assert temporaries[1] <= 1.1 * temporaries[0]
    assert held[1] <= held[0] / 6


def test_all_axes_together() -> None:
    """Each matrix is gathered along `fsdp`, and stays divided along `tensor`. The devices that
    share matrices share the tokens between branches, and the masks there.
    """
    mesh, half = "data=2,fsdp=2,tensor=2", WIDTH // 2
    assert activations(mesh, WIDTH) == {(BATCH // 4, LENGTH), (BATCH // 4, LENGTH // 2)}
    words = re.findall(rf"u32\[(\d+),(\d+),{WIDTH}\]", compiled(mesh).as_text() or "")
    assert {tuple(map(int, shape)) for shape in words} == {(BATCH // 4, LENGTH // 2)}
    assert activations(mesh, 4 * half) == {(BATCH // 4, LENGTH)}
    heads, depth = 4 // 2, WIDTH // 4
    matrices = {(WIDTH, heads, depth): 3, (heads, depth, WIDTH): 1, (WIDTH, 4 * half): 1}
    matrices |= {(4 * half, WIDTH): 1}
    found = gathered(mesh)
    assert {shape: found[shape] for shape in matrices} == {
        shape: 2 * count for shape, count in matrices.items()
    }
    for table in ((96, WIDTH), (LENGTH, WIDTH), (WIDTH, 96 // 2)):
        assert found[table] == 1


def test_what_is_skipped_is_skipped_on_each_device() -> None:
    """Half of the units and of the examples of each device, and no word between them."""
    skip = "--skip-units=0.5", "--skip-examples=0.5", "--skip-groups=8"
    assert collectives("data=8", *skip) == collectives("data=8")
    work = [compiled("data=8", *options).cost_analysis()["flops"] for options in ((), skip)]
    assert work[1] < 0.55 * work[0]


def test_the_sequence_divides_tokens() -> None:
    assert activations("data=2,tensor=2,sequence=2", WIDTH) <= {
        (BATCH // 2, LENGTH // 2),
        (BATCH // 2, LENGTH),  # keys and values
    }


def test_parameters_are_divided() -> None:
    mesh = parallel.make_mesh("fsdp=4,tensor=2", jax.devices())
    shapes: Any = {
        "blocks": {
            "up": {"kernel": np.zeros((2, 8, 32)), "bias": np.zeros((2, 32))},
            "norm": {"scale": np.zeros((2, 8))},
        },
        "stem": {"kernel": np.zeros((3, 3, 6, 16))},
        "odd": {"kernel": np.zeros((3, 5))},
    }
    specs = jax.tree.map(lambda sharding: tuple(sharding.spec), layouts.layout(shapes, mesh))
    assert specs == {
        "blocks": {
            "up": {"kernel": (None, "fsdp", "tensor"), "bias": (None, "tensor")},
            "norm": {"scale": (None, None)},
        },
        "stem": {"kernel": (None, None, None, "fsdp")},
        "odd": {"kernel": (None, None)},
    }
