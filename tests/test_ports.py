"""The definition in docs/randomness.md and the ports in examples/ports draw what JAX draws."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import masks, random
from tests import oracles

pytestmark = pytest.mark.sweep

ROOT = Path(__file__).parents[1]
PORTS = ROOT / "examples" / "ports"

SEEDS = (0, 7, 2**32 - 1)
STEP = 12345
CHILD = 2**31 + 3
POSITIONS = (0, 1, 2**16, 2**31 + 1, 2**32 - 1, 2**32, 3 * 2**32 + 77, 2**53 - 1)
RATES = (0.0, 0.1, 0.3, 0.5, 0.9, 0.9999, 1.0)


def _drawn(key: jax.Array, positions: np.ndarray) -> np.ndarray:
    rows, columns = (word.astype(np.uint32) for word in np.divmod(positions, np.uint64(2**32)))
    return np.asarray(random.bits_at(key, (rows, columns), (2**32, 2**32)))


def _expected() -> dict[str, list[int]]:
    """Words of the key of each seed, of a step's key and of a child of that key; thresholds."""
    positions = np.array(POSITIONS, np.uint64)
    found = []
    for seed in SEEDS:
        step = jaxdrop.step_key(jaxdrop.key(seed), STEP)
        for key in (jaxdrop.key(seed), step, jax.random.fold_in(step, CHILD)):
            found += _drawn(key, positions).tolist()
    return {"bits": found, "thresholds": [int(masks.threshold(rate)) for rate in RATES]}


@pytest.fixture(scope="module")
def expected() -> dict[str, list[int]]:
    return _expected()


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("seed", [0, 1, 20261126])
def test_the_definition_in_the_docs(seed: int) -> None:
    page = (ROOT / "docs" / "randomness.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    starts = np.array([0, 2**32, 2**63], np.uint64)
    positions = (starts[:, None] + np.arange(1000, dtype=np.uint64)).ravel()
    key = jax.random.fold_in(jax.random.key(seed, dtype=random.key_dtype), 3)
    np.testing.assert_array_equal(
        names["bits"](np.asarray(jax.random.key_data(key)), positions), _drawn(key, positions)
    )


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_c(tmp_path: Path, expected: dict[str, list[int]]) -> None:
    (tmp_path / "main.c").write_text(f"""\
#include <stdio.h>
#include "{PORTS}/jaxdrop.h"
int main(void) {{
  const uint32_t seeds[] = {{{", ".join(f"{seed}u" for seed in SEEDS)}}};
  const uint64_t positions[] = {{{", ".join(f"{position}ull" for position in POSITIONS)}}};
  const double rates[] = {{{", ".join(map(str, RATES))}}};
  for (int i = 0; i < {len(SEEDS)}; i++) {{
    jaxdrop_key step = jaxdrop_step_key(jaxdrop_key_of(seeds[i]), {STEP});
    jaxdrop_key keys[] = {{jaxdrop_key_of(seeds[i]), step, jaxdrop_fold_in(step, {CHILD}u)}};
    for (int k = 0; k < 3; k++)
      for (int p = 0; p < {len(POSITIONS)}; p++)
        printf("%u\\n", jaxdrop_bits(jaxdrop_spread(keys[k], 0), positions[p]));
  }}
  for (int r = 0; r < {len(RATES)}; r++) printf("%u\\n", jaxdrop_threshold(rates[r]));
  printf("%d\\n", jaxdrop_keeps(jaxdrop_spread(jaxdrop_key_of(0), 0), 0, 1.0));
}}
""")
    program = str(tmp_path / "main")
    source = str(tmp_path / "main.c")
    _run("cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o", program, source, "-lm")
    found = [int(line) for line in _run(program).split()]
    assert found == [*expected["bits"], *expected["thresholds"], 0]


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node")
def test_javascript(expected: dict[str, list[int]]) -> None:
    script = f"""\
import * as port from {json.dumps((PORTS / "jaxdrop.mjs").as_uri())};
const bits = [];
for (const seed of {json.dumps(SEEDS)}) {{
  const step = port.stepKey(port.dropoutKey(seed), {STEP});
  for (const key of [port.dropoutKey(seed), step, port.foldIn(step, {CHILD})])
    for (const position of {json.dumps(POSITIONS)})
      bits.push(port.bits(port.spread(key), position));
}}
const thresholds = {json.dumps(RATES)}.map(port.threshold);
const kept = port.keeps(port.spread(port.dropoutKey(0)), 0, 1);
console.log(JSON.stringify({{bits, thresholds, kept}}));
"""
    found = json.loads(_run("node", "--input-type=module", "--eval", script))
    assert found == {**expected, "kept": False}


def _torch_port() -> ModuleType:
    oracles.require("torch")
    spec = importlib.util.spec_from_file_location("jaxdrop_torch", PORTS / "jaxdrop_torch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torch(expected: dict[str, list[int]]) -> None:
    port = _torch_port()
    torch = port.torch
    found: list[int] = []
    for seed in SEEDS:
        step = port.step_key(port.dropout_key(seed), STEP)
        for key in (port.dropout_key(seed), step, port.fold_in(step, CHILD)):
            found += port.bits(key, torch.tensor(POSITIONS)).tolist()
    assert found == expected["bits"]
    x = np.linspace(1, 2, 8 * 33, dtype=np.float32).reshape(8, 33)
    drop = jax.jit(lambda key, rate: jaxdrop.dropout(key, jnp.asarray(x), rate))
    for rate in RATES:
        ours = drop(jaxdrop.step_key(jaxdrop.key(7), STEP), rate)
        other = port.dropout(port.step_key(port.dropout_key(7), STEP), torch.tensor(x), rate)
        np.testing.assert_allclose(other.numpy(), ours, rtol=3e-7)
        np.testing.assert_array_equal(other.numpy() == 0, np.asarray(ours) == 0)
