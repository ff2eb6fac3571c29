"""Batches follow from the seed and the step, whoever loads them; files that are not what they
should be are named.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from training import data


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Six images of 2 x 3 pixels in the format of MNIST, half of the files compressed."""
    pixels = np.arange(36).reshape(6, 2, 3)
    for name, count in (("train", 4), ("t10k", 2)):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[:count])))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(count)))
    return tmp_path


def load(path: Path | None, kind: data.Kind = "images", length: int = 4) -> data.Data:
    return data.load(kind, path, length=length, seed=0)


def test_mnist(mnist: Path) -> None:
    found = load(mnist)
    assert (len(found.training), len(found.validation), found.classes) == (4, 2, 4)
    image, label = found.training[1]
    np.testing.assert_allclose(image[..., 0] * 255, [[6, 7, 8], [9, 10, 11]], rtol=1e-6)
    assert label == 1


def test_digits() -> None:
    found = load(None)
    assert len(found.training) + len(found.validation) == 1797
    assert found.training[0].inputs.shape == (8, 8, 1)
    assert set(found.validation[:].labels) == set(range(10))


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abc" * 100, encoding="utf-8")
    found = load(path, "text")
    assert found.classes == 3
    window = found.training[2]
    assert window.inputs.tolist() == [2, 0, 1, 2]
    assert window.labels.tolist() == [0, 1, 2, 0]
    last = found.validation[len(found.validation) - 1]
    assert last.labels[-1] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train-images-idx3-ubyte.gz",
            None,
            "holds no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz",
        ),
        ("train-images-idx3-ubyte.gz", b"\x1f\x8b\x08", "broken gzip file"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(idx(np.ones((4, 2, 3))), mtime=0)[:-9],
            "broken gzip file",
        ),
        ("train-labels-idx1-ubyte", b"", "begins with nothing"),
        (
            "train-labels-idx1-ubyte",
            idx(np.ones((2, 2))),
            "not an idx file of bytes with 1 axes: it begins with 00 00 08 02",
        ),
        (
            "train-labels-idx1-ubyte",
            idx(np.ones(4))[:-1],
            "says that it holds 4 bytes, but holds 3",
        ),
        ("train-labels-idx1-ubyte", idx(np.ones(3)), "train has 4 images, but 3 labels"),
    ],
)
def test_malformed_mnist(mnist: Path, name: str, content: bytes | None, message: str) -> None:
    (mnist / name).unlink() if content is None else (mnist / name).write_bytes(content)
    with pytest.raises(SystemExit, match=re.escape(message)):
        load(mnist)


def test_malformed_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with pytest.raises(SystemExit, match="there is no such file or folder"):
        load(path, "text")
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SystemExit, match="not a text in UTF-8"):
        load(path, "text")
    path.write_text("too short")
    with pytest.raises(SystemExit, match="has 9 characters; windows of 4 take more than 40"):
        load(path, "text")
    with pytest.raises(SystemExit, match=r"no folder of tokens \(tokens.yaml: FileNotFound"):
        load(tmp_path, "text")


# -- batches

SOURCE = data.Images(np.arange(10.0), np.arange(10))


def batches(
    rows: list[int], *, micro_batches: int = 1, start: dict[str, int] | None = None
) -> list[np.ndarray]:
    iterator = data.batches(SOURCE, 8, batch=4, micro_batches=micro_batches, rows=rows, seed=1)
    if start is not None:
        iterator.set_state(start)
    return [batch.labels for batch in iterator]


def test_an_epoch_has_every_example_once() -> None:
    order = np.concatenate([batch[0] for batch in batches([0, 1, 2, 3])])
    for epoch in (order[:10], order[10:20], order[20:30]):
        assert sorted(epoch) == list(range(10))
    assert list(order[:10]) != list(order[10:20])


def test_rows_and_micro_batches_are_parts_of_the_whole_batch() -> None:
    whole = batches([0, 1, 2, 3])
    for batch, first, second in zip(whole, batches([0, 1]), batches([2, 3]), strict=True):
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), batch)
    for batch, parts in zip(whole, batches([0, 1], micro_batches=2), strict=True):
        np.testing.assert_array_equal(parts.reshape(1, 4), batch)


def test_batches_go_on_where_they_stopped() -> None:
    iterator = data.batches(SOURCE, 8, batch=4, micro_batches=1, rows=[0, 1, 2, 3], seed=1)
    for _ in range(3):
        next(iterator)
    np.testing.assert_array_equal(
        batches([0, 1, 2, 3], start=iterator.get_state()), batches([0, 1, 2, 3])[3:]
    )


def test_spread() -> None:
    np.testing.assert_array_equal(data.spread(SOURCE, 4), [0, 3, 6, 9])
    assert len(data.spread(SOURCE, 99)) == 10
