"""`scripts/train.py`: the same run on every layout and after every stop, and a clear end where it
cannot go on.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from etils import epath
from jax.sharding import PartitionSpec as P

import jaxdrop
import train
from training import checkpoints, config, data, models, parallel

pytestmark = pytest.mark.usefixtures("relaxed")

SHORT = ["--batch", 16, "--eval-examples", 32, "--eval-every", 4]
CNN = [
    "--model",
    "cnn",
    "--width",
    4,
    "--layers",
    1,
    "--rate",
    0.3,
    "--micro-batches",
    2,
    "--schedule",
    "linear",
]
CNN += ["--steps", 8, "--save-every", 2, *SHORT]
MLP = ["--width", 16, "--layers", 1, "--rate", 0.3, "--steps", 4, *SHORT]
MASKS = ["--model", "masks", "--steps", 8, "--save-every", 100, *SHORT]


def run(out: Path, *arguments: object) -> list[dict[str, Any]]:
    """Trains, and returns what was logged."""
    train.main([*map(str, arguments), "--out", str(out)])
    return logged(out)


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, with checkpoints of its steps 4, 6 and 8."""
    out = tmp_path_factory.mktemp("whole")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run(out, *CNN)
    return out


def assert_same(out: Path, whole: Path) -> None:
    """All figures and all arrays, bit for bit."""
    assert logged(out) == logged(whole)
    states = [checkpoints.read(path / "checkpoints" / "8") for path in (out, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def damage(path: Path) -> None:
    """Flips a bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_step_is_logged_once(whole: Path) -> None:
    lines = logged(whole)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]
    np.testing.assert_allclose(
        [line["strength"] for line in lines if "loss" in line], [0, 0.5, *[1] * 6]
    )


def test_a_resumed_run_is_the_run(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, *CNN, "--stop-at", 4)
    # What a killed run leaves behind: steps after the checkpoint, and half a line.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9.0}\n{"step": 6, "lo')
    run(tmp_path, *CNN)
    assert "Going on behind step 4" in capsys.readouterr().out
    assert_same(tmp_path, whole)


def test_a_damaged_checkpoint_is_passed_over(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    damage(next((out / "checkpoints" / "8" / "state" / "ocdbt.process_0" / "d").iterdir()))
    (out / "checkpoints" / "6" / "SHA256SUMS").unlink()
    run(out, *CNN)
    said = capsys.readouterr().out
    assert re.search(
        "Checkpoint 8 is not used: its file state/.* has changed since it was written", said
    )
    assert "Checkpoint 6 is not used: the run ended before it was complete" in said
    assert "Going on behind step 4" in said
    assert_same(out, whole)


def test_training_does_not_start_again_by_itself(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for checkpoint in (out / "checkpoints").iterdir():
        damage(checkpoint / "notes" / "metadata")
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"None of the 3 checkpoints in .* is good.*Of 8"):
            run(out, *CNN)
    assert logged(out) == logged(whole)


def test_the_first_checkpoint_may_be_left_incomplete(tmp_path: Path) -> None:
    """The run was killed while it wrote it. Nothing is lost that was complete before, unless only
    one checkpoint is kept.
    """
    (tmp_path / "4").mkdir()
    folder, said = epath.Path(tmp_path), []
    with pytest.raises(SystemExit, match="Of 4, the run ended before it was complete"):
        checkpoints.Checkpoints(folder, keep=1, say=said.append)
    found = checkpoints.Checkpoints(folder, keep=2, say=said.append)
    found.close()
    assert found.newest is None
    assert [path.name for path in tmp_path.iterdir()] == ["broken-4"]
    assert len(said) == 1


def test_a_run_goes_on_as_it_was_begun(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(
        SystemExit, match=r"holds another run: --layers was 1 and is 2; --rate was 0\.3 and is 0\.2"
    ):
        run(tmp_path / "run", *CNN, "--rate", 0.2, "--layers", 2)


def test_a_run_goes_on_with_its_data(tmp_path: Path) -> None:
    text = tmp_path / "text"
    digests = []
    for content in ("ab cd " * 50, "ab cd " * 50, "ab dc " * 50):
        text.write_text(content)
        digests.append(data.digest(data.load("text", text, length=4, seed=0)))
    assert digests[0] == digests[1] != digests[2]
    options = config.Config(data=epath.Path(text))
    saved = {"settings": options.experiment, "data": digests[0]}
    train.check_same_run(options, saved | {"data": digests[1]}, saved)
    with pytest.raises(SystemExit, match="was trained on other data"):
        train.check_same_run(options, saved | {"data": digests[2]}, saved)


def test_a_run_is_made_longer_and_begun_from_another(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(whole, longer)
    with pytest.raises(SystemExit, match=r"--steps was 8 and is 10"):
        run(longer, *CNN, "--steps", 10)
    lines = run(longer, *CNN, "--steps", 10, "--extend")
    assert lines[: len(logged(whole))] == logged(whole)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 11))

    begun = tmp_path / "begun"
    monkeypatch.chdir(whole.parent)
    first = run(begun, *CNN, "--init-from", whole.name, "--stop-at", 1)
    last = next(line for line in reversed(logged(whole)) if "loss" in line)
    assert first[0]["strength"] == 0
    assert first[0]["loss"] < last["loss"] + 0.3
    assert yaml.safe_load((begun / "config.yaml").read_text())["init_from"] == whole.name
    with pytest.raises(SystemExit, match="its model is another"):
        run(tmp_path / "other", *CNN, "--init-from", whole, "--layers", 2)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with train.alone_in(tmp_path), pytest.raises(SystemExit, match="another run writes there"):
        run(tmp_path, *MASKS)


def test_a_file_gets_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the profiler a window of steps."""
    run(tmp_path, *MASKS, "--mesh", "data=4,tensor=2", "--profile", 7)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"masks of 1 parameters on 8 x cpu \(data=4, tensor=2, 1 processes\), to .*", lines[0]
    )
    assert re.fullmatch(r"Compiled in [\d.]+ s", lines[1])
    assert re.match(r"step 4 of 8, [\d.e+]+ steps/s, [\d.e+]+ examples/s; valid.* loss", lines[2])


def test_masks_do_not_depend_on_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums of all masks: of one device, and of a run on eight that moved twice."""
    devices = jax.devices()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices[:1])
        expected = losses(run(tmp_path / "one", *MASKS))
    assert len(set(expected)) == 8
    moved = tmp_path / "moved"
    run(moved, *MASKS, "--stop-at", 3, "--parallel", "shard_map", "--mesh", "data=4,tensor=2")
    run(moved, *MASKS, "--stop-at", 6, "--parallel", "pmap")
    assert losses(run(moved, *MASKS, "--mesh", "data=2,tensor=4")) == expected


def test_divided_parameters_and_bfloat16(tmp_path: Path) -> None:
    """The same steps up to the rounding of bfloat16; the parameters stay in float32."""
    expected = losses(run(tmp_path / "plain", *MLP))
    found = run(tmp_path / "divided", *MLP, "--mesh", "fsdp=4,tensor=2", "--dtype", "bfloat16")
    np.testing.assert_allclose(losses(found), expected, rtol=3e-3)
    state = checkpoints.read(tmp_path / "divided" / "checkpoints" / "4")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state["params"])} == {"float32"}


def test_all_ways_take_the_same_keys(tmp_path: Path) -> None:
    """Though the strength is constant, and drop path has rate 0 in the first block."""
    options = [*CNN, "--schedule", "constant", "--steps", 2, "--mesh", "data=8"]
    expected = losses(run(tmp_path / "jit", *options))
    np.testing.assert_allclose(
        losses(run(tmp_path / "shard_map", *options, "--parallel", "shard_map")),
        expected,
        rtol=1e-6,
    )


@pytest.mark.parametrize("model", ["cnn", "transformer", "rnn"])
def test_a_device_draws_its_part_of_the_masks(model: str) -> None:
    """Also those of attention, of blocks and of recurrent weights; and BatchNorm sees the whole
    batch.
    """
    options = config.parse(["--model", model, "--width", "8", "--length", "8", "--rate", "0.5"])
    source = data.load(models.MODELS[model].kind, None, length=8, seed=0)
    network = models.build(options, source)
    params, stats = network.init()
    inputs, key = source.training[data.spread(source.training, 8)].inputs, jaxdrop.key(1)

    def local(inputs: jax.Array) -> jax.Array:
        return network.apply(params, stats, inputs, key, axis="data")[0]

    mesh = parallel.make_mesh("data=4", jax.devices()[:4])
    specs: dict[str, Any] = {"in_specs": P("data"), "out_specs": P("data"), "axis_names": {"data"}}
    divided = jax.jit(jax.shard_map(local, mesh=mesh, **specs, check_vma=False))
    whole = jax.jit(lambda inputs: network.apply(params, stats, inputs, key)[0])
    expected = whole(inputs)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(divided(inputs), expected, rtol=1e-4, atol=1e-5)


def test_compare_trains_each_run_as_if_it_were_alone(tmp_path: Path) -> None:
    together, alone = run(tmp_path / "together", *MLP, "--compare"), run(tmp_path / "alone", *MLP)
    for line, full in zip(together, alone, strict=True):
        for name in (
            ("loss", "gradient_norm")
            if "loss" in line
            else ("training_loss", "validation_accuracy")
        ):
            none, half, found = line[name]
            np.testing.assert_allclose(found, full[name], rtol=1e-5)
            assert len({none, half, found}) == 3 or name == "validation_accuracy"
    assert (tmp_path / "together" / "comparison.png").stat().st_size > 10_000
    assert list((tmp_path / "together").glob("events.out.tfevents.*"))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit,
        match=r"Step \d: (loss|gradient_norm) is (nan|inf)\. Try a lower --learning-rate",
    ):
        run(tmp_path, *MLP, "--learning-rate", 1e20, "--clip", 1e30, "--eval-every", 99)
    assert all(np.isfinite(loss) for loss in losses(logged(tmp_path)))
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "data=3"], "--mesh data=3: 3 is not the number of devices, 8"),
        (["--mesh", "data=4,rows=2"], "'rows=2' is none of data=N, fsdp=N, tensor=N, sequence=N"),
        (["--mesh", "data=2,data=4"], "--mesh data=2,data=4: data stands there twice"),
        (
            ["--batch", 12],
            "--batch 12: its 1 micro-batches of 12 examples cannot be divided among 8 devices",
        ),
        (
            ["--parallel", "pmap", "--mesh", "data=4,tensor=2"],
            "--parallel pmap: is for one process",
        ),
        (["--data", "nowhere"], "--data nowhere: there is no such file"),
    ],
)
def test_what_does_not_fit_is_named(arguments: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(tmp_path, *arguments)
