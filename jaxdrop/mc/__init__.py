"""Monte Carlo dropout: keys for many samples, running a function over them, and statistics of the
samples.

    keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
    logits = jaxdrop.mc.predict(lambda key: model(x, rngs=key), keys)
    summary = jaxdrop.mc.classification(logits=logits)

Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
learning", ICML 2016, arXiv:1506.02142.

`mc.acquisition`, `mc.conformal`, `mc.metrics` and `mc.plots` are modules with functions of their
own. All other public names are those of this package, and its other modules are private.
"""

from jaxdrop.mc import acquisition, conformal, metrics, plots
from jaxdrop.mc._analytic import Analytic, analytic, linear_part
from jaxdrop.mc._classification import Classification, classification
from jaxdrop.mc._datasets import predict_dataset
from jaxdrop.mc._ensembles import Ensemble, ensemble
from jaxdrop.mc._fitting import (
    FittedRate,
    FittedTau,
    FittedTemperature,
    fit_rate,
    fit_tau,
    fit_temperature,
    tau_from_weight_decay,
    weight_decay_from_tau,
)
from jaxdrop.mc._logits import energy, max_logit
from jaxdrop.mc._masksembles import masksembles
from jaxdrop.mc._moments import Moments
from jaxdrop.mc._observations import Regression, regression
from jaxdrop.mc._regression import cdf, interval, log_likelihood, quantiles
from jaxdrop.mc._results import DatasetResults, open_results
from jaxdrop.mc._running import Reached, moments, until
from jaxdrop.mc._sampling import Strategy, keys, predict
from jaxdrop.mc._sequences import log_mean_exp, sequence_scores
from jaxdrop.mc._subnetworks import subnetwork

__all__ = [
    "Analytic",
    "Classification",
    "DatasetResults",
    "Ensemble",
    "FittedRate",
    "FittedTau",
    "FittedTemperature",
    "Moments",
    "Reached",
    "Regression",
    "Strategy",
    "acquisition",
    "analytic",
    "cdf",
    "classification",
    "conformal",
    "energy",
    "ensemble",
    "fit_rate",
    "fit_tau",
    "fit_temperature",
    "interval",
    "keys",
    "linear_part",
    "log_likelihood",
    "log_mean_exp",
    "masksembles",
    "max_logit",
    "metrics",
    "moments",
    "open_results",
    "plots",
    "predict",
    "predict_dataset",
    "quantiles",
    "regression",
    "sequence_scores",
    "subnetwork",
    "tau_from_weight_decay",
    "until",
    "weight_decay_from_tau",
]


def __dir__() -> list[str]:
    return __all__
