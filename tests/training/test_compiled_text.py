"""Figures that `scripts/compile_tpu.py` reads from the text of a program that a TPU's compiler
made.
"""

from __future__ import annotations

import math
import types
from typing import Any

import pytest

from ahead import text

PROGRAM = """
%condition.1 (p.1: (s32[], f32[8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(8)
  %item.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%item.1, %constant.5), direction=LT
}
%inner (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = f32[8]{0} fusion(%p.2), backend_config={"window_config":{"estimated_cycles":"10"}}
  %all-gather.1 = f32[8]{0} all-gather(%fusion.1)
}
%body (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[], f32[8]) while(%p.3), condition=%condition.1, body=%inner, KNOWN
  %copy.1 = f32[8]{0} copy(%p.3), backend_config={"window_config":{"estimated_cycles":"1000"}}
}
ENTRY %main (p.4: f32[8]) -> f32[8] {
  %while.2 = (s32[], f32[8]) while(%p.4), condition=%condition.1, body=%body
  %fusion.2 = f32[8]{0} fusion(%p.4), backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""


def compiled(program: str) -> Any:
    return types.SimpleNamespace(as_text=lambda: program)


@pytest.mark.parametrize(
    ("known", "rounds"), [("", 8), ('backend_config={"known_trip_count":{"n":"3"}}', 3)]
)
def test_a_loop_counts_as_often_as_it_runs(known: str, rounds: int) -> None:
    program = compiled(PROGRAM.replace("KNOWN", known))
    assert text.cycles(program) == 7 + 8 * (1000 + rounds * 10)
    assert text.collectives(program) == 1
    assert text.exchanges(program) == {"all-gather": 8 * rounds}


def test_a_kernel_has_no_estimate() -> None:
    kernel = '  %k = f32[8]{0} custom-call(%p.4), custom_call_target="tpu_custom_call"\n}'
    program = compiled(PROGRAM.rstrip().removesuffix("}") + kernel)
    assert math.isnan(text.cycles(program))
    assert text.calls(program) == 1
