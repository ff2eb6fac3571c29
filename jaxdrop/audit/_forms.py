"""The forms of a report: text, rich, HTML and SARIF."""

from __future__ import annotations

import html as _html
import io
import re
from collections.abc import Sequence
from typing import Any

from jaxdrop import _optional, _tables
from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._findings import Finding, Severity
from jaxdrop.audit._sites import Site

COLUMNS = (
    "where", "variant", "rate", "shape", "shared axes", "generator", "random bits", "kept",
    "FLOPs", "bytes", "active",
)  # fmt: skip
_WIDTH = 160
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def row(site: Site) -> tuple[str, ...]:
    """A site, as the text of its columns."""
    rate = f"{site.rate:g}" if isinstance(site.rate, float) else site.rate or "?"
    shape = "x".join(map(str, site.shape)) + (f" x{site.repeats}" if site.repeats > 1 else "")
    if not site.active:
        return (site.where, site.variant, rate, *[""] * 7, "no")
    return (
        site.where,
        site.variant,
        rate,
        shape,
        ", ".join(map(str, site.shared_axes)) or "-",
        site.generator,
        short(site.random_bits),
        short(site.kept_bytes),
        short(site.flops),
        short(site.bytes),
        "yes" if site.rate != 0 else "rate 0",
    )


def short(number: float) -> str:
    """A number with a unit: 12.6M."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}P"


def summary(sites: Sequence[Site], findings: Sequence[Finding]) -> str:
    """One line: how many sites and findings."""
    counts = ", ".join(
        f"{sum(each.severity == level for each in findings)} {level.name.lower()}"
        for level in sorted(Severity, reverse=True)
    )
    active = sum(site.active for site in sites)
    return f"{len(sites)} sites, {active} drawn; findings: {counts}"


def text(sites: Sequence[Site], findings: Sequence[Finding]) -> str:
    """The report as text: of rich if it is installed, else of columns."""
    if _optional.find("rich") is not None:
        from rich.console import Console

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None).print(rich_table(sites, findings))
        return file.getvalue().rstrip("\n")
    return plain(sites, findings)


def plain(sites: Sequence[Site], findings: Sequence[Finding]) -> str:
    """The report as text, without rich."""
    lines = _tables.columns([COLUMNS, *map(row, sites)])
    for each in findings:
        lines += ["", str(each), f"  {each.rule.title}. {each.rule.why}", f"  Do: {each.rule.fix}"]
    return "\n".join([*lines, "", summary(sites, findings)])


def rich_table(sites: Sequence[Site], findings: Sequence[Finding]) -> Any:
    """The report for `rich.print`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS)
    for site in sites:
        table.add_row(*(Text(cell) for cell in row(site)))
    parts: list[Any] = [table] if sites else []
    for each in findings:
        line = Text(str(each), style=_STYLES[each.severity])
        parts += [line, Text(f"  {each.rule.title}. {each.rule.why}\n  Do: {each.rule.fix}")]
    return Group(*parts, Text(summary(sites, findings)))


def html(sites: Sequence[Site], findings: Sequence[Finding]) -> str:
    """The report for a notebook."""
    notes = "".join(
        f"<li><b>{each.id}</b> {each.severity.name.lower()} "
        f"<code>{_html.escape(each.where)}</code>: {_html.escape(each.evidence)}"
        f"<br><small>{_html.escape(each.rule.why)} {_html.escape(each.rule.fix)}</small></li>"
        for each in findings
    )
    table = _tables.html_table(COLUMNS, map(row, sites))
    return f"{table}<ul>{notes}</ul><p>{_html.escape(summary(sites, findings))}</p>"


def sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings in the form of SARIF 2.1.0."""
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "jaxdrop.audit",
                        "rules": [
                            {
                                "id": rule.id,
                                "name": rule.name,
                                "shortDescription": {"text": rule.title},
                                "fullDescription": {"text": rule.why},
                                "help": {"text": rule.fix},
                                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
                            }
                            for rule in RULES.values()
                        ],
                    }
                },
                "results": [_result(each) for each in findings],
            }
        ],
    }


def _result(finding: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.where}]}
    line = re.search(r"([^\s()]+\.py):(\d+)", finding.where)
    if line:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": line[1]},
            "region": {"startLine": int(line[2])},
        }
    return {
        "ruleId": finding.id,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.rule.title}: {finding.evidence}"},
        "locations": [location],
        "partialFingerprints": {"jaxdrop/v1": finding.fingerprint},
    }
