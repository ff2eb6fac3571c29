"""What `scripts/check_random.py` reads in the reports of batteries, and what it keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from batteries import dieharder, practrand, programs, testu01, verdicts
from batteries.verdicts import FAIL, PASS, SUSPICIOUS, Verdict

PRACTRAND = """\
RNG_test using PractRand version 0.95-planet36

rng=RNG_stdin32, seed=unknown
length= 512 mebibytes (2^29 bytes), time= 29.2 seconds
  no anomalies in 180 test result(s)

rng=RNG_stdin32, seed=unknown
length= 1 gibibyte (2^30 bytes), time= 50.6 seconds
  Test Name                         Raw       Processed     Evaluation
  Gap-16:A                          R=  +6.4  p =  4.6e-5   mildly suspicious
  [Low8/32]FPF-14+6/16:all          R=  +4.8  p =1-5.1e-4   unusual
  ...and 192 test result(s) without anomalies

rng=RNG_stdin32, seed=unknown
length= 2 gibibytes (2^31 bytes), time= 91.4 seconds
  Test Name                         Raw       Processed     Evaluation
  Gap-16:A                          R>+99999  p = 0           FAIL !!!!!!!!
  ...and 204 test result(s) without anomalies
"""


def test_practrand() -> None:
    clean, odd, bad = practrand.parse("stream", 3, PRACTRAND.splitlines())
    assert clean == Verdict("PractRand", "stream", 3, PASS, 180, (), 2**29)
    assert (odd.outcome, odd.values, odd.size) == (SUSPICIOUS, 194, 2**30)
    assert odd.unusual == (
        "1 GiB: Gap-16:A p = 4.6e-5 (mildly suspicious)",
        "1 GiB: [Low8/32]FPF-14+6/16:all p = 1-5.1e-4 (unusual)",
    )
    assert (bad.outcome, bad.values, bad.size) == (FAIL, 205, 2**31)
    assert bad.unusual == (*odd.unusual, "2 GiB: Gap-16:A p = 0 (FAIL)")


def test_testu01() -> None:
    log = """\
Crush 2 0.7 SerialOver, t = 4
Crush 17 0.0004 BirthdaySpacings, t = 2
Crush 17 0.9999999 BirthdaySpacings, t = 3
Crush 5 1e-11 CollisionOver
"""
    plain, odd, bad = testu01.parse("rows", 0, log.splitlines())
    assert plain == Verdict("TestU01 Crush", "rows", 0, PASS, 1, test=2)
    assert (odd.outcome, odd.values, odd.test) == (SUSPICIOUS, 2, 17)
    assert odd.unusual == (
        "17 BirthdaySpacings, t = 2 p = 4.0e-04",
        "17 BirthdaySpacings, t = 3 p = 1 - 1.0e-07",
    )
    assert bad.outcome == FAIL


def test_dieharder() -> None:
    log = """\
#        test_name   |ntup| tsamples |psamples|  p-value |Assessment
   diehard_birthdays|   0|       100|     100|0.48330000|  PASSED
      diehard_operm5|   0|   1000000|     100|0.00010000|   WEAK
  diehard_rank_32x32|   0|     40000|     100|0.00000000|  FAILED
"""
    found = dieharder.parse("masks", 0, log.splitlines(), 8)
    assert (found.outcome, found.values, found.test) == (FAIL, 3, 9)
    assert found.unusual == (
        "diehard_operm5 p = 0.00010000 (WEAK)",
        "diehard_rank_32x32 p = 0.00000000 (FAILED)",
    )


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{verdicts.BEGIN}\nold\n{verdicts.END}\nafter\n")
    monkeypatch.setattr(verdicts, "PAGE", page)
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path / "results" / "random.json")
    return page


def test_a_table_grows_as_results_come(page: Path) -> None:
    for verdict in (
        Verdict("TestU01 Crush", "stream", 0, PASS, 2, test=4),
        Verdict("PractRand", "threefry/stream", 0, PASS, 200, size=2**30),
        Verdict("PractRand", "stream", 0, PASS, 240, ("4 GiB: Gap p = 1e-3 (unusual)",), 2**34),
        Verdict("PractRand", "stream", 0, PASS, 142, (), 2**26),  # shorter: the longer one stays
        Verdict("TestU01 Crush", "stream", 0, FAIL, 1, ("5 Gap p = 1e-11",), test=5),
        Verdict("TestU01 Crush", "stream", 0, PASS, 3, test=4),  # again
    ):
        verdicts.record(verdict)
    before, *rows, after = page.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert [row for row in rows if row.startswith("| ")][1:] == [
        "| PractRand | stream | 16 GiB | 240 | pass | 4 GiB: Gap p = 1e-3 (unusual) |",
        "| TestU01 Crush | stream | 2 tests | 4 | **FAIL** | 5 Gap p = 1e-11 |",
        "| PractRand | threefry/stream | 1 GiB | 200 | pass |  |",
    ]
    verdicts.record(Verdict("PractRand", "stream", 0, FAIL, 142, ("x",), 2**26))  # worse: it counts
    assert "| PractRand | stream | 64 MiB | 142 | **FAIL** | x |" in page.read_text()
    verdicts.record(Verdict("PractRand", "stream", 0, PASS, 9, (), 2**25, words=1))  # other words
    assert "| PractRand | stream | 32 MiB | 9 | pass |  |" in page.read_text()


@pytest.mark.skipif(programs.build("emit") is None, reason="no C compiler")
@pytest.mark.parametrize("order", ["stream", "rows", "stratified", "rbg/fold-in"])
def test_the_c_program_draws_what_jax_draws(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.verify(order, 5)
    with programs.source(order, 5) as source:
        assert source.stdout is not None
        first = np.frombuffer(source.stdout.read(64), np.uint32)
    np.testing.assert_array_equal(first, programs.words(order, 5)[:16])
    monkeypatch.setattr(programs, "words", lambda *_: np.zeros(4, np.uint32))
    programs.verify.cache_clear()
    with pytest.raises(SystemExit, match="not what JAX draws"):
        programs.verify(order, 5)


@pytest.mark.skipif(programs.build("emit") is None, reason="no C compiler")
def test_an_order_that_does_not_exist() -> None:
    done = subprocess.run(
        [str(programs.build("emit")), "rbg/pairs"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no such order: rbg/pairs" in done.stderr


@pytest.mark.sweep
def test_the_verdicts_on_record_are_of_this_generator() -> None:
    stale = [v for v in verdicts.read() if v.words != programs.checksum(v.order, v.seed)]
    assert stale == []
    assert verdicts.table(verdicts.read()) in verdicts.PAGE.read_text()
