"""Checks that a tag may be released, and prints the notes of its release, from CHANGELOG.md.

python scripts/release.py v0.1.0
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def version() -> str:
    """That of the package, which need not be installed."""
    text = (_ROOT / "jaxdrop" / "__init__.py").read_text()
    [found] = re.findall(r'(?m)^__version__ = "(.+)"$', text)
    return str(found)


def sections(changelog: str) -> dict[str, tuple[str, str]]:
    """For each version, what stands behind it in its heading, and the text below."""
    found = re.findall(r"(?ms)^## (\S+)(?: - (\S+))?[^\n]*\n(.*?)(?=^## |\Z)", changelog)
    return {name.strip("[]"): (date, text.strip()) for name, date, text in found}


def notes(tag: str, version: str, changelog: str) -> str:
    """The notes of a release.

    Raises:
      SystemExit: the tag is not that of the version, or the changelog is not ready.
    """
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, and the version v{version}: jaxdrop/__init__.py")
    known = sections(changelog)
    if version not in known:
        raise SystemExit(f"CHANGELOG.md has no section {version}: it has {', '.join(known)}")
    date, text = known[version]
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise SystemExit(f"the heading of {version} in CHANGELOG.md needs a date: - 2026-12-31")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag", help="such as v0.1.0")
    print(notes(parser.parse_args().tag, version(), (_ROOT / "CHANGELOG.md").read_text()))


if __name__ == "__main__":
    main()
