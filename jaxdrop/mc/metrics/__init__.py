"""How good predictions and their uncertainties are. The truth comes first, as in scikit-learn: `nll(labels, probs)`.

    summary = mc.classification(logits=samples)
    mc.metrics.ece(labels, summary.mean)
    mc.metrics.auroc(inside.mutual_information, outside.mutual_information)

Entropies and likelihoods are in nats; each function states which definition of its name it has. Most are `jax.numpy`, traceable,
and return scalar arrays. `auroc`, `aupr` and `fpr95` are scikit-learn's, and take arrays with values: not under `jit`. Values are
checked (labels in range, probabilities that sum to 1) where they are known, which is outside `jit`.
"""

from jaxdrop.mc.metrics._classification import Reliability, adaptive_ece, brier, classwise_ece, ece, mce, nll, reliability
from jaxdrop.mc.metrics._novelty import aupr, auroc, fpr95
from jaxdrop.mc.metrics._regression import (
    CalibrationCurve,
    calibration_curve,
    crps_gaussian,
    crps_samples,
    gaussian_nll,
    mace,
    miscalibration_area,
    mpiw,
    picp,
    rmsce,
    rmse,
    sharpness,
)
from jaxdrop.mc.metrics._selective import RiskCoverage, Sparsification, aurc, ause, risk_coverage, sparsification

__all__ = [
    "CalibrationCurve",
    "Reliability",
    "RiskCoverage",
    "Sparsification",
    "adaptive_ece",
    "aupr",
    "aurc",
    "auroc",
    "ause",
    "brier",
    "calibration_curve",
    "classwise_ece",
    "crps_gaussian",
    "crps_samples",
    "ece",
    "fpr95",
    "gaussian_nll",
    "mace",
    "mce",
    "miscalibration_area",
    "mpiw",
    "nll",
    "picp",
    "reliability",
    "risk_coverage",
    "rmsce",
    "rmse",
    "sharpness",
    "sparsification",
]
