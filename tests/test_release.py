"""What stands in several places of a release agrees, and a tag that is not ready is refused."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

import jaxdrop
from jaxdrop._references import entries
from scripts import release

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = (ROOT / "CITATION.cff").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOWS = {file.name: file.read_text() for file in (ROOT / ".github/workflows").glob("*.yml")}
pytestmark = pytest.mark.sweep


def field(name: str) -> str:
    """That of CITATION.cff, on one line."""
    found = re.search(rf"(?m)^(?:  - )?{name}: \"?(.+?)\"?$", CITATION)
    return found[1] if found else ""


def test_one_version_one_title_the_same_authors() -> None:
    assert field("version") == release.version() == jaxdrop.__version__
    assert field("name") == PROJECT["authors"][0]["name"]
    own = entries()["jaxdrop"].fields
    assert field("title") == re.sub(r"[{}]", "", own["title"])
    assert field("name") == re.sub(r"[{}]", "", own["author"])
    assert field("license") == PROJECT["license"]


def test_the_changelog_has_the_version() -> None:
    date, text = release.sections(CHANGELOG)[jaxdrop.__version__]
    assert text
    assert field("date-released").strip("'") == date  # neither, before the release


def test_supported_pythons_are_tested() -> None:
    prefix = "Programming Language :: Python :: 3."
    pythons = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    matrix = "python: " + json.dumps(pythons)
    for name in ("ci.yml", "release.yml"):
        assert matrix in WORKFLOWS[name]
        assert set(re.findall(r"(?m)^ {12}(3\.\d+)$", WORKFLOWS[name])) == set(pythons)
    assert f"| {pythons[0]} | {', '.join(pythons)} |" in (ROOT / "docs/stability.md").read_text()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_and_may_do_little(name: str) -> None:
    text = WORKFLOWS[name]
    uses = re.findall(r"uses: (.+)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses)
    assert re.search(r"(?m)^permissions: {}$|^permissions:\n  contents: read\n\n", text)
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    assert text.count("timeout-minutes:") == text.count("runs-on:")
    assert not re.search(r"secrets\.|\bpypi\.org|\$\{\{ github\.(ref_name|event)", text)


NOTES = """# Changelog

## 0.2.0 - 2026-12-31

- New.

### More

- Other.

## 0.1.0

- First.
"""


def test_notes_are_the_section() -> None:
    assert release.notes("v0.2.0", "0.2.0", NOTES) == "- New.\n\n### More\n\n- Other."
    assert release.sections("## [1.0.0] - 2027-01-01\n\n- x\n") == {"1.0.0": ("2027-01-01", "- x")}


@pytest.mark.parametrize(
    ("tag", "version", "message"),
    [
        ("v0.2.1", "0.2.0", r"the tag is v0\.2\.1, and the version v0\.2\.0"),
        ("0.2.0", "0.2.0", r"the tag is 0\.2\.0"),
        ("v0.3.0", "0.3.0", r"has no section 0\.3\.0: it has 0\.2\.0, 0\.1\.0"),
        ("v0.1.0", "0.1.0", r"needs a date"),
    ],
)
def test_what_is_not_ready_is_refused(tag: str, version: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        release.notes(tag, version, NOTES)
