"""Checks the files and the metadata of a source distribution and its wheel: `scripts/check_wheel`.

    python scripts/distributions.py dist direct

`dist` holds the source distribution and the wheel that is made from it, `direct` the wheel that is
made from the checkout.
"""

from __future__ import annotations

import argparse
import email
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# What a wheel has of which the bytes follow from the others.
_MADE = ("RECORD", "WHEEL")


def wheel(folder: Path) -> dict[str, bytes]:
    """The files of the only wheel in a folder."""
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def sources(folder: Path) -> set[str]:
    """The names of the files of the only source distribution in a folder."""
    [file] = folder.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def problems(dist: Path, direct: Path) -> list[str]:
    """What is wrong."""
    found, built = wheel(dist), wheel(direct)
    package = {
        str(file.relative_to(_ROOT))
        for file in (_ROOT / "jaxdrop").rglob("*")
        if file.is_file() and file.suffix in (".py", ".typed", ".bib")
    }
    inside = {name for name in found if ".dist-info/" not in name}
    wrong = [f"the wheel lacks {name}" for name in sorted(package - inside)]
    wrong += [f"the wheel has {name}" for name in sorted(inside - package)]
    given = sources(dist)
    wrong += [f"the source distribution lacks {name}" for name in sorted(package - given)]
    # Tests cannot run without what is around them, and setuptools adds some.
    others = {name for name in given if name.startswith(("docs/", "scripts/", "tests/"))}
    wrong += [f"the source distribution has {name}" for name in sorted(others)]
    different = {
        name
        for name in found.keys() | built.keys()
        if not name.endswith(_MADE) and found.get(name) != built.get(name)
    }
    wrong += [f"from sources and from the checkout, {name} differs" for name in sorted(different)]
    [text] = [value for name, value in found.items() if name.endswith(".dist-info/METADATA")]
    return wrong + _of_metadata(email.message_from_bytes(text))


def _of_metadata(metadata: Message) -> list[str]:
    """What the metadata lacks. Extras are checked by use, in `first_steps.py`."""
    needed = ["Name", "Version", "Summary", "License-Expression", "License-File", "Author"]
    needed += ["Keywords", "Requires-Python", "Description-Content-Type", "Classifier"]
    return [f"the metadata lacks {name}" for name in needed if not metadata.get(name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path)
    parser.add_argument("direct", type=Path)
    given = parser.parse_args()
    if wrong := problems(given.dist, given.direct):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
