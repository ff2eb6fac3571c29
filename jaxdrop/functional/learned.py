"""Dropout whose rate is learned. The noise is a differentiable function of the rate, which here
gets its gradient.

One convention for all objectives of this file: a `..._kl` is the Kullback-Leibler divergence of a
layer in nats, and the loss is

    mean of the negative log-likelihood over the batch + sum of the divergences over the layers /
    number of training examples

Which loss is a negative log-likelihood is where factors of 2 get lost. Cross-entropy is one. A
squared error is `2 / tau` times one (`tau` is the precision of the noise), so beside it stands `2 /
(tau N)` times the divergence; `precision error^2 + log_variance` is twice one, so beside it stands
`2 / N` times the divergence. The `weight_regularizer = l^2 / (tau N)` and `dropout_regularizer = 2
/ (tau N)` of Gal's code are of that kind, and half as large beside a cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, _variates, masks
from jaxdrop.functional._dense import gaussian, operands
from jaxdrop.functional._kernel import kernel
from jaxdrop.functional.noise import multiplied, times

Learned = float | jax.Array | np.ndarray


@_checks.hinted
def concrete_dropout(
    key: jax.Array | None,
    x: jax.Array,
    logit: Learned,
    *,
    temperature: float | jax.Array = 0.1,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Concrete dropout: `y = x (1 - z) / (1 - p)` with `z = sigmoid((logit + log u - log(1 - u)) /
    temperature)`.

    Here `p = sigmoid(logit)` is the learned rate and `u ~ U(0, 1)` for each entry. `z` is a relaxed
    Bernoulli(p) value: nothing becomes exactly 0. Relaxation costs a little of the mean: `E[1 - z]
    / (1 - p)` is 0.9986 for p = 0.1 at temperature 0.1, but 0.9496 at temperature 2/3, which is
    that of the spatial form. For the loss see `concrete_kl` and the head of this module.

    The spatial form, for convolutions, drops whole channels: `broadcast_dims=(1, 2),
    temperature=2/3` for (batch, height, width, channels).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      logit: of the rate, `log p - log(1 - p)`: a number, a scalar array, or an array that
        broadcasts to the noise's shape, such as one for each feature. It gets its gradient.
      temperature: above 0.
      broadcast_dims: axes along which all entries share one `z`.
      deterministic: if True, `x` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `x`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `logit` for `rate`.

    References:
      Gal, Hron & Kendall, "Concrete dropout", 2017, arXiv:1705.07832.
    """
    x, logit, shared, spec = _site("concrete_dropout", x, logit, "logit", broadcast_dims, spec)
    meaning = " At 0 the noise is that of jaxdrop.dropout, whose rate is not learned."
    temperature = _checks.check_number(temperature, "temperature", meaning=meaning, above=True)
    if np.ndim(temperature):
        raise ValueError(f"temperature must be one number, got {_checks.quoted(temperature)}")
    if _checks.check_flag(deterministic, "deterministic"):
        return x
    key = _checks.consume_key(key, "concrete_dropout")
    return _concrete_dropout(
        key, x, logit, 1 + _exp(logit), 1 / temperature, shared=shared, spec=spec
    )


@kernel("concrete_dropout")
def _concrete_dropout(
    key: jax.Array,
    x: jax.Array,
    logit: jax.Array,
    scale: jax.Array,
    sharpness: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec)
    u = _variates.uniform(bits) + np.float32(
        2**-24
    )  # the middles of 2**23 intervals: neither 0 nor 1
    logit = _numerics.expand(logit, x.ndim).astype(jnp.float32)
    keep = jax.nn.sigmoid(-(logit + jnp.log(u) - jnp.log1p(-u)) * sharpness.astype(jnp.float32))
    kind = _numerics.compute_dtype(x.dtype)
    return (x.astype(kind) * times(scale, keep).astype(kind)).astype(x.dtype)


@_checks.hinted
def concrete_kl(
    logit: Learned, w: jax.Array, *, lengthscale: float | jax.Array = 1e-2
) -> jax.Array:
    """The divergence of a layer behind `concrete_dropout`: `l^2 sum(w^2) / (2 (1 - p)) - K H(p)`, a
    scalar in nats.

    `p = sigmoid(logit)`, `H(p) = -p log p - (1 - p) log(1 - p)`, and `K` is the number of input
    features of `w`, or of input channels of a convolution. It is finite for every finite logit.
    Gal's regularizers are `2 / (tau N)` times this.

    Args:
      logit: of the rate, a scalar, or one for each input feature, shape (K,).
      w: a kernel as Flax has it: shape (..., K, out). Biases have no dropout before them and do not
        belong here (Gal's Keras code leaves them out, his PyTorch code does not).
      lengthscale: l, of the prior `N(0, 1 / l^2)` of the weights.

    Raises:
      TypeError: `logit` or `lengthscale` is not a real number, or `w` is not floating or complex.
      ValueError: `w` has less than two axes, `logit` does not fit it, or `lengthscale` is negative.

    References:
      Gal, Hron & Kendall, "Concrete dropout", 2017, arXiv:1705.07832.
    """
    w, lengthscale = (
        _checks.check_inexact(w, "concrete_kl", "w"),
        _checks.check_number(lengthscale, "lengthscale"),
    )
    if w.ndim < 2:
        raise ValueError(
            f"{_checks.shown('w')} must be a kernel of shape (..., in, out), got shape {w.shape}"
        )
    if np.ndim(lengthscale):
        raise ValueError(f"lengthscale must be one number, got {_checks.quoted(lengthscale)}")
    w = w.astype(_numerics.compute_dtype(w.dtype))
    squares = (w * w.conj()).real.sum([axis for axis in range(w.ndim) if axis != w.ndim - 2])
    logits = jnp.broadcast_to(
        jnp.asarray(_checks.check_parameter(logit, "logit", squares.shape), squares.dtype),
        squares.shape,
    )
    p = jax.nn.sigmoid(logits)
    entropy = p * jax.nn.softplus(-logits) + (1 - p) * jax.nn.softplus(logits)
    return (lengthscale**2 / 2 * squares * (1 + jnp.exp(logits)) - entropy).sum()


@_checks.hinted
def variational_dropout(
    key: jax.Array | None,
    x: jax.Array,
    log_alpha: Learned,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Gaussian variational dropout, type A: `y = x n` with `n ~ N(1, alpha)` for each entry.

    Behind it, all weights of an input feature have one noise (correlated weight noise). `alpha = p
    / (1 - p)` has the variance of dropout at rate p: `log_alpha` is the logit of that rate. For the
    loss see `variational_kl`, once for each feature of `x`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      log_alpha: a number, a scalar array, or an array that broadcasts to the noise's shape, such as
        one for each feature. It gets its gradient.
      broadcast_dims: axes along which all entries share one `n`.
      deterministic: if True, `x` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `x`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `log_alpha` for `rate`.

    References:
      Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
      2015, arXiv:1506.02557.
    """
    x, log_alpha, shared, spec = _site(
        "variational_dropout", x, log_alpha, "log_alpha", broadcast_dims, spec
    )
    if _checks.check_flag(deterministic, "deterministic"):
        return x
    return _variational_dropout(
        _checks.consume_key(key, "variational_dropout"),
        x,
        _exp(log_alpha / 2),
        shared=shared,
        spec=spec,
    )


@kernel("variational_dropout")
def _variational_dropout(
    key: jax.Array,
    x: jax.Array,
    stddev: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return multiplied(
        x, stddev, _variates.normal(masks.draw(key, x, broadcast_dims=shared, spec=spec))
    )


@_checks.hinted
def variational_dense(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    log_alpha: Learned,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Gaussian variational dropout, type B: a dense layer with weights `N(w, alpha w^2)`, all
    independent.

    Pre-activations are drawn in place of the weights, for each example (local reparameterization):
    `N(x w, (x * x) (alpha w^2))`. For the loss see `variational_kl`, once for each weight.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating.
      w: shape (in, out), the mean weights.
      log_alpha: a number, a scalar array, or an array that broadcasts to `w`. It gets its gradient.
      deterministic: if True, `x w` is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        output.

    Returns:
      Shape (..., out).

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `log_alpha` for `rate`;
        ValueError also if the shapes do not fit.

    References:
      Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
      2015, arXiv:1506.02557.
    """
    x, w = operands("variational_dense", x, w, real=True)
    log_alpha = _checks.check_parameter(log_alpha, "log_alpha", w.shape)
    spec = _checks.check_spec(spec, x.ndim)
    if _checks.check_flag(deterministic, "deterministic"):
        return x @ w
    return _variational_dense(
        _checks.consume_key(key, "variational_dense"), x, w, log_alpha, spec=spec
    )


@kernel("variational_dense")
def _variational_dense(
    key: jax.Array, x: jax.Array, w: jax.Array, log_alpha: jax.Array, *, spec: PartitionSpec | None
) -> jax.Array:
    return gaussian(key, x, w, _variance(w, log_alpha), spec)


@_checks.hinted
def variational_kl(log_alpha: Learned) -> jax.Array:
    """KL(N(w, alpha w^2) || log-uniform), for each entry of `log_alpha`: `0.6695 - log(alpha) / 2 -
    c1 a - c2 a^2 - c3 a^3`.

    Kingma's cubic, right to 0.035 nats for `alpha <= 1`, and so far off beyond (0.9 at 2, 42 at 5)
    that here `alpha` counts as at most 1: there the divergence has no gradient, and the likelihood
    alone pulls alpha back. For rates above one half take `sparse_kl`, which is right for every
    alpha. The constant makes the divergence vanish at infinite alpha; it moves no optimum.

    Args:
      log_alpha: any shape. An alpha that several weights share counts once for each of them.

    Raises:
      TypeError, ValueError: `log_alpha` is not a finite number, nor an array of floating numbers.

    References:
      Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
      2015, arXiv:1506.02557.
    """
    log_alpha = jnp.minimum(_any_shape(log_alpha), 0)
    alpha = jnp.exp(log_alpha)
    return (
        0.6695 - log_alpha / 2 - alpha * (1.16145124 + alpha * (-1.50204118 + alpha * 0.58629921))
    )


@_checks.hinted
def sparse_variational_dense(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    log_sigma2: Learned,
    *,
    threshold: float = 3.0,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Sparse variational dropout: a dense layer with weights `N(w, sigma^2)`, all independent, of
    which most learn to be noise.

    Training draws pre-activations, as `variational_dense` does, with `alpha = sigma^2 / w^2` from
    `sparse_log_alpha`. Evaluation uses the mean weights, and sets to 0 those with `log alpha >=
    threshold`. For the loss see `sparse_kl`, once for each weight; the authors leave it out for 5
    epochs and let it grow to its full weight by the 20th.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating.
      w: shape (in, out), the mean weights.
      log_sigma2: log variance of the weights: a number, a scalar array, or an array that broadcasts
        to `w`. It gets its gradient. The authors start at -10.
      threshold: of log alpha, from which on a weight is pruned in evaluation. 3 is the alpha of a
        dropout rate of 0.95.
      deterministic: if True, `x w` of the pruned weights is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        output.

    Returns:
      Shape (..., out).

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `log_sigma2` for
        `rate`; ValueError also if the shapes do not fit.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    x, w = operands("sparse_variational_dense", x, w, real=True)
    log_sigma2 = _checks.check_parameter(log_sigma2, "log_sigma2", w.shape)
    threshold = check_threshold(threshold)
    spec = _checks.check_spec(spec, x.ndim)
    if _checks.check_flag(deterministic, "deterministic"):
        return x @ jnp.where(sparse_log_alpha(w, log_sigma2) < threshold, w, jnp.zeros_like(w))
    return _sparse_variational_dense(
        _checks.consume_key(key, "sparse_variational_dense"), x, w, log_sigma2, spec=spec
    )


@kernel("sparse_variational_dense")
def _sparse_variational_dense(
    key: jax.Array, x: jax.Array, w: jax.Array, log_sigma2: jax.Array, *, spec: PartitionSpec | None
) -> jax.Array:
    return gaussian(key, x, w, _variance(w, sparse_log_alpha(w, log_sigma2)), spec)


@_checks.hinted
def sparse_log_alpha(w: jax.Array, log_sigma2: Learned) -> jax.Array:
    """`log sigma^2 - log(w^2 + 1e-8)`, cut off at -8 and 8: how noisy each weight of
    `sparse_variational_dense` is.

    Args:
      w: the mean weights, any shape, floating.
      log_sigma2: log variance of the weights: a number, a scalar array, or an array that broadcasts
        to `w`.

    Returns:
      log alpha, of the shape of `w`, in float32 at least. Where it is cut off it has no gradient.

    Raises:
      TypeError: `w` is not floating, or `log_sigma2` not a real number.
      ValueError: `log_sigma2` does not fit `w`.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    w = _checks.check_real(w, "sparse_log_alpha", "w")
    kind = _numerics.compute_dtype(w.dtype)
    log_sigma2 = _numerics.expand(
        jnp.asarray(_checks.check_parameter(log_sigma2, "log_sigma2", w.shape), kind), w.ndim
    )
    return jnp.clip(log_sigma2 - jnp.log(w.astype(kind) ** 2 + 1e-8), -8, 8)


@_checks.hinted
def sparse_kl(log_alpha: Learned) -> jax.Array:
    """KL(N(w, alpha w^2) || log-uniform), for each entry: `k1 - k1 sigmoid(k2 + k3 log alpha) +
    log(1 + 1 / alpha) / 2`.

    Right to 0.0094 nats for every alpha; 0 at infinite alpha. The last term is formed as
    `softplus(-log alpha) / 2`, which is finite where `1 / alpha` is not.

    Args:
      log_alpha: any shape, such as of `sparse_log_alpha`.

    Raises:
      TypeError, ValueError: `log_alpha` is not a finite number, nor an array of floating numbers.

    References:
      Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
      arXiv:1701.05369.
    """
    log_alpha = _any_shape(log_alpha)
    return (
        0.63576 * jax.nn.sigmoid(-(1.87320 + 1.48695 * log_alpha)) + jax.nn.softplus(-log_alpha) / 2
    )


def starting_logit(rate: float) -> float:
    """The logit of a rate to start learning from; also the log alpha of the normal noise with the
    same variance.
    """
    known = _checks.check_known_rate(rate, "rate", "the parameter starts from it.")
    if not 0 < known < 1:
        raise ValueError(
            f"rate, to start learning from, must lie in (0, 1), got {_checks.quoted(rate)}: its"
            " logit must be finite."
        )
    return math.log(known / (1 - known))


def starting_log_variance(log_sigma2: float) -> float:
    """Log sigma^2 to start learning from, as a finite number."""
    _checks.check_not_traced(log_sigma2, "log_sigma2")
    checked = _checks.check_number(log_sigma2, "log_sigma2", least=-math.inf)
    if not isinstance(checked, float):
        raise TypeError(f"log_sigma2 must be one number, got {_checks.quoted(log_sigma2)}")
    return checked


def check_threshold(threshold: float) -> float:
    """The threshold of log alpha as a number that is known now. Infinity prunes nothing, minus
    infinity everything.
    """
    _checks.check_not_traced(threshold, "threshold")
    infinite = isinstance(threshold, (float, np.floating)) and math.isinf(threshold)
    checked = (
        threshold if infinite else _checks.check_number(threshold, "threshold", least=-math.inf)
    )
    if np.ndim(checked):
        raise TypeError(f"threshold must be one number, got {_checks.quoted(threshold)}")
    return float(checked)


def _variance(w: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """`alpha w^2`."""
    kind = _numerics.compute_dtype(w.dtype)
    return _numerics.expand(jnp.exp(log_alpha.astype(kind)), w.ndim) * w.astype(kind) ** 2


def _site(
    caller: str,
    x: jax.Array,
    value: Learned,
    name: str,
    broadcast_dims: Sequence[int],
    spec: PartitionSpec | None,
) -> tuple[jax.Array, float | jax.Array, tuple[int, ...], PartitionSpec | None]:
    x, _, shared, spec = _checks.check_site(caller, x, 0.0, broadcast_dims, spec)
    return x, _checks.check_parameter(value, name, x.shape, shared), shared, spec


def _any_shape(log_alpha: Learned) -> jax.Array:
    """Log alpha, a number or an array of any shape."""
    shape = np.shape(log_alpha) if isinstance(log_alpha, (jax.Array, np.ndarray)) else ()
    return jnp.asarray(_checks.check_parameter(log_alpha, "log_alpha", shape))


def _exp(value: float | jax.Array) -> float | jax.Array:
    """Of a known number before the compiler sees it, which folds constants with another exp than
    the one that it runs.
    """
    return math.exp(value) if isinstance(value, float) else jnp.exp(value)
