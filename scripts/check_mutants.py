"""Breaks the package in one place at a time, and sees whether a test notices.

python scripts/check_mutants.py --mutants 150 --seed 0 --skip nnx linen layers
python scripts/check_mutants.py ... --results out/mutants.txt     # again: those without a result
python scripts/check_mutants.py --only mc/_epig.py:67 --mutants 9  # of one line

A mutant replaces one comparison, operator, connective, number, flag, argument or result. It runs in
a copy of the repository, against the test files that `TESTS` names for its module, until one fails.
A mutant that no test notices is printed with its line: it asks for a test, or it means the same.
Takes ten to thirty seconds a mutant. A file of results is added to as they come, and the mutants in
it are not run again.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

TESTS = {
    r"((mc/metrics|mc/plots|audit|masks|mc|random|schedules|subsets)/)?__init__": (
        "test_docs test_imports"
    ),
    r"_checks/_deprecation": "test_deprecation",
    r"_checks/_facts": "test_checks test_layers test_errors",
    r"_checks/.*": "test_checks test_bad_input test_errors",
    r"_optional": "test_errors mc/test_plots audit/test_report",
    r"_(citation|references)": "test_citation test_architecture",
    r"_elsewhere": "test_errors test_imports",
    r"_in_full|functional/__init__": "mc/test_analytic test_imports",
    r"functional/attention/_hopper.*": "functional/test_attention_hopper",  # with JAX >= 0.11
    r"functional/attention/_(gpu|triton).*": (
        "functional/test_attention_kernels functional/test_attention_hopper"
    ),
    r"functional/attention/_(kernels|mosaic|flat|problem|sight).*": (
        "functional/test_attention_tpu functional/test_attention_kernels"
        " functional/test_attention_hopper"
    ),
    r"functional/attention/_(flax|weights)": (
        "functional/test_attention_flax nnx/test_attention_nnx linen/test_attention_linen"
        " functional/test_explicit_meshes"
    ),
    r"functional/attention/_whole": "mc/test_analytic",
    r"functional/attention/_linear": (
        "functional/test_attention_linear functional/test_attention_kernels"
    ),
    r"functional/attention/_(derivative|transpose)": (
        "functional/test_attention functional/test_attention_tpu functional/test_attention_kernels"
    ),
    r"functional/attention/.*": (
        "functional/test_attention_arguments functional/test_attention"
        " functional/test_attention_kernels functional/test_explicit_meshes"
    ),
    r"functional/recurrent/.*": (
        "test_golden functional/test_recurrent nnx/test_recurrent_nnx nnx/test_cells"
    ),
    r"functional/_dense": "functional/test_weights functional/test_learned",
    r"functional/_amounts": "functional/test_noise",
    r"functional/_ids": "functional/test_sequences functional/test_tokens",
    r"_kernel|_compiler": "test_compiler functional/test_dropout functional/test_noise",
    r"functional/_axes": "functional/test_dropout functional/test_regions",
    r"_shapes": "test_schedules functional/test_paths",
    r"_mapped_axes": (
        "functional/test_residuals functional/test_heads functional/test_noise"
        " functional/test_regions functional/test_attention_arguments test_random"
    ),
    r"functional/heads": (
        "functional/test_heads functional/test_explicit_meshes functional/test_parts test_layers"
        " test_rate_zero test_catalogue"
    ),
    r"functional/mlp": (
        "functional/test_mlp functional/test_parts test_layers test_rate_zero mc/test_analytic"
        " test_catalogue"
    ),
    r"functional/learned/.*": (
        "test_golden functional/test_learned functional/test_parts test_layers test_rate_zero"
        " test_extreme_bits test_citation test_catalogue"
    ),
    r"functional/paths/_layer_subset": "functional/test_layer_subset test_citation",
    r"functional/_?([a-z]+).*": (
        r"test_golden functional/test_\1 functional/test_parts test_layers test_rate_zero"
        " test_citation test_catalogue"
    ),
    r"subsets/.*": "test_golden test_subsets functional/test_layer_subset functional/test_tokens",
    r"mc/_analytic/.*": "mc/test_analytic_rules mc/test_analytic",
    r"mc/conformal/.*": "mc/test_every_function mc/test_leading_axes mc/test_conformal",
    r"mc/_binomial|mc/_ranks": (
        "mc/test_every_function mc/test_metrics mc/test_metric_rules mc/test_conformal"
    ),
    r"mc/_ensembles": "mc/test_ensembles",
    r"mc/_masksembles": "mc/test_masksembles",
    r"mc/_subnetworks": "mc/test_subnetworks",
    r"mc/_exports": "mc/test_datasets",
    r"mc/_(logits|sequences)": (
        "mc/test_every_function mc/test_leading_axes mc/test_summaries mc/test_metrics"
    ),
    r"mc/_?(acquisition|batch_bald|epig|pool)": "mc/test_every_function mc/test_acquisition",
    r"mc/_fitting/.*": (
        "mc/test_every_function mc/test_choosing mc/test_calibration mc/test_binary"
        " mc/test_metric_rules"
    ),
    r"mc/plots/.*": "mc/test_plots mc/test_plot_labels",
    r"mc/metrics/.*|mc/_reduction": (
        "mc/test_every_function mc/test_leading_axes mc/test_metrics mc/test_metric_rules"
        " mc/test_binary"
    ),
    r"mc/_?(regression|observations)": (
        "mc/test_every_function mc/test_regression mc/test_groups mc/test_descriptions"
    ),
    r"mc/_?(labels|inputs|classification|probabilities)": (
        "mc/test_every_function mc/test_leading_axes mc/test_summaries mc/test_binary"
        " mc/test_metrics mc/test_metric_rules mc/test_descriptions"
    ),
    r"mc/_?(results|storage|datasets|fingerprints|describe|progress|structures)": (
        "mc/test_datasets mc/test_results mc/test_fingerprints mc/test_descriptions"
        " mc/test_dependence"
    ),
    r"mc/_sampling": "mc/test_predict mc/test_keys mc/test_groups mc/test_dependence",
    r"mc/_?(prefix|chunks|execution|calls)": (
        "mc/test_predict mc/test_prefix mc/test_dependence mc/test_fuzz"
    ),
    r"mc/_groups": (
        "mc/test_every_function mc/test_groups mc/test_running mc/test_summaries"
        " mc/test_descriptions mc/test_mc_sharding"
    ),
    r"mc/_?(running|moments|merging)": (
        "mc/test_every_function mc/test_running mc/test_groups mc/test_summaries"
        " mc/test_descriptions"
    ),
    r"mc/.*": "mc/test_summaries mc/test_predict",
    r"_mc_dropout/.*": (
        "mc/test_stochastic_parts mc/test_stochastic mc/test_stochastic_rates"
        " mc/test_stochastic_silences mc/test_stochastic_nnx mc/test_stochastic_linen"
    ),
    r"layers/recurrent": "test_layers functional/test_recurrent nnx/test_recurrent_nnx",
    r"(nnx|linen)/attention": (
        r"functional/test_attention_flax \1/test_attention_\1 test_layers test_models"
        r" test_relies_on_flax mc/test_stochastic_\1"
    ),
    r"layers/attention": "test_layers nnx/test_attention_nnx linen/test_attention_linen",
    r"layers/.*|(nnx|linen)/(_base|_layers|_wrappers)": (
        "test_layers nnx/test_dropout_nnx linen/test_dropout_linen nnx/test_weights_nnx"
        " linen/test_weights_linen nnx/test_paths_nnx linen/test_paths_linen"
    ),
    r"(nnx|linen)/_parameters": r"\1/test_weights_\1 test_layers test_models",
    r"(nnx|linen)/(replacement|recurrent)": (
        r"\1/test_\2_\1 test_layers test_models test_relies_on_flax"
    ),
    r"nnx/_cells": "nnx/test_cells nnx/test_recurrent_nnx test_relies_on_flax",
    r"linen/_cells": "linen/test_recurrent_linen test_relies_on_flax",
    r"(nnx|linen)/stacked": r"\1/test_paths_\1 test_layers",
    r"(nnx|linen)/.*": (
        r"mc/test_stochastic_\1 mc/test_stochastic \1/test_dropout_\1 test_relies_on_flax"
    ),
    r"random/_(lattices|samples)": "test_golden mc/test_keys",
    r"(random/)?_?(saved_keys|serialization|registration)": "test_saved_keys test_serialization",
    r"audit/_compare": "audit/test_compare",
    r"audit/(_cli|_forms|_report|_findings|__main__)": "audit/test_report",
    r"audit/_(selection|catalog)": "audit/test_report audit/test_sites audit/test_modules",
    r"audit/.*": (
        "audit/test_programs audit/test_sites audit/test_modules audit/test_report"
        " audit/test_gallery audit/test_correct_models audit/test_masks_drawn_before"
    ),
    r"testing": "test_testing",
    r"_replacing": "nnx/test_replacement_nnx linen/test_replacement_linen",
    r"_(source_lines|tables)": (
        "audit/test_report audit/test_sites mc/test_analytic nnx/test_replacement_nnx"
    ),
    r"_equations": "mc/test_analytic_rules mc/test_analytic mc/test_dependence audit/test_sites",
    r"_leaf_names": "mc/test_subnetworks functional/test_weights",
    r"_lengths": "test_words functional/test_parts functional/test_noise functional/test_paths",
    r"_layouts": (
        "functional/test_graphs functional/test_heads functional/test_losses functional/test_mlp"
        " functional/test_parts functional/test_explicit_meshes"
    ),
    r"_variates": (
        "test_golden test_random test_distributions test_extreme_bits functional/test_noise"
    ),
    r"schedules/.*": "test_schedules test_citation",
    r"random/_steps": "test_training_keys",
    r"masks/_(drawing|placement|parts)": "test_golden functional/test_parts test_masks",
    r"masks/.*|_numerics": "test_golden test_masks functional/test_dropout test_extreme_bits",
    r"random/_(generators|words)": (
        "test_golden test_random test_words test_ports mc/test_keys test_generator_quality"
    ),
    r"random/.*|_key_types|__init__": (
        "test_golden test_random test_words mc/test_keys functional/test_dropout"
    ),
}
"""What of `jaxdrop/` -> which files of `tests/`; the first pattern that fits a module counts."""

CATALOGUE = "tests/test_catalogue.py"
"""Takes minutes: where the module has functions of the catalogue, their rows only."""

CITATIONS = "tests/test_citation.py"
"""Compares the works that `@cites` declares, wherever it stands, with what the docstring says."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


STYLE = frozenset(
    ["capsize", "edgecolor", "fontsize", "framealpha", "frameon", "linewidth", "markersize"]
)
"""Arguments of matplotlib for how thick, large or clear something is: no change is a fault."""


ASSERTIONS = frozenset(["frozen", "slots", "strict"])
"""Arguments of `zip` and of `dataclass` that only make wrong code raise."""


NEUTRAL = frozenset(
    [
        "checkpoint=False",
        "finite=True",
        "is_stable=False",
        "mode='promise_in_bounds'",
        "wrap_negative_indices=False",
    ]
)
"""Arguments that change no result. They allow the compiler to compute values again, to ignore
infinities where there are none, to put equal numbers in any order, and not to check indices that
are known to be valid.
"""


class Mutant(NamedTuple):
    """One place of one file, and what stands there instead."""

    file: Path
    whole: bytes
    node: ast.expr
    text: str
    kind: str

    def source(self) -> bytes:
        """The whole file with it."""
        lines = self.whole.splitlines(keepends=True)
        start = sum(map(len, lines[: self.node.lineno - 1])) + self.node.col_offset
        assert self.node.end_lineno is not None
        assert self.node.end_col_offset is not None
        end = sum(map(len, lines[: self.node.end_lineno - 1])) + self.node.end_col_offset
        return self.whole[:start] + f"({self.text})".encode() + self.whole[end:]

    def __str__(self) -> str:
        node = self.node.value if isinstance(self.node, _Returned) else self.node
        before, after = (" ".join(text.split())[:70] for text in (ast.unparse(node), self.text))
        return f"{self.file}:{self.node.lineno}: {self.kind}: {before}  ->  {after}"


def mutants(file: Path) -> Iterator[Mutant]:
    """All of a file's. Messages, annotations, docstrings and assertions are left alone."""
    whole = (ROOT / file).read_bytes()
    for node in _code(ast.parse(whole)):
        for kind, changed in _changes(node):
            if not _is_style(node, changed):
                yield Mutant(file, whole, node, ast.unparse(changed), kind)


def _code(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.keyword) and _is_neutral(node):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert) or not isinstance(
                child, ast.AST
            ):
                continue
            if isinstance(child, ast.keyword) and child.arg in STYLE:
                continue
            if isinstance(node, ast.Return) and not isinstance(child, ast.Constant):
                yield _Returned(child)
            if isinstance(child, ast.expr):
                yield child
            yield from _code(child)


def _is_style(node: ast.AST, changed: ast.AST) -> bool:
    """Whether a change takes such an argument away."""
    if not isinstance(node, ast.Call) or not isinstance(changed, ast.Call):
        return False
    left = [keyword.arg for keyword in changed.keywords]
    return any(each.arg in STYLE and each.arg not in left for each in node.keywords)


def _is_neutral(keyword: ast.keyword) -> bool:
    """Whether an argument changes no result."""
    return keyword.arg in ASSERTIONS or ast.unparse(keyword) in NEUTRAL


class _Returned(ast.expr):
    """A result, where it is returned."""

    def __init__(self, value: ast.AST) -> None:
        super().__init__()
        ast.copy_location(self, value)
        self.value = value


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, _Returned):
        yield "result", ast.Constant(None)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "flag", ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield "number", ast.Constant(node.value + 1)
    elif isinstance(node, ast.UnaryOp):
        yield "sign or not", node.operand
    elif isinstance(node, ast.Compare):
        if type(node.ops[0]) in SWAPS:
            yield "comparison", _with(node, ops=[SWAPS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        if type(node.op) in SWAPS:
            yield "operator", _with(node, op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.IfExp):
        yield "choice", _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) != "TypeVar":
        for at, keyword in enumerate(node.keywords):
            if _is_neutral(keyword):
                continue
            yield "argument", _with(node, keywords=node.keywords[:at] + node.keywords[at + 1 :])
        if len(node.args) > 1:
            yield "argument", _with(node, args=node.args[:-1])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def tests(file: Path) -> list[str]:
    """The test files of a module, relative to the repository."""
    module = str(file.relative_to("jaxdrop").with_suffix(""))
    for pattern, names in TESTS.items():
        if match := re.fullmatch(pattern, module):
            found = [f"tests/{name}.py" for name in match.expand(names).split()]
            if missing := [name for name in found if not (ROOT / name).exists()]:
                sys.exit(f"TESTS names {', '.join(missing)} for {file}: there is no such file")
            return found
    sys.exit(f"TESTS names no test file of {file}: add a line")


def rows(file: Path) -> list[str]:
    """What selects the rows of the catalogue that a module makes: the names of its functions."""
    source = ast.parse((ROOT / file).read_bytes())
    public = (ROOT / "jaxdrop" / "__init__.py").read_text()  # an import here would be in all forks
    return [
        node.name
        for node in source.body
        if isinstance(node, ast.FunctionDef) and f'"{node.name}"' in public
    ]


def noticed(where: Path, mutant: Mutant, limit: float) -> str:
    """What the test files of a mutant say, the cheap ones first."""
    if isinstance(mutant.node, ast.Call) and ast.unparse(mutant.node.func) == "cites":
        return outcome(where, [CITATIONS], limit)
    files, names = tests(mutant.file), rows(mutant.file)
    if CATALOGUE not in files or not names:
        return outcome(where, files, limit)
    found = outcome(where, [file for file in files if file != CATALOGUE], limit)
    if found == "survived" and outcome(where, [CATALOGUE, "-k", " or ".join(names)], limit) in (
        "killed",
        "too slow",
    ):
        return "killed"
    return found


class Ran:
    """A plugin of pytest: whether a test has run, and not all were skipped, as those of a kernel
    that this JAX does not know.
    """

    any = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.any |= report.when == "call" and report.passed


def outcome(where: Path, arguments: list[str], limit: float) -> str:
    """What pytest says in a process of its own, which starts with JAX already imported.

    The limit counts the seconds that the process computes, not those that it waits: on a machine
    with other work to do, a test that is slow is not one that never ends.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(where)
        sys.path.insert(0, str(where))
        import pytest

        assert "jaxdrop" not in sys.modules
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        ran = Ran()
        code = pytest.main([*options, *arguments], plugins=[ran])
        os._exit(code or (0 if ran.any else pytest.ExitCode.NO_TESTS_COLLECTED))
    start = time.monotonic()
    while time.monotonic() - start < 10 * limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return "too slow"
        if done:
            return {0: "survived", 5: "no tests"}.get(os.waitstatus_to_exitcode(status), "killed")
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow"


def known(results: Path | None) -> dict[str, str]:
    """What a file of results says: mutant -> outcome."""
    if results is None or not results.exists():
        return {}
    lines = [re.fullmatch(r"(.+?) +\d+ s  (.+)", line) for line in results.read_text().splitlines()]
    return {line[2]: line[1] for line in lines if line}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", nargs="*", default=[], help="folders or files of jaxdrop/")
    parser.add_argument(
        "--only", nargs="*", default=[""], help="beginnings of paths in jaxdrop/, or path:line"
    )
    parser.add_argument("--results", type=Path, help="a file that gets a line a mutant")
    parser.add_argument("--limit", type=float, default=300, help="CPU seconds for one mutant")
    parser.add_argument(
        "--trust", action="store_true", help="the tests are known to pass without a mutant"
    )
    options = parser.parse_args()

    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "jaxdrop").rglob("*.py"))]
    paths = [
        path
        for path in paths
        if not set(path.parts[1:]) & set(options.skip)
        and str(path.relative_to("jaxdrop")).startswith(
            tuple(only.partition(":")[0] for only in options.only)
        )
    ]
    everything = [
        mutant
        for path in paths
        for mutant in mutants(path)
        if f"{path.relative_to('jaxdrop')}:{mutant.node.lineno}:".startswith(tuple(options.only))
    ]
    for path in sorted({mutant.file for mutant in everything}):
        tests(path)  # ends the run where `TESTS` has fallen behind
    chosen = random.Random(options.seed).sample(everything, min(options.mutants, len(everything)))
    done = known(options.results)
    counts = Counter(done[str(mutant)] for mutant in chosen if str(mutant) in done)
    print(
        f"{len(chosen)} of {len(everything)} mutants, seed {options.seed}, {counts.total()} done",
        flush=True,
    )
    chosen = [mutant for mutant in chosen if str(mutant) not in done]

    warnings.filterwarnings("ignore", message=".*fork.*")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "repository"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "out", "build", "*.egg-info")
        shutil.copytree(ROOT, where, ignore=ignored)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "compiled"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ["PYTHONPATH"] = str(where)  # for the processes that tests start
        for name in ("flax.nnx", "optax", "scipy.stats", "sklearn.metrics"):
            importlib.import_module(name)  # the slowest part of a start: done once, for all forks

        sound: set[str] = set()
        for mutant in chosen:
            for name in set() if options.trust else set(tests(mutant.file)) - sound:
                if (found := outcome(where, [name], 10 * options.limit)) != "survived":
                    sys.exit(f"{name} without a mutant: {found}")
                sound.add(name)
            (where / mutant.file).write_bytes(mutant.source())
            start = time.monotonic()
            found = noticed(where, mutant, options.limit)
            (where / mutant.file).write_bytes(mutant.whole)
            counts[found] += 1
            line = f"{found:9} {time.monotonic() - start:4.0f} s  {mutant}"
            print(line, flush=True)
            if options.results is not None:
                with options.results.open("a") as results:
                    results.write(line + "\n")
    some, all_of_them = counts["killed"] + counts["too slow"], counts.total()
    print(f"{some} of {all_of_them} noticed: {100 * some / all_of_them:.1f} %, {dict(counts)}")


if __name__ == "__main__":
    main()
