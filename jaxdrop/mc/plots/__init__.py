"""Pictures of predictions and their uncertainty, by matplotlib: `pip install 'jaxdrop[plot]'`.

    summary = mc.classification(logits=samples)
    ax = mc.plots.reliability(labels, summary.mean)
    ax.figure.savefig("reliability.png")

Each function takes arrays, draws into `ax` or into a new figure, and returns the axes, on which
labels and titles can be changed. The numbers are those of `mc.metrics`, and the truth comes first
as there. matplotlib is imported on the first call.
"""

from jaxdrop.mc.plots._calibration import calibration, pit
from jaxdrop.mc.plots._certainty import certainty
from jaxdrop.mc.plots._coverage import coverage_by_group, coverage_by_size
from jaxdrop.mc.plots._maps import maps
from jaxdrop.mc.plots._novelty import novelty
from jaxdrop.mc.plots._regression import band
from jaxdrop.mc.plots._reliability import reliability
from jaxdrop.mc.plots._sampling import standard_error
from jaxdrop.mc.plots._selective import risk_coverage, sparsification

__all__ = [
    "band",
    "calibration",
    "certainty",
    "coverage_by_group",
    "coverage_by_size",
    "maps",
    "novelty",
    "pit",
    "reliability",
    "risk_coverage",
    "sparsification",
    "standard_error",
]


def __dir__() -> list[str]:
    return __all__
