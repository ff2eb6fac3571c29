"""What rules get to see, and how they are registered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._findings import Finding
from jaxdrop.audit._graph import Node
from jaxdrop.audit._sites import Found
from jaxdrop.audit._tracing import Program


@dataclasses.dataclass
class Audit:
    """A program with its sites.

    Attributes:
      program: the traced function.
      found: its sites.
      training: whether the caller says that it is a training function (True), an evaluation
        function (False), or neither (None).
      step: whether the caller named the step.
    """

    program: Program
    found: list[Found]
    training: bool | None
    step: bool

    def drawn(self) -> list[Found]:
        """The sites whose rate is not 0."""
        return [each for each in self.found if each.site.rate != 0]

    def drops_weights(self, found: Found) -> bool:
        """Whether a site drops weights, and not activations."""
        data = found.first.data
        return data.deps != 0 and self.only_weights(data)

    def only_weights(self, node: Node) -> bool:
        """Whether a value is computed from weights, and constants, alone."""
        return all(
            source.weights for bit, source in self.program.sources.items() if node.deps & bit
        )


Seen = tuple[str, str]
"""Where, and the evidence."""

Check = Callable[[Audit], Iterator[Seen]]
CHECKS: list[tuple[str, Check]] = []


def rule(name: str) -> Callable[[Check], Check]:
    """Registers a function that yields where a rule is broken, with the evidence."""

    def register(check: Check) -> Check:
        CHECKS.append((name, check))
        return check

    return register


def findings(audit: Audit) -> list[Finding]:
    """What is wrong, the worst first. Equal findings are one."""
    made = {
        Finding(RULES[name], where, evidence)
        for name, check in CHECKS
        for where, evidence in check(audit)
    }
    return sorted(made, key=lambda each: (-each.severity, each.id, each.where, each.evidence))


def lineage(node: Node, depth: int = 6) -> str:
    """Where a key comes from, as text: `fold_in(split(key)[0], 3)`."""
    if node.op == "argument":
        return str(node.params["name"])
    if node.const is not None:
        return f"{node.const}"
    if depth == 0:
        return "..."
    inner = [lineage(each, depth - 1) for each in node.inputs]
    match node.op:
        case "random_fold_in":
            return f"fold_in({', '.join(inner)})"
        case "random_split":
            return f"split({inner[0]})"
        case "random_seed":
            return f"key({inner[0]})"
        case "random_wrap" | "random_unwrap" | "squeeze" | "reshape" | "convert_element_type":
            return inner[0]
        case "slice" | "dynamic_slice" | "gather" | "element":
            return f"{inner[0]}[...]"
        case "shard":
            return inner[0]
        case "constant":
            return "a constant"
    return f"{node.op}({', '.join(inner)})"
