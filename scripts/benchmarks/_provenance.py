"""Where figures come from: the machine, the versions, the code, and what else the machine did."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "equinox", "dm-haiku", "keras", "torch")
_ROOT = Path(__file__).parents[2]
# What is measured, and what measures. Pages and tests change no figure.
_MEASURED = (
    "jaxdrop",
    "scripts/benchmark.py",
    "scripts/benchmarks",
    "scripts/accelerator",
    "scripts/ahead",
    "scripts/training",
    "examples",
)


def versions() -> dict[str, str]:
    """The installed versions of what takes part."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, its memory, and the device that JAX computes on."""
    device = jax.devices()[0]
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "model": _field("/proc/cpuinfo", r"model name\s*: (.*)"),
        "cpus": os.cpu_count(),
        "memory": int(_field("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) * 1024 or None,
        "backend": device.platform,
        "device": device.device_kind,
    }
    if device.platform != "cpu":
        found["device_memory"] = (device.memory_stats() or {}).get("bytes_limit")
    return found


def code() -> dict[str, Any]:
    """The last commit that changed what is measured, the hash of what is measured, which a rebase
    leaves as it is, and whether files differ from it; nothing outside a clone.
    """
    trees = _git("rev-parse", *(f"HEAD:{path}" for path in _MEASURED))
    return {
        "commit": _git("log", "-1", "--format=%H", "--", *_MEASURED),
        "content": hashlib.sha256(trees.encode()).hexdigest()[:16] if trees else None,
        "changed": bool(_git("status", "--porcelain", "--", *_MEASURED)),
    }


def now() -> str:
    """The time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Watch:
    """How busy the machine is besides this process, from its making on."""

    def __init__(self) -> None:
        self._date = now()
        self._load = _load()
        self._start = time.monotonic(), _own(), _busy()

    def reading(self) -> dict[str, Any]:
        """When it began, the seconds since, the load averages then and now, which this process is
        a part of, and `other_work`: how many cores, on average, others kept busy.
        """
        begin, own, busy = self._start
        seconds, total = time.monotonic() - begin, _busy()
        other = None
        if busy is not None and total is not None and seconds > 0:
            other = round(max(total - busy - (_own() - own), 0) / seconds, 3)
        return {
            "date": self._date,
            "seconds": round(seconds, 1),
            "load": [self._load, _load()],
            "other_work": other,
        }


def _load() -> list[float] | None:
    return [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy() -> float | None:
    """The seconds that all cores were busy, or that other guests of the host took from them."""
    line = _field("/proc/stat", r"cpu +(.*)")
    if line is None:
        return None
    user, nice, system, _idle, _wait, *others = map(int, line.split()[:8])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def _field(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return found[1].strip() if found else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
