"""Options of `scripts/train.py`: whatever is out of range, or does not go together, is named before
anything is loaded.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from training import config, models, steps

WRONG: dict[Any, tuple[Any, ...]] = {
    int: (-1, 1.5, "many", "nan", ""),
    float: ("nan", "inf", -0.5, "1,5", ""),
    bool: ("perhaps",),
    str: (),
    epath.Path: ("s3://bucket/folder", "gs://", "gs:/bucket/folder"),
}


def options() -> list[tuple[str, Any]]:
    """Each option with each kind of invalid value."""
    found: list[tuple[str, Any]] = []
    for name, hint in typing.get_type_hints(config.Config).items():
        kind = (
            next(iter(typing.get_args(hint)), hint) if type(None) in typing.get_args(hint) else hint
        )
        wrong = WRONG.get(kind, ("unheard of", ""))  # a choice
        found += [(f"--{name.replace('_', '-')}", value) for value in wrong]
    return found


PAIRS: dict[str, list[Any]] = {
    "--heads 3: does not divide --width 64": ["--model", "transformer", "--heads", 3],
    "--width 1: LayerNorm": ["--model", "transformer", "--width", 1, "--heads", 1],
    "--compare: goes with --parallel jit": ["--compare", "--parallel", "pmap"],
    "--skip-tokens: go with --model transformer": ["--skip-tokens", 0.5],
    "--skip-tokens: go with --parallel jit": [
        *["--model", "transformer", "--skip-units", 0.5, "--parallel", "shard_map"]
    ],
    "--skip-tokens: must be less than 1": ["--model", "transformer", "--skip-examples", 1],
    "--remat: goes with": ["--remat", "--model", "rnn"],
    "--stop-at 9: is behind the last of the --steps 8": ["--stop-at", 9, "--steps", 8],
    "--profile 9: is behind the last of the --steps 8": ["--profile", 9, "--steps", 8],
    "--batch 16: is not a multiple of --micro-batches 3": ["--batch", 16, "--micro-batches", 3],
    "--process-id go together": ["--coordinator", "localhost:1"],
    "--coordinator localhost: must be": [
        *["--coordinator", "localhost", "--num-processes", 2, "--process-id", 0]
    ],
    "--coordinator localhost:65535: the port must be less than": [
        *["--coordinator", "localhost:65535", "--num-processes", 2, "--process-id", 0]
    ],
    "--process-id 2: must be less": [
        *["--coordinator", "localhost:1", "--num-processes", 2, "--process-id", 2]
    ],
    "--distributed: finds": [
        *["--distributed", "--coordinator", "localhost:1", "--num-processes", 2, "--process-id", 0]
    ],
    "s3://bucket/run: must be a path, or gs://bucket/path": ["--out", "s3://bucket/run"],
    "--peak-tflops: must be more than 0, got 0": ["--peak-tflops", 0],
    "--seed: must be in [0, 4294967295], got 1099511627776": ["--seed", 2**40],
    "--rate: must be in [0, 1], got 1.5": ["--rate", 1.5],
    "--clip: must be more than 0, got 0": ["--clip", 0],
    "Unrecognized options: --keep-prob": ["--keep-prob", 0.5],
}


def said(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a command line ends, without its frame."""
    with pytest.raises(SystemExit) as raised:
        config.parse([*map(str, arguments)])
    assert raised.value.code == 2
    output = capsys.readouterr()
    return " ".join(re.sub("[│─╭╮╰╯]", " ", output.out + output.err).split())


def test_each_option_at_each_kind_of_invalid_value(capsys: pytest.CaptureFixture[str]) -> None:
    lines = options()
    assert len(lines) + len(PAIRS) >= 100
    for option, value in lines:
        text = said([f"{option}={value}"], capsys)
        assert option in text or f"options: {value}" in text, (option, value)


@pytest.mark.sweep
@pytest.mark.parametrize("message", PAIRS)
def test_what_does_not_go_together(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in said(PAIRS[message], capsys)


def test_a_file_and_options_over_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: transformer\nrate: 0.3\ndata: some/text\ncompare: true\n")
    found = config.parse(["--config", str(path), "--rate", "0.2", "--no-compare"])
    expected = config.Config(model="transformer", rate=0.2, data=epath.Path("some/text"))
    assert found == expected
    assert config.parse([]) == config.Config()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rates: 0.3", "['rates'] are not options"),
        ("rate: high", "--rate: must be of type float, got 'high'"),
        ("rate: 3", "--rate: must be in [0, 1], got 3"),
        ("steps: 1.5", "--steps: must be of type int, got 1.5"),
        ("steps: true", "--steps: must be of type int, got True"),
        ("steps: null", "--steps: must be of type int, got None"),
        ("model: resnet", "--model resnet: there are mlp, cnn, transformer, rnn, masks"),
        ("- model", "['model'] are not options"),
        ("rate: [", "not a YAML file"),
        ("out: 3", "int"),
        ("out: http://host/run", "http://host/run: must be a path, or gs://bucket/path"),
    ],
)
def test_a_wrong_file(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    found = said(["--config", path], capsys)
    assert message in found
    assert str(path) in found
    assert "No such file" in said(["--config", tmp_path / "nowhere.yaml"], capsys)


def test_an_option_that_a_run_did_not_know_had_its_default() -> None:
    new = config.Config()
    old = {name: value for name, value in new.experiment.items() if name != "init_from"}
    assert config.changes(new, old) == []
    changed = dataclasses.replace(new, rate=0.2, keep=9, init_from=epath.Path("run"))
    assert config.changes(changed, old) == [
        "--rate was 0.1 and is 0.2",
        "--init-from was None and is run",
    ]
    longer = dataclasses.replace(new, steps=600, extend=True)
    assert config.changes(longer, old) == []
    shorter = dataclasses.replace(new, steps=400, extend=True)
    assert config.changes(shorter, old) == ["--steps was 500 and is 400"]


def test_there_is_what_options_name() -> None:
    assert set(models.MODELS) == set(typing.get_args(config.Model))
    assert set(steps.SCHEDULES) == set(typing.get_args(config.Schedule))
