"""The configuration of a run: fields with types and ranges, from a file, the command line, or both.

`--config FILE` reads YAML, and options override it. Each run has its own beside its log, in
`config.yaml`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import tyro
import yaml
from etils import epath

from training import storage

Model: TypeAlias = Literal["mlp", "cnn", "transformer", "rnn", "masks"]
RematPolicy: TypeAlias = Literal[
    "nothing_saveable", "attention_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable"
]
Schedule: TypeAlias = Literal["constant", "linear", "cosine", "early", "late", "curriculum"]


class Range(typing.NamedTuple):
    """Which numbers a field takes."""

    least: float
    greatest: float = math.inf
    exclusive: bool = False

    def problem(self, value: float) -> str | None:
        if self.least <= value <= self.greatest and not (self.exclusive and value == self.least):
            return None if math.isfinite(value) else "must be finite"
        if self.greatest < math.inf:
            return f"must be in [{self.least}, {self.greatest}]"
        return f"must be {'more than' if self.exclusive else 'at least'} {self.least}"


Count: TypeAlias = Annotated[int, Range(1)]
Rate: TypeAlias = Annotated[float, Range(0, 1)]
Positive: TypeAlias = Annotated[float, Range(0, exclusive=True)]
NotNegative: TypeAlias = Annotated[float, Range(0)]
Seed: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]
Place: TypeAlias = Annotated[
    epath.Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda given: storage.place(given[0]),
        is_instance=lambda value: isinstance(value, epath.Path),
        str_from_instance=lambda path: [str(path)],
    ),
]
"""A folder or file, here or in a bucket."""
_OUT = epath.Path("out/train")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What decides the results of a run. A run is resumed with the same values, or not at all.

    Args:
      model: what to train.
      data: a folder with MNIST's idx files, a text, or a folder of tokens in ArrayRecord files (see
        `scripts/write_tokens.py`); by default digits, or Python's language reference.
      layers: the number of layers or blocks.
      width: features, units or channels.
      heads: of attention; the transformer's.
      length: of windows of text, in characters.
      rate: of dropout, the probability of dropping.
      path_rate: of drop path, in the last layer; the first has 0.
      block_rate: of DropBlock; the CNN's.
      schedule: of all rates but those of what is skipped, over the run.
      skip_units: the share of the hidden units of each MLP that a step does not compute; the
        transformer's, as all that is skipped.
      skip_pattern: single units, blocks of 128, or a slice of them.
      skip_examples: the share of the examples for which a residual branch is not computed.
      skip_tokens: the share of the tokens that all layers but the first and the last pass over.
      skip_groups: how many groups of units and of examples keep equally many: a multiple of the
        number of devices that divide them.
      compare: train at none, half and all of the rates, side by side, and draw the three.
      steps: of the optimizer; the schedules of rates and of the learning rate span them.
      batch: examples a step, over all devices.
      micro_batches: parts of a batch whose gradients are accumulated.
      learning_rate: the highest, of AdamW.
      weight_decay: of AdamW.
      adam_eps: of AdamW.
      clip: the greatest norm of a gradient.
      dtype: of the computation; parameters are float32.
      remat: compute layers again in the backward pass; the transformer always does.
      remat_policy: what the transformer's layers keep nevertheless: nothing, the results of
        attention, of products of matrices, or of those without a batch axis. All but the second are
        those of `jax.checkpoint_policies`.
      precision: of products of matrices, as in `jax.default_matmul_precision`.
      seed: of weights, batches and masks.
      eval_examples: how many to judge by, of each part of the data; by default all that is held
        out, and as many of those that the model learns from.
      init_from: the folder of a run whose newest parameters this one begins with.
    """

    model: Model = "mlp"
    data: Place | None = None
    layers: Count = 2
    width: Count = 64
    heads: Count = 4
    length: Count = 64
    rate: Rate = 0.1
    path_rate: Rate = 0.05
    block_rate: Rate = 0.05
    schedule: Schedule = "constant"
    skip_units: Rate = 0.0
    skip_pattern: Literal["unit", "block", "slice"] = "unit"
    skip_examples: Rate = 0.0
    skip_tokens: Rate = 0.0
    skip_groups: Count = 1
    compare: bool = False
    steps: Count = 500
    batch: Count = 64
    micro_batches: Count = 1
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.01
    adam_eps: Positive = 1e-8
    clip: Positive = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    remat_policy: RematPolicy = "attention_saveable"
    precision: Literal["default", "high", "highest"] = "default"
    seed: Seed = 0
    eval_examples: Count | None = None
    init_from: Place | None = None


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """A run: an experiment, where it takes place, and what is kept of it.

    Args:
      out: the folder of the run; shared by all processes, or gs://bucket/folder.
      extend: go on with a run of fewer `steps`, whose schedules then span the larger number.
      stop_at: stop behind this step, to go on later.
      eval_every: steps from validation to validation.
      save_every: steps from checkpoint to checkpoint.
      keep: how many checkpoints.
      profile: the first of five steps that are recorded, for TensorBoard, in the folder `profile`.
      compilation_cache: a folder of compiled programs, with which a run that resumes compiles
        nothing; shared by all processes.
      parallel: who divides the work.
      mesh: such as fsdp=4,tensor=2. `data` and `fsdp` divide the batch, `fsdp` also the parameters,
        `tensor` units and heads, `sequence` tokens; by default data=N, all devices.
      distributed: find the other processes by the environment, as on TPU pods and under SLURM.
      coordinator: address:port of the first process.
      num_processes: of the run.
      process_id: of this one, from 0.
      start_timeout: seconds to wait for the other processes.
      heartbeat_timeout: seconds after which a process that is silent counts as dead.
      peak_tflops: of a device, at the dtype and precision of the run, for the utilization that is
        shown; by default that of its kind, where it is known.
    """

    out: Place = _OUT
    extend: bool = False
    stop_at: Count | None = None
    eval_every: Count = 50
    save_every: Count = 100
    keep: Count = 3
    profile: Count | None = None
    compilation_cache: Place | None = None
    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    mesh: str | None = None
    distributed: bool = False
    coordinator: str | None = None
    num_processes: Count | None = None
    process_id: Annotated[int, Range(0)] | None = None
    start_timeout: Count = 300
    heartbeat_timeout: Count = 100
    peak_tflops: Positive | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        together = (self.coordinator, self.num_processes, self.process_id)
        given = [value is not None for value in together]
        skipped = self.skip_units, self.skip_examples, self.skip_tokens
        problems = {
            f"--heads {self.heads}: does not divide --width {self.width}": (
                self.model == "transformer" and self.width % self.heads
            ),
            "--width 1: LayerNorm leaves nothing of a single feature": (
                self.model == "transformer" and self.width == 1
            ),
            "--skip-units, --skip-examples and --skip-tokens: go with --model transformer": (
                any(skipped) and self.model != "transformer"
            ),
            "--skip-units, --skip-examples and --skip-tokens: go with --parallel jit": (
                any(skipped) and self.parallel != "jit"
            ),
            "--skip-units, --skip-examples and --skip-tokens: must be less than 1": 1 in skipped,
            "--compare: goes with --parallel jit": self.compare and self.parallel != "jit",
            "--remat: goes with mlp, cnn and transformer": self.remat and self.model == "rnn",
            f"--stop-at {self.stop_at}: is behind the last of the --steps {self.steps}": (
                (self.stop_at or 0) > self.steps
            ),
            f"--profile {self.profile}: is behind the last of the --steps {self.steps}": (
                (self.profile or 0) > self.steps
            ),
            f"--batch {self.batch}: is not a multiple of --micro-batches {self.micro_batches}": (
                self.batch % self.micro_batches
            ),
            "--coordinator, --num-processes and --process-id go together": (
                any(given) and not all(given)
            ),
            f"--coordinator {self.coordinator}: must be address:port, such as host0:1234": (
                self.coordinator is not None and not re.fullmatch(r".+:[1-9]\d*", self.coordinator)
            ),
            f"--coordinator {self.coordinator}: the port must be less than 65535": (
                int(re.findall(r"(\d*)$", self.coordinator or "")[0] or 0) >= 65535
            ),
            "--distributed: finds the processes by itself, without --coordinator": (
                self.distributed and any(given)
            ),
            f"--process-id {self.process_id}: must be less than --num-processes": (
                all(given) and (self.process_id or 0) >= (self.num_processes or 0)
            ),
        }
        if found := next((problem for problem, holds in problems.items() if holds), None):
            raise ValueError(found)

    @property
    def places(self) -> dict[str, epath.Path | None]:
        """The options that may lie in a bucket."""
        names = ("data", "init_from", "out", "compilation_cache")
        return {_option(name): getattr(self, name) for name in names}

    @property
    def experiment(self) -> dict[str, Any]:
        """What decides the results, as JSON holds it."""
        fields = {field.name for field in dataclasses.fields(Experiment)}
        return {name: value for name, value in plain(self).items() if name in fields}


def plain(config: Config) -> dict[str, Any]:
    """The fields as JSON and YAML hold them."""
    return {
        name: str(value) if isinstance(value, epath.Path) else value
        for name, value in dataclasses.asdict(config).items()
    }


def parse(arguments: Sequence[str] | None, description: str | None = None) -> Config:
    """The configuration that a command line describes.

    Raises:
      SystemExit: an option is unknown or out of range, or two do not go together.
    """
    file = argparse.ArgumentParser(prog="train.py", add_help=False, allow_abbrev=False)
    file.add_argument("--config", type=storage.place)
    read, others = file.parse_known_args(arguments)
    storage.require("--config", read.config)
    try:
        default = Config() if read.config is None else load(read.config)
        return tyro.cli(
            Config,
            prog="train.py",
            description=description,
            args=others,
            default=default,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (OSError, ValueError) as error:
        file.error(str(error))


def load(path: epath.Path) -> Config:
    """The configuration in a YAML file; options that it does not name have their defaults.

    Raises:
      ValueError: it is not a mapping of options to values, or a value is not allowed.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: not a YAML file ({error})") from None
    hints = typing.get_type_hints(Config)
    if not isinstance(given, dict) or (unknown := given.keys() - hints.keys()):
        named = sorted(map(str, unknown)) if isinstance(given, dict) else given
        raise ValueError(f"--config {path}: {named} are not options; there are {sorted(hints)}")
    try:
        paths = {
            name: storage.place(value)
            for name, value in given.items()
            if value is not None and epath.Path in (hints[name], *typing.get_args(hints[name]))
        }
        return Config(**given | paths)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--config {path}: {error}") from None


def changes(config: Config, saved: dict[str, Any]) -> list[str]:
    """The options that are not what they were when the run began. An option that is newer than the
    run had its default; `extend` allows more steps.
    """
    before = {field.name: field.default for field in dataclasses.fields(Experiment)} | saved
    return [
        f"{_option(name)} was {before[name]} and is {value}"
        for name, value in config.experiment.items()
        if before[name] != value
        and not (name == "steps" and config.extend and value > before[name])
    ]


def _option(name: str) -> str:
    """How the command line has it."""
    return f"--{name.replace('_', '-')}"


def _check_fields(config: Config) -> None:
    """Also what a file gives, whose types nobody else looks at."""
    for name, hint in typing.get_type_hints(Config, include_extras=True).items():
        value, option = getattr(config, name), _option(name)
        optional = type(None) in typing.get_args(hint)
        if value is None and optional:
            continue
        hint = typing.get_args(hint)[0] if optional else hint
        kind = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if typing.get_origin(kind) is Literal:
            if value not in (choices := typing.get_args(kind)):
                raise ValueError(f"{option} {value}: there are {', '.join(choices)}")
        elif not isinstance(value, (int, float) if kind is float else kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise ValueError(f"{option}: must be of type {kind.__name__}, got {value!r}")
        for bounds in getattr(hint, "__metadata__", ()):
            if isinstance(bounds, Range) and (problem := bounds.problem(value)):
                raise ValueError(f"{option}: {problem}, got {value!r}")
