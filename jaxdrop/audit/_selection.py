"""Which findings are reported: `select`, `ignore`, and a baseline of known ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._findings import Finding


def selected(
    found: list[Finding], select: Iterable[str] | None, ignore: Iterable[str]
) -> list[Finding]:
    """The findings of the rules that are selected, and not ignored.

    Args:
      found: all findings.
      select: ids, or their beginnings, such as `JD2`; None for all.
      ignore: the same; it has the last word.

    Raises:
      ValueError: no rule begins with one of them.
    """
    wanted = None if select is None else _prefixes("select", select)
    unwanted = _prefixes("ignore", ignore)
    return [
        each
        for each in found
        if (wanted is None or each.id.startswith(wanted))
        and not (unwanted and each.id.startswith(unwanted))
    ]


def _prefixes(argument: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    prefixes = tuple(given)
    for prefix in prefixes:
        if not isinstance(prefix, str) or not any(name.startswith(prefix) for name in RULES):
            raise ValueError(
                f"{argument} must hold ids of rules, or their beginnings such as 'JD2', not "
                f"{prefix!r}; the rules are {', '.join(RULES)}"
            )
    return prefixes


def fingerprints(baseline: str | os.PathLike[str] | Iterable[str]) -> frozenset[str]:
    """The fingerprints of known findings.

    Args:
      baseline: a file, or fingerprints.

    Raises:
      ValueError: the file is no baseline.
    """
    if not isinstance(baseline, str | os.PathLike):
        return frozenset(baseline)
    try:
        known = json.loads(Path(baseline).read_text())["fingerprints"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(
            f"{os.fspath(baseline)!r} is no baseline file; Report.write_baseline, or "
            "--write-baseline, makes one"
        ) from None
    return frozenset(known)
