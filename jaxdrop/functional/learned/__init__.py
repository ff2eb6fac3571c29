"""Dropout whose rate is learned. The noise is a differentiable function of the rate, which here
gets its gradient.

One convention for all objectives of this package: a `..._kl` is the Kullback-Leibler divergence of
a layer in nats, and the loss is

    mean of the negative log-likelihood over the batch + sum of the divergences over the layers /
    number of training examples

Which loss is a negative log-likelihood is where factors of 2 get lost. Cross-entropy is one. A
squared error is `2 / tau` times one (`tau` is the precision of the noise), so beside it stands `2 /
(tau N)` times the divergence; `precision error^2 + log_variance` is twice one, so beside it stands
`2 / N` times the divergence. The `weight_regularizer = l^2 / (tau N)` and `dropout_regularizer = 2
/ (tau N)` of Gal's code are of that kind, and half as large beside a cross-entropy.
"""

from jaxdrop.functional.learned._concrete import concrete_dropout, concrete_kl
from jaxdrop.functional.learned._parameters import Learned, starting_log_variance, starting_logit
from jaxdrop.functional.learned._sparse import sparse_kl, sparse_log_alpha, sparse_variational_dense
from jaxdrop.functional.learned._variational import (
    variational_dense,
    variational_dropout,
    variational_kl,
)

__all__ = [
    "Learned",
    "concrete_dropout",
    "concrete_kl",
    "sparse_kl",
    "sparse_log_alpha",
    "sparse_variational_dense",
    "starting_log_variance",
    "starting_logit",
    "variational_dense",
    "variational_dropout",
    "variational_kl",
]
