"""Findings, and the rules that they belong to."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Any


class Severity(enum.IntEnum):
    """How bad a finding is.

    Attributes:
      INFO: it costs something, or is a choice to know of.
      WARNING: it is seldom what the author meant.
      ERROR: dropout does not do what it is there for.
    """

    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclasses.dataclass(frozen=True)
class Rule:
    """A kind of finding.

    Attributes:
      id: such as `JD201`.
      name: a few words in kebab case.
      severity: how bad it is.
      title: what is wrong, in one line.
      why: why it matters.
      fix: what to do.
    """

    id: str
    name: str
    severity: Severity
    title: str
    why: str
    fix: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
      rule: the rule.
      where: the module path, the line, or both.
      evidence: what was seen in the program.
    """

    rule: Rule
    where: str
    evidence: str

    @property
    def id(self) -> str:
        return self.rule.id

    @property
    def severity(self) -> Severity:
        return self.rule.severity

    @property
    def fingerprint(self) -> str:
        """What a baseline file knows the finding by: the rule and the place without its line."""
        place = self.where.split(":")[0]
        return hashlib.sha256(f"{self.id}|{place}|{_words(self.evidence)}".encode()).hexdigest()[
            :16
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.severity.name.lower()} {self.where}: {self.evidence}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        return {
            "id": self.id,
            "name": self.rule.name,
            "severity": self.severity.name.lower(),
            "where": self.where,
            "evidence": self.evidence,
            "why": self.rule.why,
            "fix": self.rule.fix,
            "fingerprint": self.fingerprint,
        }


def _words(text: str) -> str:
    """A text without its numbers, which change when a file is edited."""
    return " ".join(word for word in text.split() if not any(letter.isdigit() for letter in word))
