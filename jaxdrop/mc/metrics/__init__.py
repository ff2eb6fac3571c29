"""How good predictions and their uncertainties are. The truth comes first, as in scikit-learn:
`nll(labels, probs)`.

    summary = mc.classification(logits=samples)
    mc.metrics.ece(labels, summary.mean)
    mc.metrics.auroc(inside.mutual_information, outside.mutual_information)

Entropies and likelihoods are in nats. Each function states its definition, since several are in use
under some names. Most are written in `jax.numpy`, can be traced, run on any mesh, and return scalar
arrays. `auroc`, `aupr` and `fpr95` call scikit-learn, which needs known values: not under `jit`.
Errors of float32 do not grow with the number of examples.

**Labels with two values.** With `binary=True`, probabilities are of the label 1 alone, and of the
shape of the labels, which are 0 or 1, or booleans: one label for each example, shape (N,), or
several that do not exclude each other, shape (N, L). Each label counts as one prediction, and means
are over all of them.

**Entries that do not count.** `where` is a boolean array that broadcasts to the labels, or to the
observations: true for the entries that count, as in `numpy.mean(x, where=...)`. For an index to
ignore pass `where=labels != 255`. The other entries may hold anything: labels out of range, NaN.

**Impossible values** are NaN, labels out of range, probabilities that do not sum to 1, standard
deviations below 0, and no entry that counts. If values are known, outside `jit`, they raise a
ValueError. If values are traced, the result is NaN.
"""

from jaxdrop.mc.metrics._bins import Reliability
from jaxdrop.mc.metrics._calibration import (
    adaptive_ece,
    classwise_ece,
    ece,
    mce,
    reliability,
)
from jaxdrop.mc.metrics._classification import accuracy, brier, nll
from jaxdrop.mc.metrics._coverage import (
    CalibrationCurve,
    Proportion,
    calibration_curve,
    mace,
    miscalibration_area,
    mpiw,
    picp,
    rmsce,
    sharpness,
)
from jaxdrop.mc.metrics._novelty import aupr, auroc, fpr95
from jaxdrop.mc.metrics._quantiles import interval_score, pinball
from jaxdrop.mc.metrics._regression import (
    crps_gaussian,
    crps_mixture,
    crps_samples,
    gaussian_nll,
    rmse,
)
from jaxdrop.mc.metrics._selective import (
    RiskCoverage,
    augrc,
    aurc,
    coverage_at_risk,
    risk_at_coverage,
    risk_coverage,
)
from jaxdrop.mc.metrics._sets import GroupCoverage, coverage_by_group, set_coverage, set_size
from jaxdrop.mc.metrics._sparsification import Sparsification, ause, sparsification

__all__ = [
    "CalibrationCurve",
    "GroupCoverage",
    "Proportion",
    "Reliability",
    "RiskCoverage",
    "Sparsification",
    "accuracy",
    "adaptive_ece",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "ause",
    "brier",
    "calibration_curve",
    "classwise_ece",
    "coverage_at_risk",
    "coverage_by_group",
    "crps_gaussian",
    "crps_mixture",
    "crps_samples",
    "ece",
    "fpr95",
    "gaussian_nll",
    "interval_score",
    "mace",
    "mce",
    "miscalibration_area",
    "mpiw",
    "nll",
    "picp",
    "pinball",
    "reliability",
    "risk_at_coverage",
    "risk_coverage",
    "rmsce",
    "rmse",
    "set_coverage",
    "set_size",
    "sharpness",
    "sparsification",
]


def __dir__() -> list[str]:
    return __all__
