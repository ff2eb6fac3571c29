"""Model FLOPs against the closed form, and against the compiler's count where there is no loop."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from training import config, data, flops, models, parallel, steps

pytestmark = pytest.mark.usefixtures("relaxed")


def usage(source: data.Source, classes: int, *options: Any) -> flops.Usage:
    chosen = config.parse([*map(str, options)])
    network = models.build(chosen, data.Data(source, source, classes))
    mesh = parallel.make_mesh("data=2", jax.devices()[:2])
    placement = parallel.Placement(mesh, chosen.batch, chosen.micro_batches, "jit")
    _, target = steps.initialize(network, steps.make_optimizer(chosen), mesh)
    return flops.Usage(network, target, placement.shapes(source[0]), chosen, mesh)


def test_the_transformer_has_those_of_the_closed_form() -> None:
    """Six for each parameter of a matrix and token; attention has 12 for each pair of tokens,
    feature and layer, of which a mask that looks back takes none away (PaLM, appendix B).
    """
    length, width, layers, classes, batch = 16, 32, 3, 40, 8
    sizes = ["--length", length, "--width", width, "--layers", layers, "--batch", batch]
    source = data.Windows(np.zeros(100, np.int32), length)
    found = usage(source, classes, "--model", "transformer", *sizes, "--micro-batches", 2)
    matrices = layers * 12 * width**2 + width * classes
    expected = batch * length * (6 * matrices + 12 * layers * width * length)
    np.testing.assert_allclose(found.model_flops, expected, rtol=1e-12)


def test_the_compiler_counts_the_same() -> None:
    """The operations of a forward pass that are neither in a product nor a convolution are few."""

    def forward(x: jax.Array, kernel: jax.Array, dense: jax.Array) -> jax.Array:
        return lax.conv(x, kernel, (1, 1), "VALID").reshape(len(x), -1) @ dense

    shapes = [(4, 8, 16, 16), (12, 8, 3, 3), (12 * 14 * 14, 30)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    counted = jax.jit(forward).lower(*arrays).compile().cost_analysis()["flops"]
    np.testing.assert_allclose(flops.of_step(forward, *arrays), 3 * counted, rtol=1e-2)


def test_loops_branches_and_remat() -> None:
    def once(x: jax.Array) -> jax.Array:
        return jax.checkpoint(lambda x: x @ x)(x)

    def forward(x: jax.Array) -> jax.Array:
        x, _ = lax.scan(lambda x, _: (jax.jit(once)(x), None), x, length=5)
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    found = flops.of_step(forward, jax.ShapeDtypeStruct((8, 8), jnp.float32))
    assert found == 3 * (5 + 2) * 2 * 8**3


@pytest.mark.parametrize(
    ("kind", "dtype", "precision", "tera"),
    [
        ("TPU v5 lite", "bfloat16", "default", 197),
        ("TPU v5", "float32", "default", 459),
        ("TPU v5p", "float32", "highest", 459 / 6),
        ("TPU v6 lite", "bfloat16", "default", 918),
        ("TPU7x", "bfloat16", "default", 1153.5),
        ("NVIDIA H100 80GB HBM3", "bfloat16", "default", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", "default", 756),
        ("NVIDIA H100 NVL", "bfloat16", "default", 835.5),
        ("NVIDIA A100-SXM4-40GB", "float32", "default", 156),
        ("NVIDIA B200", "bfloat16", "highest", 2250),
        ("cpu", "float32", "default", None),
    ],
)
def test_peaks(kind: str, dtype: str, precision: str, tera: float | None) -> None:
    found = flops.peak(kind, dtype, precision)
    assert found is None if tera is None else math.isclose(found, tera * 1e12)


def test_utilization() -> None:
    source = data.Images(np.zeros((9, 8, 8, 1), np.float32), np.zeros(9, np.int32))
    sizes = ["--width", 4, "--layers", 1, "--batch", 2]
    assert usage(source, 3, *sizes).utilization(10.0) is None  # of a CPU
    found = usage(source, 3, *sizes, "--peak-tflops", 1e-9)
    assert found.model_flops == 6 * 2 * (64 * 4 + 4 * 3)
    assert found.utilization(10.0) == found.model_flops * 10 / (2 * 1e3)
    assert usage(source, 3, *sizes, "--compare").model_flops == 3 * found.model_flops
