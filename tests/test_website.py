"""What `scripts/check_site.py` finds without a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from website import faults, links

pytestmark = pytest.mark.sweep

PAGE = """
<h1 id="here">A page</h1><a name="there"></a>
<a href="#here">1</a> <a href="#there">2</a> <a href="b.html#part%20two">3</a> <a href="sub/">4</a>
<a href="https://example.org/none">5</a> <a href="mailto:a@example.org">6</a>
<img src="x.png" alt="">
"""


def test_links_that_lead_somewhere(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text(
        '<a href="../a.html">up</a> <a href="/b.html">b</a>'
    )
    (tmp_path / "b.html").write_text('<h2 id="part two"></h2>')
    (tmp_path / "x.png").touch()
    (tmp_path / "a.html").write_text(PAGE)
    assert [*links.broken(tmp_path, sorted(tmp_path.rglob("*.html")))] == []


@pytest.mark.parametrize(
    ("line", "kind", "where"),
    [
        ('<a href="#away">', "broken link", "#away"),
        ('<a href="none.html">', "broken link", "none.html"),
        ('<a href="../outside.html">', "broken link", "../outside.html"),
        ('<script src="none.js"></script>', "broken link", "none.js"),
        ('<img src="a.html">', "image without alternative text", "a.html"),
    ],
)
def test_faults_are_found(tmp_path: Path, line: str, kind: str, where: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").touch()
    (site / "a.html").write_text(line)
    (found,) = links.broken(site, [site / "a.html"])
    assert (found.page, found.kind, found.where) == ("a.html", kind, where)


def test_a_fault_of_many_pages_is_reported_once() -> None:
    many = [
        faults.Fault(f"{page}.html", "console", "error: x", f"line {page}") for page in range(5)
    ]
    assert faults.report(many).splitlines() == [
        "console: error: x",
        *(f"    {page}.html: line {page}" for page in range(3)),
        "    and 2 more",
    ]
    assert faults.report([]) == ""
