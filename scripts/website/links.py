"""Links, anchors and alternative texts, by the text of the pages alone."""

from __future__ import annotations

import functools
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from website.faults import Fault

_PATIENCE = 20  # seconds for another site to answer
_ELSEWHERE = ("http:", "https:", "//")
_NO_PAGE = ("mailto:", "data:", "javascript:")


class _Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.links: dict[str, None] = {}
        self.silent: list[str] = []
        """Sources of images without an alternative text."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.targets |= {found for name in ("id", "name") if (found := named.get(name))}
        for attribute in ("href", "src"):
            if found := named.get(attribute):
                self.links[found] = None
        if tag == "img" and "alt" not in named:
            self.silent.append(named.get("src") or "no source")


@functools.cache
def _read(page: Path) -> _Page:
    found = _Page()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def broken(site: Path, pages: Sequence[Path]) -> Iterator[Fault]:
    """Links to files and anchors that are not there, and images without an alternative text."""
    for page in pages:
        name = page.relative_to(site).as_posix()
        for link in _read(page).links:
            if not link.startswith((*_ELSEWHERE, *_NO_PAGE)) and (why := _lacks(site, page, link)):
                yield Fault(name, "broken link", link, why)
        for source in _read(page).silent:
            yield Fault(name, "image without alternative text", source)


def _lacks(site: Path, page: Path, link: str) -> str | None:
    path, _, anchor = link.partition("#")
    path = urllib.parse.unquote(path.partition("?")[0])
    target = page if not path else (site if path[0] == "/" else page.parent) / path.lstrip("/")
    target = (target / "index.html" if target.is_dir() else target).resolve()
    if not target.is_relative_to(site.resolve()) or not target.is_file():
        return "no such file"
    # A page's top has no name of its own, and scripts follow "#" on an element that acts.
    if anchor and target.suffix == ".html":
        targets = _read(target).targets
        if anchor not in targets and urllib.parse.unquote(anchor) not in targets:
            return "no such anchor"
    return None


def unreachable(site: Path, pages: Sequence[Path]) -> Iterator[Fault]:
    """Links to other sites that do not answer. Each address is asked once."""
    answers: dict[str, str | None] = {}
    for page in pages:
        for link in _read(page).links:
            if link.startswith(_ELSEWHERE):
                address = urllib.parse.urldefrag(urllib.parse.urljoin("https://", link)).url
                if address not in answers:
                    answers[address] = _asked(address)
                if why := answers[address]:
                    yield Fault(page.relative_to(site).as_posix(), "other site", link, why)


def _asked(address: str) -> str | None:
    asked = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (check_site.py)"})
    try:
        with urllib.request.urlopen(asked, timeout=_PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        # Whoever turns robots away has the page.
        return None if error.code in (401, 403, 429) else f"{error.code} {error.reason}"
    except OSError as error:
        return str(error)
