"""Monte Carlo dropout: keys for many samples, running a function over them, and what the samples say.

    keys = jaxdrop.mc.keys(jaxdrop.key(0), 100)
    logits = jaxdrop.mc.predict(lambda key: model(x, rngs=key), keys)
    summary = jaxdrop.mc.classification(logits)

Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", ICML 2016,
arXiv:1506.02142.
"""

from jaxdrop.mc.sampling import keys, predict
from jaxdrop.mc.summaries import Classification, classification

__all__ = ["Classification", "classification", "keys", "predict"]
