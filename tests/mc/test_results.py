"""Results on disk, opened again without what made them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc

BATCHES = [np.ones((4, 6), np.float32), np.ones((2, 6), np.float32)]
KEYS = mc.keys(jaxdrop.key(0), 3, "independent")


class Pair(NamedTuple):
    logits: Any
    rest: Any


def _fn(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, x, 0.5)


def _run(
    path: Path | None, fn: Any = _fn, batches: Any = BATCHES, **options: Any
) -> mc.DatasetResults:
    return mc.predict_dataset(fn, batches, KEYS, path=path, progress=False, **options)


def _nested(key: jax.Array, x: jax.Array) -> Any:
    y = _fn(key, x)
    return {"file": y.astype(jnp.bfloat16), "nested": [y > 0, (y.sum(-1),)], "none": None}


def _ambiguous(key: jax.Array, x: jax.Array) -> Any:
    y = _fn(key, x)
    return {"a": {"b": y}, "a.b": y + 1, "inputs_crc32": y + 2}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("fn", [_fn, _nested, _ambiguous])
def test_the_same_structure_and_bits(tmp_path: Path, fn: Any) -> None:
    written, opened = _run(tmp_path, fn), mc.open_results(tmp_path)
    assert len(opened) == 2
    assert opened.complete
    for each in (written, opened):
        chex.assert_trees_all_equal(each.concatenate(), _run(None, fn).concatenate())
    chex.assert_trees_all_equal_dtypes(opened.concatenate(), _run(None, fn).concatenate())


@pytest.mark.parametrize(
    "summary", [lambda x: mc.classification(logits=x), lambda x: mc.regression(x, tau=2.0)]
)
def test_summaries_are_what_they_were(tmp_path: Path, summary: Any) -> None:
    written, opened = (
        _run(tmp_path, summary=summary).concatenate(),
        mc.open_results(tmp_path).concatenate(),
    )
    assert type(opened) is type(written)
    chex.assert_trees_all_equal(opened, written)


def test_other_classes_keep_their_fields(tmp_path: Path) -> None:
    _run(tmp_path, lambda key, x: Pair(_fn(key, x), {"sum": x.sum(-1)}))
    found = mc.open_results(tmp_path)[0]
    assert type(found).__name__ == "Pair"
    assert found.logits.shape == (3, 4, 6)
    np.testing.assert_array_equal(found.rest["sum"], np.full((3, 4), 6))


_OPEN = """
import sys
from jaxdrop import mc
results = mc.open_results(sys.argv[1])
print(repr(results)); print(results.concatenate().mean.sum())
"""


def test_in_another_process(tmp_path: Path) -> None:
    results = _run(tmp_path, summary=lambda x: mc.classification(logits=x))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    shown, total = done.stdout.splitlines()
    assert shown == repr(results)
    np.testing.assert_allclose(float(total), results.concatenate().mean.sum(), rtol=1e-6)


def _stop_after(number: int) -> Any:
    yield from [*BATCHES, BATCHES[0]][:number]
    raise KeyboardInterrupt


def test_a_run_that_has_not_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, batches=_stop_after(1))
    with pytest.raises(
        ValueError, match=r"has not finished: 1 batches are there.*allow_incomplete=True"
    ):
        mc.open_results(tmp_path)
    found = mc.open_results(tmp_path, allow_incomplete=True)
    assert len(found) == 1
    assert not found.complete
    assert "incomplete" in repr(found)
    _run(tmp_path)
    assert len(mc.open_results(tmp_path)) == 2
    with pytest.raises(KeyboardInterrupt):  # and one that goes on after it had
        _run(tmp_path, batches=_stop_after(3))
    with pytest.raises(ValueError, match="has not finished: 3 batches"):
        mc.open_results(tmp_path)


def _manifest(path: Path, change: Any) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda path: (path / "manifest.json").unlink(),
            ValueError,
            "holds no results of predict_dataset: it has no manifest",
        ),
        (
            lambda path: (path / "manifest.json").write_text("{"),
            ValueError,
            "manifest.json is damaged",
        ),
        (
            lambda path: (path / "manifest.json").write_text("[]"),
            ValueError,
            "manifest.json is damaged",
        ),
        (
            lambda path: (path / "manifest.json").write_bytes(b"\xff"),
            ValueError,
            "manifest.json is damaged",
        ),
        (
            lambda path: _manifest(path, {"structure": ["odd", 1]}),
            ValueError,
            "manifest.json is damaged",
        ),
        (
            lambda path: _manifest(path, {"format": 99}),
            ValueError,
            "another version of jaxdrop: its files have format 99",
        ),
        (
            lambda path: (path / "manifest.json").write_text('{"results": {}}'),
            ValueError,
            "another version of jaxdrop: its files have format 1,",
        ),
        (
            lambda path: (path / "000001.npz").unlink(),
            FileNotFoundError,
            "batch 1 of 2 is gone from",
        ),
    ],
)
def test_damage(tmp_path: Path, damage: Any, error: type[Exception], message: str) -> None:
    _run(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message):
        mc.open_results(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        mc.open_results(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        mc.open_results(tmp_path / "file")


def test_results_of_an_older_version_are_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"results": {}, "keys": "5 keys"}))
    with pytest.raises(ValueError, match="another version of jaxdrop: its files have format 1"):
        _run(tmp_path)


def test_they_print_on_one_line(tmp_path: Path) -> None:
    assert repr(_run(None)) == "DatasetResults(2 batches: samples float32(3, batch, 6); in memory)"
    shown = repr(_run(tmp_path, summary=lambda x: mc.classification(logits=x)))
    assert shown.startswith("DatasetResults(2 batches of Classification: ")
    assert shown.endswith(f"more; in {tmp_path})")
    assert "\n" not in shown
    assert repr(_run(None, batches=[])) == "DatasetResults(0 batches)"
    for number, more in ((3, "; in memory)"), (4, ", and 1 more; in memory)")):
        several = _run(None, lambda key, x, n=number: [_fn(key, x)] * n, BATCHES[:1])
        arrays = ", ".join(f"{at} float32(3, batch, 6)" for at in range(3))
        assert repr(several) == f"DatasetResults(1 batch: {arrays}{more}"


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A file of objects, which could run code, is a damaged one."""
    _run(tmp_path)
    with np.load(tmp_path / "000000.npz") as arrays:
        np.savez(tmp_path / "000000.npz", **{**arrays, "samples": np.array([None], object)})
    with pytest.raises(FileNotFoundError, match="is gone or damaged"):
        mc.open_results(tmp_path)[0]


def test_weights_of_what_cannot_be_traced(tmp_path: Path) -> None:
    """It runs as under `jax.vmap`, and resumes."""

    def reads_values(key: jax.Array, x: jax.Array) -> jax.Array:
        return _fn(key, x) * float(x.sum())

    found = _run(tmp_path, reads_values)
    np.testing.assert_array_equal(found[1], _run(tmp_path, reads_values)[1])
    assert set(np.unique(found[1])) == {0, 24}
