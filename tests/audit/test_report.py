"""The forms of a report, the command line, and baselines."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxdrop import _source_lines, audit
from jaxdrop.audit import _check, _cli, _forms, _tracing
from tests.audit.gallery import KEY
from tests.audit.gallery._jax import W, X, model

pytestmark = pytest.mark.usefixtures("relaxed")


def wrong(w: Any, key: jax.Array, x: jax.Array) -> jax.Array:
    return model(w, jax.random.key(0), x, 0.9)


def target() -> tuple[Any, ...]:
    return wrong, W, KEY, X


def good() -> tuple[Any, ...]:
    return model, W, KEY, X


def made() -> audit.Report:
    return REPORT


def nothing() -> int:
    return 3


def empty() -> tuple[()]:
    return ()


def text() -> tuple[str]:
    return ("text",)


REPORT = audit.check(*target())
HERE = __file__


def test_text_has_a_row_a_site_and_what_to_do() -> None:
    for text in (str(REPORT), _forms.plain(REPORT.sites, REPORT.findings)):
        assert text.count("tests/audit/gallery/_jax.py") >= 3  # the row and two findings
        assert "JD205 error" in text
        assert audit.RULES["JD304"].fix.split(".")[0] in text
        assert "1 sites, 1 drawn; findings: 1 error, 1 warning, 0 info" in text


def test_the_last_column_says_whether_a_site_drops() -> None:
    def last(rate: float) -> str:
        (site,) = audit.check(
            lambda key, x: jax.random.bernoulli(key, 1 - rate, X.shape) * x, KEY, X
        ).sites
        return _forms.row(site)[-1]

    assert (last(0.1), last(0.0)) == ("yes", "rate 0")


def test_text_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forms._optional, "find", lambda name: None)
    assert str(REPORT) == _forms.plain(REPORT.sites, REPORT.findings)


def test_text_has_no_colors_and_rich_has_those_of_severities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in str(REPORT)
    parts = _forms.rich_table(REPORT.sites, REPORT.findings).renderables
    assert [str(getattr(part, "style", "")) for part in parts[1:]] == [
        "bold red", "", "yellow", "", "",
    ]  # fmt: skip


def test_rich_shows_what_print_shows() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=160, record=True, file=io.StringIO())
    console.print(REPORT)
    assert console.export_text().rstrip("\n") == str(REPORT)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (12_640_000, "12.6M"), (2e9, "2G"), (3e12, "3T"),
     (4.5e15, "4.5P"), (4.5e18, "4.5e+03P")],
)  # fmt: skip
def test_large_numbers_have_a_unit(number: float, text: str) -> None:
    assert _forms.short(number) == text


def test_a_row_has_the_text_of_each_column() -> None:
    site = audit.Site(
        "net", "dropout", 0.25, (8, 16), (0, 1), "rbg", 4096, 12, 3000, 1_000_000, True, repeats=3
    )
    off = dataclasses.replace(site, active=False, rate=None)
    texts = ("net", "dropout", "0.25", "8x16 x3", "0, 1", "rbg", "4.1k", "12", "3k", "1M", "yes")
    assert _forms.row(site) == texts
    assert _forms.row(off) == ("net", "dropout", "?", *[""] * 7, "no")
    plain = dataclasses.replace(site, rate="traced", shared_axes=(), repeats=1)
    assert _forms.row(plain)[2:5] == ("traced", "8x16", "-")


def test_json_holds_all_fields() -> None:
    read = json.loads(REPORT.to_json())
    assert [each["id"] for each in read["findings"]] == ["JD205", "JD304"]
    assert read["sites"] == [json.loads(json.dumps(site.as_dict())) for site in REPORT.sites]


def test_sarif_has_a_rule_and_a_line_for_each_result() -> None:
    (run,) = json.loads(REPORT.to_sarif())["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == list(audit.RULES)
    for result, level in zip(run["results"], ("error", "warning"), strict=True):
        assert result["ruleId"] in rules
        assert result["level"] == level
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"].endswith("_jax.py")
        assert location["physicalLocation"]["region"]["startLine"] > 0


def test_a_finding_without_a_line_has_its_name_only() -> None:
    finding = audit.Finding(audit.RULES["JD103"], "the function", "no random bits meet an array")
    (run,) = json.loads(audit.Report([], [finding]).to_sarif())["runs"]
    (result,) = run["results"]
    assert result["locations"] == [{"logicalLocations": [{"fullyQualifiedName": finding.where}]}]


def test_html_escapes_what_it_shows() -> None:
    site = audit.check(*good()).sites[0]
    page = audit.Report([site.__class__(**{**site.as_dict(), "where": "<lambda>"})], [])
    assert "&lt;lambda&gt;" in page._repr_html_()
    assert "<lambda>" not in page._repr_html_()


@pytest.mark.filterwarnings("ignore:The chararray class:DeprecationWarning")  # of treescope
def test_treescope_shows_a_report() -> None:
    treescope = pytest.importorskip("treescope")
    text = treescope.render_to_text(REPORT)
    assert text.startswith("Report(")
    assert "Site(" in text


def test_a_baseline_hides_what_is_known(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    REPORT.write_baseline(file)
    assert REPORT.without(file).findings == []
    assert REPORT.without([REPORT.findings[0].fingerprint]).findings == REPORT.findings[1:]
    assert REPORT.worst is audit.Severity.ERROR
    assert REPORT.without(file).worst is None
    file.write_text("{}")
    with pytest.raises(ValueError, match="is no baseline file"):
        REPORT.without(file)


def test_a_fingerprint_outlives_an_edit_above_the_line() -> None:
    first = REPORT.findings[0]
    moved = audit.Finding(first.rule, first.where.replace(":", ":1"), first.evidence)
    other = audit.Finding(audit.RULES["JD204"], first.where, first.evidence)
    assert moved.fingerprint == first.fingerprint != other.fingerprint
    # Files of baselines hold it: the same in every version.
    finding = audit.Finding(audit.RULES["JD304"], "net/drop (a.py:12)", "rate 0.9: is 0.1 meant?")
    assert finding.fingerprint == "eda8534ed40c1c3c"


def test_files_have_a_line_for_each_entry(tmp_path: Path) -> None:
    """So that differences of two of them can be read."""
    file = tmp_path / "known.json"
    REPORT.write_baseline(file)
    known = sorted(each.fingerprint for each in REPORT.findings)
    assert json.loads(file.read_text()) == {"version": 1, "fingerprints": known}
    assert file.read_text().endswith("}\n")
    for text in (file.read_text().rstrip("\n"), REPORT.to_json(), REPORT.to_sarif()):
        assert text == json.dumps(json.loads(text), indent=1)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([f"{HERE}:target"], 1, "JD205"),
        ([f"{HERE}:good"], 0, "0 error, 0 warning, 0 info"),
        ([f"{HERE}:target", "--select", "JD3"], 1, "JD304"),
        ([f"{HERE}:target", "--ignore", "JD205", "--fail-level", "error"], 0, "JD304"),
        ([f"{HERE}:good", "--evaluation"], 1, "JD102"),
        ([f"{HERE}:good", "--training", "--step", "2"], 1, "JD202"),
        ([f"{HERE}:target", "--format", "json"], 1, '"findings"'),
        ([f"{HERE}:target", "--format", "sarif"], 1, "2.1.0"),
        ([f"{HERE}:made"], 1, "JD205"),
        ([f"{HERE}:good", "--training", "--step", "x"], 1, "JD202"),
        ([f"{HERE}:good", "--training", "--step", "key"], 0, "0 error"),
        ([f"{HERE}:target", "--fail-level", "error", "--select", "JD304"], 0, "JD304"),
        ([f"{HERE}:empty"], 2, "must return a tuple"),
        ([f"{HERE}:text"], 2, "must return a tuple"),
        ([":text"], 2, "is not of the form module:function"),
        ([f"{HERE}:"], 2, "is not of the form module:function"),
        ([f"{HERE}:nothing"], 2, "must return a tuple"),
        (["/no/such/file.py:f"], 2, "there is no file '/no/such/file.py'"),
        ([f"{HERE}:absent"], 2, "absent"),
        (["no_such_module:f"], 2, "no_such_module"),
        (["target"], 2, "module:function"),
        ([f"{HERE}:target", "--select", "JX"], 2, "select must hold"),
        ([f"{HERE}:target", "--baseline", "/no/such/file"], 2, "/no/such/file"),
        (["--explain", "jd303"], 0, "1801.05134"),
        (["--list-rules"], 0, "| JD101 | error |"),
    ],
)
def test_the_command_line(
    arguments: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert text in (err if status == 2 else out)


def test_the_help_says_what_each_argument_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _cli.main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m jaxdrop.audit [")
    assert _cli._DESCRIPTION.strip() in text
    lines = " ".join(text.split())
    for argument in (
        "TARGET module:function",
        "--training something must be dropped",
        "--evaluation nothing may be dropped",
        "--step STEP the argument that changes from step to step",
        "--select SELECT ids of rules",
        "--ignore IGNORE the same",
        "--baseline FILE findings that are known",
        "--write-baseline FILE writes such a file",
        "--fail-level {info,warning,error} the exit status is 1",
        "--list-rules prints all rules",
        "--explain ID prints one rule",
    ):
        assert argument in lines


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "which function? Give module:function"),
        (["--explain", "JD999"], "no rule 'JD999'; the rules are JD101, "),
        (["a:b", "--training", "--evaluation"], "not allowed with argument"),
        (["a:b", "--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _cli.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_a_module_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audited_module.py").write_text("class Of:\n    step = staticmethod(len)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    for _ in range(2):
        assert _cli.load("audited_module:Of.step") is len
    assert (sys.path.count(""), sys.path.index("")) == (1, 0)


def test_the_command_line_keeps_a_baseline(tmp_path: Path) -> None:
    file = str(tmp_path / "known.json")
    assert _cli.main([f"{HERE}:target", "--write-baseline", file]) == 0
    assert _cli.main([f"{HERE}:target", "--baseline", file]) == 0


def test_it_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxdrop.audit", "--explain", "JD999"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no rule 'JD999'" in done.stderr


def test_the_page_lists_the_rules() -> None:
    page = Path(__file__).parents[2] / "docs" / "audit.md"
    assert _cli.list_rules() in page.read_text()


def test_a_report_of_nothing_is_a_line() -> None:
    nothing = audit.Report([], [])
    line = "0 sites, 0 drawn; findings: 0 error, 0 warning, 0 info"
    assert _forms.plain([], []).splitlines()[-2:] == ["", line]
    if _forms._optional.find("rich") is not None:
        assert str(nothing) == line
    assert nothing.worst is None
    assert (nothing.trace_seconds, nothing.audit_seconds) == (0, 0)
    assert json.loads(nothing.to_json()) == {"sites": [], "findings": []}


def test_the_times_are_those_of_tracing_and_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that shows 1, 2, 4, 8, 16: tracing ends at 2, its walk at 4."""
    clock = types.SimpleNamespace(perf_counter=iter([1, 2, 4, 8, 16]).__next__)
    monkeypatch.setattr(_tracing, "time", clock)
    monkeypatch.setattr(_check, "time", clock)
    report = audit.check(*good())
    assert (report.trace_seconds, report.audit_seconds) == (1, 2 + 8)


def test_the_names_of_the_module() -> None:
    assert dir(audit) == sorted(audit.__all__)


def test_the_line_of_the_user_is_the_first_that_no_library_has() -> None:
    def line(*files: str) -> str | None:
        frames = [types.SimpleNamespace(file_name=name, line_num=7) for name in files]
        return _source_lines.user_line(
            types.SimpleNamespace(traceback=types.SimpleNamespace(frames=frames))
        )

    inside, outside = str(Path("some/file.py").resolve()), str(Path("..").resolve() / "file.py")
    library = jax.__file__
    assert line("<string>", library, _source_lines.__file__, inside, outside) == "some/file.py:7"
    assert line(json.__file__, outside, inside) == f"{outside}:7"
    assert line(library, "<string>") is None
    assert _source_lines.user_line(None) is None
    assert _source_lines.names_library(f"f at {library}:3")
    assert not _source_lines.names_library(f"f at {inside}:3")
