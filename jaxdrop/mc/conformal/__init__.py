"""Conformal prediction: intervals and sets that hold the truth with a stated probability.

Split conformal prediction corrects the predictions of any model, trained on other data, by its
scores on n calibration examples:

    scores = mc.conformal.residual_scores(y, summary.mean, summary.std)     # of n examples
    threshold = mc.conformal.calibrate(scores, 0.9)
    lower, upper = mc.conformal.residual_interval(new.mean, threshold, new.std)

    scores = mc.conformal.aps(summary.mean, key)                            # of all classes
    threshold = mc.conformal.calibrate(mc.conformal.of_labels(labels, scores), 0.9)
    sets = mc.conformal.sets(mc.conformal.aps(new.mean, other_key), threshold)

The guarantee asks for one thing: calibration examples and new ones are exchangeable, and treated
alike. The model must not have seen either. It does not hold for data that have changed since, and
it is an average over inputs: with groups (`calibrate(..., groups=...)`) it holds in each group.
`selective` is a guarantee of another kind, for the error rate of the predictions that are certain
enough.

All are pure functions of arrays, of NumPy or JAX, and can be traced.
"""

from jaxdrop.mc.conformal._calibration import by_group, calibrate
from jaxdrop.mc.conformal._classification import aps, lac, of_labels, raps, sets
from jaxdrop.mc.conformal._regression import (
    quantile_interval,
    quantile_scores,
    residual_interval,
    residual_scores,
)
from jaxdrop.mc.conformal._selective import Selection, selective

__all__ = [
    "Selection",
    "aps",
    "by_group",
    "calibrate",
    "lac",
    "of_labels",
    "quantile_interval",
    "quantile_scores",
    "raps",
    "residual_interval",
    "residual_scores",
    "selective",
    "sets",
]


def __dir__() -> list[str]:
    return __all__
