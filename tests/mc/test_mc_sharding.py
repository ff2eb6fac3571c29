"""Samples and examples divided among devices and processes: the masks of one device, and its
numbers to float32 rounding.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import _groups

P = PartitionSpec
MESHES = {
    "auto": jax.make_mesh((4, 2), ("s", "b"), axis_types=(AxisType.Auto,) * 2),
    "explicit": jax.make_mesh((4, 2), ("s", "b"), axis_types=(AxisType.Explicit,) * 2),
}
LAYOUTS = {"samples": (P("s"), P()), "examples": (P(), P("b")), "both": (P("s"), P("b"))}
KEYS = mc.keys(jaxdrop.key(0), 32)
X = jax.random.normal(jax.random.key(0), (6, 5))
W = [jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((1, (5, 7)), (2, (7, 3)))]


def _model(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, jax.nn.relu(x @ W[0]), 0.5) @ W[1]


def _masked(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, x, 0.5)


def _samples(keys: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return mc.predict(lambda key: (_model(key, x), _masked(key, x)), keys, batch_size=16)


def _moments(keys: jax.Array, x: jax.Array) -> mc.Moments:
    return mc.moments(lambda key: _model(key, x), keys, batch_size=8)


EXPECTED = jax.jit(_samples)(KEYS, X)


def _place(mesh: Mesh, layout: str) -> tuple[jax.Array, jax.Array]:
    keys, x = LAYOUTS[layout]
    return jax.device_put(KEYS, NamedSharding(mesh, keys)), jax.device_put(
        X, NamedSharding(mesh, x)
    )


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("mesh", "layout"), [*(("auto", layout) for layout in LAYOUTS), ("explicit", "both")]
)
def test_samples_are_those_of_one_device(mesh: str, layout: str) -> None:
    """Each device does its share of every chunk, and no more goes between devices than the keys."""
    placed = _place(MESHES[mesh], layout)
    compiled = jax.jit(_samples).lower(*placed).compile()
    outputs, masked = compiled(*placed)
    np.testing.assert_array_equal(masked, EXPECTED[1])
    np.testing.assert_allclose(outputs, EXPECTED[0], rtol=1e-5, atol=1e-5)
    keys, x = LAYOUTS[layout]
    assert outputs.sharding.is_equivalent_to(
        NamedSharding(MESHES[mesh], P(*(keys or (None,)), *x)), 3
    )
    samples, examples = 16 // (4 if keys else 1), 6 // (2 if x else 1)
    products = set(re.findall(r"= f32\[([\d,]+)\]\S* dot\(", compiled.as_text()))
    assert products == {f"{samples * examples},3", f"{examples},7"}
    assert not re.search(r"f32\S+ (all-gather|all-to-all|collective-permute)\(", compiled.as_text())


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("mesh", MESHES)
def test_moments_are_those_of_one_device(mesh: str) -> None:
    placed = _place(MESHES[mesh], "both")
    found = jax.jit(_moments)(*placed)
    samples = np.asarray(EXPECTED[0], np.float64)
    np.testing.assert_allclose(found.mean, samples.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.variance, samples.var(0), rtol=1e-5, atol=1e-5)
    assert found.mean.sharding.is_equivalent_to(NamedSharding(MESHES[mesh], P("b")), 2)


def _statistics(keys: jax.Array, x: jax.Array) -> dict[str, object]:
    samples = mc.predict(lambda key: _model(key, x), keys)
    y, summary = x[:, :3], mc.regression(samples, tau=np.inf)
    return {
        "groups": [mc.regression(samples, tau=1.0, groups=num).standard_error for num in (4, 8)],
        "classes": mc.classification(logits=samples, groups=8),
        "moments": mc.moments(lambda key: _model(key, x), keys, groups=2, batch_size=8),
        "interval": [mc.interval(samples, tau=2.0), summary.interval()],
        "cdf": [
            mc.cdf(y, samples, tau=np.inf),
            mc.cdf(y, samples, variance=1 + samples**2),
            summary.cdf(y),
        ],
    }


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("mesh", "layout"), [("auto", "both"), ("explicit", "both")])
def test_statistics_are_those_of_one_device(mesh: str, layout: str) -> None:
    """Some groups lie on one device, and some on several."""
    expected = jax.jit(_statistics)(KEYS, X)
    with jax.set_mesh(MESHES[mesh]):
        found = jax.jit(_statistics)(*_place(MESHES[mesh], layout))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5), found, expected
    )


def test_groups_of_keys_stay_divided_where_the_devices_can_share_one() -> None:
    mesh = MESHES["explicit"]
    keys = jax.device_put(KEYS[:16], NamedSharding(mesh, P("s")))
    with jax.set_mesh(mesh):
        for num, axes in ((2, "s"), (8, None)):
            found = jax.jit(functools.partial(_groups.sets, groups=num))(keys)
            expected = jax.random.key_data(KEYS[:16].reshape(num, -1))
            np.testing.assert_array_equal(jax.random.key_data(found), expected)
            assert found.sharding.is_equivalent_to(NamedSharding(mesh, P(None, axes)), 2)


def test_inside_shard_map() -> None:
    """Each device runs the samples that it holds, in chunks of its own."""

    def local(keys: jax.Array) -> jax.Array:
        return mc.predict(lambda key: _masked(key, X), keys, batch_size=3)

    divided = jax.shard_map(local, mesh=MESHES["auto"], in_specs=P("s"), out_specs=P("s"))
    np.testing.assert_array_equal(jax.jit(divided)(KEYS), EXPECTED[1])


def test_a_data_set_on_a_mesh() -> None:
    keys, x = _place(MESHES["auto"], "both")
    found = mc.predict_dataset(_model, [x], keys, batch_size=16, same_keys=True, progress=False)
    np.testing.assert_allclose(found[0], EXPECTED[0], rtol=1e-5, atol=1e-5)


_PROGRAM = """
import sys
import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.mc import test_mc_sharding as here

assert jax.process_count() == 2 and jax.device_count() == 8 and len(jax.local_devices()) == 4
mesh = here.MESHES["auto"]
sample_keys = jax.jit(
    lambda: here.mc.keys(here.jaxdrop.key(0), 32), out_shardings=NamedSharding(mesh, P("s"))
)
keys = sample_keys()
x = jax.make_array_from_callback(
    here.X.shape, NamedSharding(mesh, P("b")), lambda index: here.X[index]
)
outputs, masked = jax.jit(here._samples)(keys, x)
moments = jax.jit(here._moments)(keys, x)
samples, masks = map(np.asarray, here.EXPECTED)

def compare(found, whole, error):
    assert not found.is_fully_addressable
    for shard in found.addressable_shards:
        np.testing.assert_allclose(shard.data, whole[shard.index], rtol=error, atol=error)

compare(masked, masks, 0)
compare(outputs, samples, 1e-5)
compare(moments.mean, samples.mean(0), 1e-5)
compare(moments.variance, samples.var(0), 1e-5)
print("same")
"""


def test_two_processes() -> None:
    """Four devices each, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # The last one counts where a flag stands twice.
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", _PROGRAM, address]
    both = [
        subprocess.Popen(
            [*command, str(at)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for at in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [output.split()[-1:] for output in said] == [["same"], ["same"]], "\n".join(said)
