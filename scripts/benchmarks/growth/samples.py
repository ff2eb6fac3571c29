"""Monte Carlo dropout with 1 to 1000 samples."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import _peers, mc
from benchmarks._compiled import scratch_bytes
from benchmarks._figures import Bar, Table
from benchmarks._timing import interleaved

_AT_ONCE = 10
# Keras runs each sample by itself, and not compiled.
_MOST_OF_KERAS = 100


def samples(quick: bool) -> Iterator[Table | Bar]:
    """Predictions of a perceptron, ten samples at once."""
    batch, *widths = (8, 16, 32, 32, 10) if quick else (64, 784, 1024, 1024, 10)
    case = mc.perceptron(batch, *widths)
    times: dict[str, dict[str, float]] = {}
    scratch: dict[str, dict[str, float]] = {}
    not_run: dict[str, dict[str, str]] = {}
    for count in (1, 13) if quick else (1, 3, 10, 32, 100, 316, 1000):
        row = str(count)
        calls = mc.calls(case, count, min(count, _AT_ONCE))
        scratch[row] = {
            name: scratch_bytes(call.func.lower(*call.args).compile())
            for name, call in calls.items()
            if name != mc.FLAX_LOOP
        }
        if torch := _peers.find("torch"):
            calls |= mc.torch_calls(torch, case.x, widths, count)
        if keras := _peers.find("keras"):
            if count <= _MOST_OF_KERAS:
                calls[mc.KERAS] = mc.keras_call(keras, case.x, widths, count)
            else:
                reason = f"a loop, whose time is that of {_MOST_OF_KERAS} samples, more often"
                not_run[row] = {mc.KERAS: reason}
        times[row] = interleaved(calls, seconds=0 if quick else 4, least=3)
    title = f"Monte Carlo samples of a perceptron {'-'.join(map(str, widths))}, batch {batch}"
    axis = "samples"
    yield Table(f"time, {title}", "s", times, limit=mc.INDEPENDENT, axis=axis, not_run=not_run)
    yield Table(f"temporaries, {title}", "B", scratch, axis=axis)
