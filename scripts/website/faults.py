"""Faults of pages: the same one on many pages is one entry of the report."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import NamedTuple


class Fault(NamedTuple):
    """Something that is wrong with a page."""

    page: str
    kind: str
    where: str
    """The link, the element, the message: faults of the same place are reported together."""
    detail: str = ""
    """What differs from page to page."""


def report(faults: Iterable[Fault], pages: int = 3) -> str:
    """An entry for each kind and place, with the first pages that have it."""
    found = collections.defaultdict[tuple[str, str], dict[str, None]](dict)
    for fault in faults:
        detail = f": {fault.detail}" if fault.detail else ""
        found[fault.kind, fault.where][f"{fault.page}{detail}"] = None
    lines = []
    for (kind, where), each in sorted(found.items()):
        lines += [f"{kind}: {where}", *(f"    {page}" for page in [*each][:pages])]
        if len(each) > pages:
            lines.append(f"    and {len(each) - pages} more")
    return "\n".join(lines)
