"""Runs of `scripts/train.py` in processes of their own. The long form is `scripts/check_training.py`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from training import launch

SHORT = ["--model", "masks", "--steps", 30, "--batch", 16, "--eval-examples", 16, "--eval-every", 5, "--save-every", 5]


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_killed_and_divided_runs_draw_the_masks_of_one_process(tmp_path: Path) -> None:
    """`kill -9` of a process in the middle of training, which two processes of four devices each then finish."""
    whole = launch.launch([*SHORT, "--out", tmp_path / "whole"], tmp_path / "whole.txt")
    killed = launch.launch([*SHORT, "--out", tmp_path / "run"], tmp_path / "run.txt")
    while not (tmp_path / "run" / "checkpoints" / "5" / "SHA256SUMS").exists():
        assert killed.is_alive(), (tmp_path / "run.txt").read_text()
        time.sleep(0.01)
    killed.kill()
    for process in (whole, killed):
        process.join()
    assert (whole.exitcode, killed.exitcode) == (0, -9)

    both = launch.launch_all(2, [*SHORT, "--out", tmp_path / "run"], tmp_path / "both.txt", devices=4)
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "both.txt.0").read_text()
    assert "Going on behind step" in (tmp_path / "both.txt.0").read_text()
    np.testing.assert_array_equal(losses(tmp_path / "run"), losses(tmp_path / "whole"))
