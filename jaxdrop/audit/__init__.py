"""What dropout does in a given model, and what is wrong with it.

    report = jaxdrop.audit.check(train_step, state, batch, key, 0, step=3, training=True)
    print(report)

`check` traces a function without running it, and reports one row for each place where something is
dropped, and findings with ids, such as `JD201` for one key at two sites. `compare` runs an
evaluation and a training function, and tests that they agree in expectation.
`python -m jaxdrop.audit module:function` does the former from the command line.
"""

from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._check import check
from jaxdrop.audit._compare import Comparison, compare
from jaxdrop.audit._findings import Finding, Rule, Severity
from jaxdrop.audit._report import Report
from jaxdrop.audit._sites import Site

__all__ = [
    "RULES",
    "Comparison",
    "Finding",
    "Report",
    "Rule",
    "Severity",
    "Site",
    "check",
    "compare",
]


def __dir__() -> list[str]:
    return __all__
