"""The report of an audit."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxdrop.audit import _forms, _selection
from jaxdrop.audit._findings import Finding, Severity
from jaxdrop.audit._sites import Site


@dataclasses.dataclass(frozen=True)
class Report:
    """What dropout does in a function, and what is wrong with it.

    `print(report)` shows a table, with rich if it is installed; a notebook shows HTML.

    Attributes:
      sites: one for each place where something is dropped, and for each layer that is off.
      findings: what is wrong, the worst first.
      trace_seconds: the time of `jax.make_jaxpr`.
      audit_seconds: the time of everything else.
    """

    sites: list[Site]
    findings: list[Finding]
    trace_seconds: float = 0.0
    audit_seconds: float = 0.0

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; None if there is none."""
        return max((each.severity for each in self.findings), default=None)

    def without(self, baseline: str | os.PathLike[str] | Iterable[str]) -> Report:
        """The report without findings that are known already.

        Args:
          baseline: a file that `write_baseline` wrote, or fingerprints of findings.

        Raises:
          ValueError: the file holds something else.
        """
        known = _selection.fingerprints(baseline)
        left = [each for each in self.findings if each.fingerprint not in known]
        return dataclasses.replace(self, findings=left)

    def write_baseline(self, file: str | os.PathLike[str]) -> None:
        """Writes the fingerprints of all findings into a file, for `without`."""
        known = sorted({each.fingerprint for each in self.findings})
        Path(file).write_text(json.dumps({"version": 1, "fingerprints": known}, indent=1) + "\n")

    def to_json(self) -> str:
        """The report as JSON: `sites` and `findings`, each a list of objects."""
        return json.dumps(
            {
                "sites": [each.as_dict() for each in self.sites],
                "findings": [each.as_dict() for each in self.findings],
            },
            indent=1,
        )

    def to_sarif(self) -> str:
        """The findings as SARIF 2.1.0, which code hosts show beside the code."""
        return json.dumps(_forms.sarif(self.findings), indent=1)

    def __str__(self) -> str:
        return _forms.text(self.sites, self.findings)

    def __rich__(self) -> Any:
        return _forms.rich_table(self.sites, self.findings)

    def _repr_html_(self) -> str:
        return _forms.html(self.sites, self.findings)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope import repr_lib  # only treescope calls this

        return repr_lib.render_object_constructor(
            object_type=type(self),
            attributes={"sites": self.sites, "findings": self.findings},
            path=path,
            subtree_renderer=subtree_renderer,
        )
