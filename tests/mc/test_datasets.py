"""Whole data sets: the same numbers as batch by batch, on disk too, through any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import _progress

DATA = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
BATCHES = [DATA[:4], DATA[4:8], DATA[8:]]
W = jax.random.normal(jax.random.key(1), (6, 3))
OTHER_W = W.at[5, 2].add(1e-6)
KEYS = mc.keys(jaxdrop.key(0), 5, "independent")


def _fn(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, x, 0.5) @ W


def _classified(logits: jax.Array) -> mc.Classification:
    return mc.classification(logits=logits)


def _run(batches: object = BATCHES, keys: jax.Array = KEYS, **options: object) -> mc.DatasetResults:
    return mc.predict_dataset(options.pop("fn", _fn), batches, keys, progress=False, **options)


@pytest.mark.parametrize("same_keys", [False, True])
def test_samples_are_those_of_each_batch(same_keys: bool) -> None:
    results = _run(same_keys=same_keys)
    sample = jax.jit(jax.vmap(_fn, in_axes=(0, None)))
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    expected = [
        sample(KEYS if same_keys else fold(KEYS, index), x) for index, x in enumerate(BATCHES)
    ]
    assert len(results) == 3
    for part, samples in zip(results, expected, strict=True):
        assert isinstance(part, np.ndarray)
        np.testing.assert_allclose(part, samples, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(results.concatenate(), np.concatenate(results, axis=1))
    np.testing.assert_array_equal(results[-1], results[2])
    assert [x.shape for x in results[1:]] == [(5, 4, 3), (5, 2, 3)]


def test_folding_keeps_strata() -> None:
    """Each unit of each batch is dropped in exactly half of the samples."""
    results = _run(
        [DATA] * 2,
        mc.keys(jaxdrop.key(0), 4),
        fn=lambda key, x: jaxdrop.dropout(key, jnp.ones_like(x), 0.5),
    )
    assert all(((part == 0).sum(0) == 2).all() for part in results)
    assert not np.array_equal(*results)


def test_summaries_are_put_together() -> None:
    whole, samples = _run(summary=_classified, batch_size=2).concatenate(), _run().concatenate()
    assert isinstance(whole, mc.Classification)
    assert whole.num_samples == 5
    chex.assert_trees_all_close(whole, _classified(samples), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_batches_of_several_inputs(kind: type) -> None:
    labels = np.arange(10)
    pairs = [(x, labels[at : at + 4]) for at, x in zip((0, 4, 8), BATCHES, strict=True)]
    if kind is dict:
        batches, fn = (
            [{"x": x, "y": y} for x, y in pairs],
            lambda key, batch: (_fn(key, batch["x"]), batch["y"]),
        )
    else:
        batches, fn = map(kind, pairs), lambda key, x, y: (_fn(key, x), y)
    logits, kept = _run(iter(batches), fn=fn).concatenate()
    np.testing.assert_allclose(logits, _run().concatenate(), rtol=1e-6)
    np.testing.assert_array_equal(kept, np.tile(labels, (5, 1)))


def test_two_shapes_are_traced_twice() -> None:
    _run([*BATCHES[:2], *BATCHES[:2], BATCHES[2]], fn=chex.assert_max_traces(_fn, n=2))


def test_a_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    mc.predict_dataset(_fn, iter(BATCHES[:1]), KEYS)
    shown = capsys.readouterr()
    assert "batches" in shown.err
    assert not shown.out


@pytest.mark.parametrize(("batches", "of"), [(BATCHES, " of 3"), ((x for x in BATCHES), "")])
def test_lines_say_how_many_there_are(
    batches: object,
    of: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If that is known."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    mc.predict_dataset(_fn, batches, KEYS)
    assert capsys.readouterr().err == f"batches: 3{of}, done\n"


def test_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rich is not installed; and from the first of several processes only."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    clock = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: clock[0])

    def slow() -> Iterator[int]:
        for seconds in (10, 0.5, 9.5, 11, 1):
            yield 0
            clock[0] += seconds

    assert len([*_progress.track(slow(), "batches", None)]) == 5
    shown = "batches: 3\nbatches: 5\nbatches: 5, done\n"
    assert capsys.readouterr().err == shown
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert [*_progress.track([1, 2], "batches", 2)] == [1, 2]
    assert capsys.readouterr().err == ""


class _ByIndex:
    """What `iter` takes too."""

    def __getitem__(self, index: int) -> np.ndarray:
        return BATCHES[index]


def test_whatever_can_be_iterated() -> None:
    np.testing.assert_array_equal(_run(_ByIndex()).concatenate(), _run().concatenate())
    for batches in ("text", b"text", 3, DATA[0, 0], np.array(3.0), None):
        with pytest.raises(TypeError, match="batches must be an iterable of inputs, got"):
            _run(batches)
    for array in (DATA, jnp.asarray(DATA)):
        with pytest.raises(ValueError, match=r"array of shape \(10, 6\), each row [^$]* examples="):
            _run(array)
    rows = _run(list(DATA.reshape(5, 2, 6))).concatenate()
    assert rows.shape == (5, 10, 3)


def test_keys_divided_among_devices() -> None:
    mesh = jax.make_mesh((5,), ("a",), devices=jax.devices()[:5])
    keys = jax.device_put(KEYS, NamedSharding(mesh, PartitionSpec("a")))
    found, expected = _run(keys=keys).concatenate(), _run().concatenate()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# -- on disk


def test_files_hold_the_same(tmp_path: Path) -> None:
    """Short floats, nested results and odd names too; nothing is left over, and each file can be
    read on its own.
    """

    def fn(key: jax.Array, x: jax.Array) -> dict[str, object]:
        logits = _fn(key, x)
        return {
            "file": logits.astype(jnp.bfloat16),
            "nested": [logits > 0, {"sum": logits.sum(-1)}],
            "none": None,
        }

    written, kept = _run(fn=fn, path=tmp_path / "new" / "results"), _run(fn=fn)
    chex.assert_trees_all_equal(written.concatenate(), kept.concatenate())
    chex.assert_trees_all_equal_dtypes(written.concatenate(), kept.concatenate())
    names = sorted(file.name for file in (tmp_path / "new" / "results").iterdir())
    assert names == ["000000.npz", "000001.npz", "000002.npz", "manifest.json"]
    with np.load(tmp_path / "new" / "results" / "000002.npz") as arrays:
        np.testing.assert_array_equal(arrays["nested.1.sum"], kept[2]["nested"][1]["sum"])
        assert arrays["inputs_crc32"] == zlib.crc32(BATCHES[2].tobytes())
    # What later versions read: the number of the form, and members that may be larger than 4 GiB,
    # which have a further field behind their names.
    assert json.loads((tmp_path / "new" / "results" / "manifest.json").read_text())["format"] == 2
    content = (tmp_path / "new" / "results" / "000002.npz").read_bytes()
    assert int.from_bytes(content[28:30], "little") > 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches that are written, as they are."""
    from jaxdrop.mc import _storage

    written, write = [], _storage.Directory.write

    def spy(self: object, index: int, *arguments: object) -> None:
        written.append(index)
        write(self, index, *arguments)

    monkeypatch.setattr(_storage.Directory, "write", spy)
    return written


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone"])
def test_a_torn_file_is_computed_again(tmp_path: Path, counted: list[int], damage: str) -> None:
    expected = _run(path=tmp_path).concatenate()
    file = tmp_path / "000001.npz"
    content = file.read_bytes()
    at = len(content) // 3
    damaged = {
        "cut": content[:at],
        "empty": b"",
        "flipped": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
    }
    file.write_bytes(damaged[damage]) if damage in damaged else file.unlink()
    (tmp_path / "unfinished").write_bytes(b"half a file")
    counted.clear()
    np.testing.assert_array_equal(_run(path=tmp_path).concatenate(), expected)
    assert counted == [1]
    assert not (tmp_path / "unfinished").exists()


def test_a_file_that_is_lost_later(tmp_path: Path) -> None:
    results = _run(path=tmp_path)
    (tmp_path / "000001.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"000001.npz is gone or damaged: run predict_dataset again"
    ):
        results.concatenate()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"keys": mc.keys(jaxdrop.key(1), 5, "independent")},
            r"other keys: '5 keys, sha256 \w+' there, '5 keys, sha256 \w+' now",
        ),
        ({"keys": KEYS[:4]}, "other keys: '5 keys"),
        (
            {"fn": lambda key, x: jaxdrop.dropout(key, x, 0.5) @ OTHER_W},
            r"other weights: '1 arrays, checksum \w{8}' there",
        ),
        ({"summary": _classified}, "other (results|summary)"),
        ({"same_keys": True}, "other same_keys: False there, True now"),
        (
            {"fn": lambda key, x: _fn(key, x)[:, :2]},
            r"other results: .*float32\(5, batch, 3\).*float32\(5, batch, 2\)",
        ),
        (
            {"batches": [DATA[4:8], DATA[:4]]},
            r"batch 0 is not the one whose results are in .*000000.npz: its inputs differ",
        ),
        ({"batches": [DATA[:4], DATA[4:7]]}, "batch 1 is not the one"),
    ],
)
def test_another_run_is_not_mixed_in(tmp_path: Path, change: dict[str, object], what: str) -> None:
    _run(BATCHES[:2], path=tmp_path)
    with pytest.raises(ValueError, match=what):
        _run(**{"batches": BATCHES, "path": tmp_path} | change)


def test_a_path_is_that_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        NotADirectoryError, match=r"path must be that of a directory, .*file is a f"
    ):
        _run(path=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


_PROGRAM = """
import sys, time
import jax, numpy as np, jaxdrop
from jaxdrop import mc

def batches():
    for index, x in enumerate(np.arange(120, dtype=np.float32).reshape(12, 5, 2)):
        yield x

def slow(x):
    print("computed", flush=True)
    time.sleep(0.05)
    return x

def fn(key, x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jaxdrop.dropout(key, jax.pure_callback(slow, shape, x, vmap_method="sequential"), 0.5)

keys = mc.keys(jaxdrop.key(0), 3, "independent")
mc.predict_dataset(fn, batches(), keys, path=sys.argv[1], progress=False)
print("done", flush=True)
"""


def _start(path: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_killed_and_resumed(tmp_path: Path) -> None:
    """Killed while it computes the fifth batch: the next run computes that one and those after it,
    and no other.
    """
    with _start(tmp_path) as process:
        for _ in range(5):
            assert process.stdout.readline() == "computed\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = len(list(tmp_path.glob("*.npz")))
    assert finished == 4
    with _start(tmp_path) as process:
        lines = process.stdout.read().split()
    assert lines == ["computed"] * (12 - finished) + ["done"]

    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        return jaxdrop.dropout(key, x, 0.5)

    expected = _run(
        list(np.arange(120, dtype=np.float32).reshape(12, 5, 2)),
        mc.keys(jaxdrop.key(0), 3, "independent"),
        fn=fn,
    )
    for index, part in enumerate(expected):
        with np.load(tmp_path / f"{index:06}.npz") as arrays:
            np.testing.assert_array_equal(arrays["samples"], part)
    assert json.loads((tmp_path / "manifest.json").read_text())["results"] == {
        "samples": "float32(3, batch, 2)"
    }


# -- bad input


def test_no_batches() -> None:
    results = _run([])
    assert len(results) == 0
    with pytest.raises(IndexError, match="there are 0 batches, got 0"):
        results[0]
    with pytest.raises(ValueError, match="nothing to concatenate"):
        results.concatenate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fn": lambda key, x: _fn(key, x).T},
            r"fn must return arrays with the batch on their first axis.*\(4, 6\).*\(3, 4\)",
        ),
        (
            {"summary": lambda x: x},
            r"summary must return arrays with the batch on their first axis",
        ),
        ({"keys": KEYS[0]}, "keys must be a key array"),
    ],
)
def test_no_batch_axis(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _run(**options)


def test_a_batch_of_no_examples() -> None:
    """Nothing is random in it, which is no error; in evaluation, the other batches still are."""
    found = _run([DATA[:4], DATA[:0], DATA[4:]], summary=_classified).concatenate()
    assert found.mean.shape == (10, 3)
    np.testing.assert_array_equal(
        found.mean[:4], _run([DATA[:4]], summary=_classified).concatenate().mean
    )
    with pytest.raises(ValueError, match="nothing that fn returns depends on its key"):
        _run([DATA[:0], DATA[:4]], fn=lambda key, x: x)


def test_numbers_that_differ() -> None:
    results = _run(summary=lambda x: x.mean())
    assert len(set(map(float, results))) == 3
    with pytest.raises(ValueError, match="not the same in all batches"):
        results.concatenate()


# -- what users have, and what they read


def _numbered(key: jax.Array, x: jax.Array) -> dict[str, object]:
    logits = _fn(key, x)
    return {"half": logits.astype(jnp.bfloat16), "first": logits[:, 0] > 0}


def _loader() -> object:
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(DATA).batch(4)


def _torch() -> object:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(DATA))
    return torch.utils.data.DataLoader(data, batch_size=4)


@pytest.mark.parametrize("source", [_loader, _torch], ids=["grain", "torch"])
def test_loaders_of_others(source: object) -> None:
    np.testing.assert_array_equal(_run(source()).concatenate(), _run().concatenate())


def test_tensors_of_every_kind() -> None:
    torch = pytest.importorskip("torch")
    half = torch.from_numpy(DATA[:4]).to(torch.bfloat16)
    tensors = [torch.from_numpy(DATA[:4]).requires_grad_(), half]
    found = _run([{"x": tensors[0], "half": half}], fn=lambda key, batch: _fn(key, batch["x"]))
    np.testing.assert_array_equal(found.concatenate(), _run([DATA[:4]]).concatenate())
    found = _run([half], fn=lambda key, x: jaxdrop.dropout(key, x, 0.5))
    assert found[0].dtype == jnp.bfloat16


def test_arrays_are_cut() -> None:
    """Of several inputs too, and the rest is a batch of its own."""
    np.testing.assert_array_equal(_run(DATA, examples=4).concatenate(), _run().concatenate())
    data = DATA, {"y": np.arange(10)}
    both = _run(data, examples=4, fn=lambda key, x, y: (_fn(key, x), y["y"]))
    assert len(both) == 3
    np.testing.assert_array_equal(both.concatenate()[1], np.tile(np.arange(10), (5, 1)))
    for data, words in (((DATA, DATA[:9]), "first axis"), ((DATA, 3), "first axis")):
        with pytest.raises(ValueError, match=words):
            _run(data, examples=4, fn=lambda key, x, y: _fn(key, x))
    with pytest.raises(ValueError, match="examples must be at least 1"):
        _run(DATA, examples=0)
    one = _run(DATA[:1], examples=4)
    np.testing.assert_array_equal(one.concatenate(), _run([DATA[:1]]).concatenate())
    for data, words in (
        (DATA[0, 0], r"must be arrays that have all examples .* got shapes \(\)"),
        ((DATA, DATA[:9]), r"got shapes \(10, 6\), \(9, 6\)"),
    ):
        with pytest.raises(ValueError, match=words):
            _run(data, examples=4)
    with pytest.raises(TypeError, match="batch 0 of batches must be an array of numbers"):
        _run(np.array(["a"]), examples=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        _run(batch_size=0)


@pytest.mark.parametrize("suffix", ["npz", "parquet", "zarr"])
def test_results_for_other_programs(tmp_path: Path, suffix: str) -> None:
    """Examples come first, numbers are kept, and what was there before is replaced."""
    if suffix != "npz":
        pytest.importorskip({"parquet": "pyarrow", "zarr": "zarr"}[suffix])
    file, results = tmp_path / f"out.{suffix}", _run(fn=_numbered)
    classified = _run(summary=_classified)
    for saved in (results, classified):
        saved.save(file)
    whole = classified.concatenate()
    if suffix == "npz":
        with np.load(file) as arrays:
            found, number = arrays["log_mean"], arrays["num_samples"]
    elif suffix == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(file)
        about = json.loads(table.schema.metadata[b"jaxdrop"])
        found, number = np.array(table["log_mean"].to_pylist()), about["numbers"]["num_samples"]
        assert about["shapes"]["log_mean"] == [3]
        assert "half" not in table.column_names
    else:
        import zarr

        group = zarr.open_group(str(file), mode="r")
        found, number = group["log_mean"][:], group.attrs["num_samples"]
        assert group["log_mean"].chunks == (4, 3)  # those of a batch
    np.testing.assert_allclose(found, whole.log_mean, rtol=1e-6)
    assert number == 5
    results.save(tmp_path / "half.npz")
    content = (tmp_path / "half.npz").read_bytes()
    assert int.from_bytes(content[28:30], "little") > 0  # it may be larger than 4 GiB
    with np.load(tmp_path / "half.npz") as arrays:
        expected = np.moveaxis(results.concatenate()["half"], 1, 0)
        np.testing.assert_array_equal(arrays["half"], expected.astype(np.float32))
        assert arrays["first"].shape == (10, 5)
    assert {x.name for x in tmp_path.iterdir()} == {file.name, "half.npz"}


def test_no_such_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = _run()
    with pytest.raises(ValueError, match=r"\.npz, \.parquet, \.zarr"):
        results.save(tmp_path / "out.csv")
    with pytest.raises(TypeError, match="path must be that of a file"):
        results.save(3)
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        results.save(tmp_path / "out.zarr")
    with pytest.raises(ValueError, match="nothing to save"):
        _run([]).save(tmp_path / "out.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"jaxdrop\[parquet\]"):
        results.save(tmp_path / "out.parquet")
    assert [x.name for x in tmp_path.iterdir()] == ["out.zarr"]
    (tmp_path / "out.npz").mkdir()
    (tmp_path / "out.npz" / "zarr.json").touch()
    with pytest.raises(ValueError, match="is a folder"):
        results.save(tmp_path / "out.npz")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"jaxdrop\[zarr\]"):
        results.save(tmp_path / "other.zarr")
