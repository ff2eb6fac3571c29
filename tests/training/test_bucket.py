"""Runs in a bucket, by the clients of the real one and a server on this machine in its place."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import gcsfs.retry
import google.auth.exceptions
import pytest
from etils import epath

import train
from training import data, fake_bucket, launch, lock, metrics, storage

SHORT = ["--width", 8, "--layers", 1, "--batch", 16, "--eval-examples", 16]
SHORT += ["--steps", 12, "--eval-every", 4, "--save-every", 4]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_bucket.FakeBucket]:
    with fake_bucket.serve() as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.mark.sweep
def test_a_killed_run_goes_on_as_on_a_disk(bucket: fake_bucket.FakeBucket, tmp_path: Path) -> None:
    output = tmp_path / "output"

    def launched(out: object, dies_in: str | None = None) -> int | None:
        process = launch.launch(
            [*SHORT, "--out", out], output, environment=bucket.environment, dies_in=dies_in
        )
        process.join()
        return process.exitcode

    assert launched(tmp_path / "disk") == 0, output.read_text()
    saving = "training.checkpoints:_write_digests:2"
    assert launched("gs://bucket/runs/one", saving) == -9, output.read_text()
    assert launched("gs://bucket/runs/one") == 0, output.read_text()
    assert "Going on behind step 4 of gs://bucket/runs/one" in output.read_text()

    found = {name.removeprefix("runs/one/"): value for name, value in bucket.objects.items()}
    lines = (tmp_path / "disk" / "metrics.jsonl").read_text()
    assert found["metrics.jsonl"].content.decode() == lines
    config = (tmp_path / "disk" / "config.yaml").read_text()
    out = f"out: {tmp_path / 'disk'}"
    assert found["config.yaml"].content.decode() == config.replace(out, "out: gs://bucket/runs/one")
    assert sum(name.startswith("events.out.tfevents") for name in found) == 2
    assert {name for name in found if "/" not in name} == {"metrics.jsonl", "config.yaml"} | {
        name for name in found if name.startswith("events")
    }  # and no lock
    good = {name.split("/")[1] for name in found if name.endswith("SHA256SUMS")}
    assert good == {"4", "12", "8"}
    # The other checkpoint of step 8 was whole, and nothing said so.
    assert any(name.startswith("checkpoints/broken-8/state/") for name in found)


def test_what_cannot_be_written_is_said_at_the_start(bucket: fake_bucket.FakeBucket) -> None:
    storage.check_writable(epath.Path("gs://bucket/run"))
    assert not bucket.objects
    with pytest.raises(SystemExit, match=r"--out gs://nobodys/run: there is no such bucket"):
        storage.check_writable(epath.Path("gs://nobodys/run"))
    bucket.writable = False
    with pytest.raises(
        SystemExit, match=r"(?s)cannot be written .*storage\.objects\.create access"
    ):
        storage.check_writable(epath.Path("gs://bucket/run"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^--init-from gs://bucket/run: needs gcsfs\. Install"):
        train.main(["--init-from", "gs://bucket/run"])
    with pytest.raises(SystemExit, match=r"^--config gs://bucket/run\.yaml: needs gcsfs\. Install"):
        train.main(["--config", "gs://bucket/run.yaml"])


@pytest.mark.parametrize(
    "error",
    [
        gcsfs.retry.HttpError({"code": 503, "message": "unavailable"}),
        google.auth.exceptions.RefreshError("expired"),
        OSError("No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_of_storage_is_no_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit, match=rf"gs://bucket/run: .*{error.args[-1]}.*are intact"):
        train.main(["--out", "gs://bucket/run"])
    monkeypatch.setattr(train, "run", mock.Mock(side_effect=RuntimeError))
    with pytest.raises(RuntimeError):
        train.main([])


@pytest.mark.parametrize("text", ["gs://bucket/a/b", "a/b", "/a/b"])
def test_places(text: str) -> None:
    place = storage.place(text)
    assert str(place) == text
    assert str(storage.absolute(place)) == (text if text != "a/b" else str(Path.cwd() / text))


def test_files_of_this_machine_come_into_the_bucket(bucket: fake_bucket.FakeBucket) -> None:
    with storage.local(epath.Path("gs://bucket/run/profile")) as folder:
        (folder / "plugins").mkdir()
        (folder / "plugins" / "a").write_bytes(b"1")
    assert bucket.objects["run/profile/plugins/a"].content == b"1"
    bucket.put("text", b"abc" * 100)
    found = data.load("text", storage.place("gs://bucket/text"), length=4, seed=0)
    assert found.training[2].inputs.tolist() == [2, 0, 1, 2]
    with pytest.raises(SystemExit, match="only a text is read from a bucket"):
        data.load("text", storage.place("gs://bucket/run"), length=4, seed=0)


# -- the log


def test_a_log_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PART", 30)
    folder = epath.Path(tmp_path)
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(1, 9)]
    parts = metrics._Parts(folder, 0)
    for line in lines:
        parts.write(line)
    assert (tmp_path / "metrics-3.jsonl").read_text() == "".join(lines[6:])
    assert metrics.read(folder) == "".join(lines)
    unlink, killed = type(folder).unlink, mock.Mock(side_effect=[None, KeyboardInterrupt])
    with monkeypatch.context() as context:
        context.setattr(type(folder), "unlink", lambda path: killed() or unlink(path))
        with pytest.raises(KeyboardInterrupt):
            metrics._Parts(folder, 2)
    resumed = metrics._Parts(folder, 3)
    assert metrics.read(folder) == "".join(lines[:3])
    for line in lines[3:]:
        resumed.write(line)
    assert metrics.read(folder) == "".join(lines)
    metrics._Parts(folder, 0)
    assert not list(tmp_path.iterdir())


# -- the lock


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW", 0.05)
    monkeypatch.setattr(lock, "EXPIRE", 1.5)


def taken(path: Path, say: Callable[[str], None] = str) -> lock.Lease:
    lease = lock.Lease(epath.Path(path))
    lease.take(say)
    return lease


@pytest.mark.usefixtures("quick")
def test_a_lock_that_is_renewed_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    monkeypatch.setattr(lock, "_machine", lambda: str(threading.get_ident()))
    first = taken(path)
    monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
    with pytest.raises(SystemExit, match="another run writes there"):
        taken(path)
    first.check()
    first.release()
    assert not path.exists()


@pytest.mark.usefixtures("quick")
def test_a_lock_whose_holder_is_gone_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("elsewhere 1 0123 7")
    told: list[str] = []
    lease = taken(path, told.append)
    assert "waiting" in told.pop()
    path.write_text("elsewhere 2 4567 0")  # as one that took this one for dead
    lease._thread.join()
    with pytest.raises(SystemExit, match="another run writes there"):
        lease.check()
    lease.release()
    assert path.read_text() == "elsewhere 2 4567 0"

    dead = subprocess.Popen(["true"])
    dead.wait()
    assert not lock._is_dead(f"{lock._machine()} {os.getppid()} 89ab 3")
    path.write_text(f"{lock._machine()} {dead.pid} 89ab 3")
    taken(path, told.append).release()
    assert not told


def test_a_lock_is_looked_at_before_something_is_written(tmp_path: Path) -> None:
    """Also by a run whose machine stood still, so that it could not renew."""
    lease = taken(tmp_path / ".lock")
    (tmp_path / ".lock").write_text("elsewhere 2 4567 0")
    with pytest.raises(SystemExit, match="another run writes there"):
        lease.check()
    lease.release()


@pytest.mark.usefixtures("quick")
def test_a_bucket_that_fails_for_a_while_keeps_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gcsfs raises then is no `OSError`."""
    lease = taken(tmp_path / ".lock")
    failed = threading.Event()

    def fail() -> str:
        failed.set()
        raise gcsfs.retry.HttpError({"code": 503, "message": "unavailable"})

    with monkeypatch.context() as broken:
        broken.setattr(lease, "_read", fail)
        assert failed.wait(30)
        lease.check()
    before = lease._read()
    while lease._thread.is_alive() and lease._read() == before:
        time.sleep(0.01)
    assert lease._thread.is_alive()
    monkeypatch.setattr(lease, "_read", fail)
    lease.release()


def test_another_users_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not lock._is_dead(f"{lock._machine()} 1 89ab 3")
