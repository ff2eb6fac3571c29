"""What held-out data say of the numbers that training does not learn: the precision of the noise,
the dropout rate, and the temperature of logits.
"""

from jaxdrop.mc._fitting._rate import FittedRate, fit_rate
from jaxdrop.mc._fitting._tau import (
    FittedTau,
    fit_tau,
    tau_from_weight_decay,
    weight_decay_from_tau,
)
from jaxdrop.mc._fitting._temperature import FittedTemperature, fit_temperature

__all__ = [
    "FittedRate",
    "FittedTau",
    "FittedTemperature",
    "fit_rate",
    "fit_tau",
    "fit_temperature",
    "tau_from_weight_decay",
    "weight_decay_from_tau",
]
