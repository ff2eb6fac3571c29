"""`python -m jaxdrop.audit`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._check import check
from jaxdrop.audit._findings import Rule, Severity
from jaxdrop.audit._report import Report

_DESCRIPTION = """Audits the dropout of a function without running it.

TARGET is `module:function` or `file.py:function`: a function without arguments that returns a tuple
of what `jaxdrop.audit.check` takes, the function to audit and its arguments, or a report that it
made itself. Arrays may be `jax.ShapeDtypeStruct`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; those of the process by default.

    Returns:
      0 if no finding is as bad as `--fail-level`, 1 if one is, 2 if the arguments make no sense.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list_rules:
        print(list_rules())
        return 0
    if args.explain:
        rule = RULES.get(args.explain.upper())
        if rule is None:
            parser.error(f"no rule {args.explain!r}; the rules are {', '.join(RULES)}")
        print(explain(rule))
        return 0
    if args.target is None:
        parser.error("which function? Give module:function")
    try:
        report = _audited(args)
        if args.write_baseline:
            report.write_baseline(args.write_baseline)
        if args.baseline:
            report = report.without(args.baseline)
    except (OSError, ValueError, TypeError, ImportError, AttributeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print({"json": report.to_json, "sarif": report.to_sarif, "text": report.__str__}[args.format]())
    if args.write_baseline:
        return 0
    worst = report.worst
    return int(worst is not None and worst >= Severity[args.fail_level.upper()])


def list_rules() -> str:
    """All rules, as a table in Markdown."""
    lines = ["| id | severity | name | fault |", "|---|---|---|---|"]
    lines += [
        f"| {rule.id} | {rule.severity.name.lower()} | `{rule.name}` | {rule.title} |"
        for rule in RULES.values()
    ]
    return "\n".join(lines)


def explain(rule: Rule) -> str:
    """A rule, with why it matters and what to do."""
    return (
        f"{rule.id} {rule.name} ({rule.severity.name.lower()})\n{rule.title}.\n\n"
        f"Why: {rule.why}\n\nDo: {rule.fix}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m jaxdrop.audit",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="module:function")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--training", action="store_true", help="something must be dropped")
    mode.add_argument("--evaluation", action="store_true", help="nothing may be dropped")
    parser.add_argument("--step", help="the argument that changes from step to step: 2, or a name")
    parser.add_argument("--select", help="ids of rules, or beginnings of ids, by commas")
    parser.add_argument("--ignore", default="", help="the same, for rules to leave out")
    parser.add_argument("--baseline", metavar="FILE", help="findings that are known")
    parser.add_argument("--write-baseline", metavar="FILE", help="writes such a file")
    parser.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    parser.add_argument(
        "--fail-level", choices=("info", "warning", "error"), default="warning",
        help="the exit status is 1 if a finding is as bad as this (default: warning)",
    )  # fmt: skip
    parser.add_argument("--list-rules", action="store_true", help="prints all rules")
    parser.add_argument("--explain", metavar="ID", help="prints one rule")
    return parser


def _audited(args: argparse.Namespace) -> Report:
    made = load(args.target)()
    options: dict[str, Any] = {"select": args.select, "ignore": args.ignore}
    if isinstance(made, Report):
        return made
    if not isinstance(made, tuple) or not made or not callable(made[0]):
        raise TypeError(
            f"{args.target} must return a tuple of the function to audit and its arguments, or a "
            f"report, not {type(made).__name__}"
        )
    if args.training or args.evaluation:
        options["training"] = args.training
    if args.step is not None:
        options["step"] = int(args.step) if args.step.isdigit() else args.step
    return check(*made, **options)


def load(target: str) -> Any:
    """A function by `module:function` or `file.py:function`.

    Raises:
      ValueError: it has no colon.
      ImportError, AttributeError: there is no such module or function.
    """
    module, colon, name = target.rpartition(":")
    if not colon or not module or not name:
        raise ValueError(f"{target!r} is not of the form module:function or file.py:function")
    if module.endswith(".py"):
        if not Path(module).exists():
            raise ImportError(f"there is no file {module!r}")
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    else:
        if "" not in sys.path:
            sys.path.insert(0, "")
        loaded = importlib.import_module(module)
    found = loaded
    for part in name.split("."):
        found = getattr(found, part)
    return found
