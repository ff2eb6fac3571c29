"""Tokens in ArrayRecord files: each is there once, and a batch is the same whoever reads it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
import write_tokens
from training import data, records

LENGTH = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens 0 to 999 for training, in documents of 90, and 500 to 599 to judge by."""
    out = tmp_path_factory.mktemp("tokens")
    documents = np.split(np.arange(1000), range(90, 1000, 90))
    parts = {"training": documents, "validation": [np.arange(500, 600)]}
    counts = records.write(out, parts, length=LENGTH, classes=1000, files=3)
    assert counts == {"training": 142, "validation": 14}
    return out


def test_each_token_is_predicted_once(folder: Path) -> None:
    found = data.load("text", folder, length=LENGTH, seed=0)
    assert found.classes == 1000
    rows = found.training[np.arange(len(found.training))]
    np.testing.assert_array_equal(rows.inputs[:, 1:], rows.labels[:, :-1])
    assert sorted(rows.labels.ravel()) == list(range(1, 1 + 142 * LENGTH))
    numbers, counted = found.validation.cover()
    assert (len(numbers), set(counted)) == (14, {LENGTH})


def batches(folder: Path, rows: list[int], start: Any = None) -> list[np.ndarray]:
    source = data.load("text", folder, length=LENGTH, seed=0).training
    iterator = data.batches(source, 40, batch=4, micro_batches=1, rows=rows, seed=1)
    if start is not None:
        iterator.set_state(start)
    return [batch.inputs[0] for batch in iterator]


def test_hosts_read_their_rows_of_the_same_batches(folder: Path) -> None:
    whole = batches(folder, [0, 1, 2, 3])
    halves = zip(batches(folder, [0, 1]), batches(folder, [2, 3]), strict=True)
    np.testing.assert_array_equal(whole, [np.concatenate(parts) for parts in halves])
    assert len({tuple(row) for batch in whole[:35] for row in batch}) == 140  # of 142


def test_a_stream_goes_on_where_it_was(folder: Path) -> None:
    source = data.load("text", folder, length=LENGTH, seed=0).training
    iterator = data.batches(source, 40, batch=4, micro_batches=1, rows=[0, 1, 2, 3], seed=1)
    for _ in range(37):  # into the second epoch
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    np.testing.assert_array_equal(
        batches(folder, [0, 1, 2, 3], state), batches(folder, [0, 1, 2, 3])[37:]
    )


@pytest.mark.sweep
@pytest.mark.usefixtures("relaxed")
def test_a_resumed_run_logs_what_it_would_have_logged(folder: Path, tmp_path: Path) -> None:
    options = ["--model", "transformer", "--data", folder, "--length", LENGTH, "--width", 8]
    options += ["--heads", 2, "--layers", 1, "--batch", 8, "--eval-examples", 8, "--eval-every", 3]
    arguments = [*map(str, [*options, "--steps", 6, "--save-every", 3, "--out"])]
    train.main([*arguments, str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    train.main([*arguments, str(tmp_path / "run")])
    logs = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "run")]
    assert logs[0] == logs[1]


def test_texts_become_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [tmp_path / name for name in ("one", "two")]
    texts[0].write_bytes(b"abcdefghij" * 30)
    texts[1].write_bytes(b"0123456789" * 70)
    out = tmp_path / "tokens"
    options = ["--length", "9", "--files", "2", "--held-out", "0.2"]
    write_tokens.main([*map(str, texts), "--out", str(out), *options])
    assert "88 records for training, 22 records for validation" in capsys.readouterr().out
    found = data.load("text", out, length=9, seed=0)
    rows = found.training[np.arange(88)]
    assert sum(bytes(row.astype(np.uint8)).count(b"j") for row in rows.labels) == 30
    assert bytes(found.validation[0].inputs.astype(np.uint8)) == b"012345678"


def test_what_is_no_folder_of_tokens_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has records of 7 tokens\. Take --length 7"):
        data.load("text", folder, length=8, seed=0)
    for name in ("tokens.yaml", "training-00000.array_record"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(SystemExit, match=r"training-00001.array_record is not what tokens\.yaml"):
        data.load("text", tmp_path, length=LENGTH, seed=0)
    for text, error in {
        b"length: 7": "KeyError",
        b"[]": "TypeError",
        b"{length: 7, dtype: uint16, files: {training: []}}": "AttributeError",
        b"\xff\xfe\xfd": "UnicodeDecodeError",
    }.items():
        (tmp_path / "tokens.yaml").write_bytes(text)
        message = re.escape(f"no folder of tokens (tokens.yaml: {error}")
        with pytest.raises(SystemExit, match=message):
            data.load("text", tmp_path, length=LENGTH, seed=0)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 10]], r"tokens must be in \[0, 10\), got 1 to 10"),
        ([[-1]], r"got -1 to -1"),
        ([[1] * 9], "the training part has 1 records of 7 tokens, for 2 files: it is too short"),
    ],
)
def test_tokens_that_cannot_be_written(tokens: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        records.write(
            tmp_path,
            {"training": tokens, "validation": tokens},
            length=LENGTH,
            classes=10,
            files=2,
        )


def test_a_folder_that_is_half_written_over_is_none(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    def stopped() -> Iterator[np.ndarray]:
        yield np.arange(1000)
        raise KeyboardInterrupt

    parts = {"training": stopped(), "validation": [np.arange(100)]}
    with pytest.raises(KeyboardInterrupt):
        records.write(tmp_path, parts, length=LENGTH, classes=1000)
    with pytest.raises(SystemExit, match=r"no folder of tokens \(tokens\.yaml: FileNotFound"):
        data.load("text", tmp_path, length=LENGTH, seed=0)


def test_other_tokens_are_other_data(folder: Path, tmp_path: Path) -> None:
    parts = {"training": [np.arange(1000)[::-1]], "validation": [np.arange(500, 600)]}
    records.write(tmp_path, parts, length=LENGTH, classes=1000, files=3)
    digests = [
        data.digest(data.load("text", at, length=LENGTH, seed=0)) for at in (folder, tmp_path)
    ]
    assert digests[0] != digests[1]
