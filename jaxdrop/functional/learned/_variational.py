"""Gaussian variational dropout: the variance of the noise is learned."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _variates, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._amounts import multiplied
from jaxdrop.functional._dense import gaussian, operands
from jaxdrop.functional.learned._parameters import Learned, any_shape, exp, site, variance


@cites("kingma2015variational")
@_checks.hinted
def variational_dropout(
    key: jax.Array | None,
    x: jax.Array,
    log_alpha: Learned,
    *,
    broadcast_dims: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Gaussian variational dropout, type A: `y = x n` with `n ~ N(1, alpha)` for each entry.

    For a dense layer that follows, this multiplies all weights of an input feature by the same
    noise (correlated weight noise). `alpha = p / (1 - p)` has the variance of dropout at rate p:
    `log_alpha` is the logit of that rate. For the loss see `variational_kl`, once for each feature
    of `x`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype. The product is formed in float32 at least.
      log_alpha: a number, a scalar array, or an array that broadcasts to the noise's shape, such as
        one for each feature. It gets its gradient.
      broadcast_dims: axes along which all entries share one `n`.
      deterministic: if True, `x` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `x`.
      part: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`, with `log_alpha` for `rate`.

    References:
      Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
      2015, arXiv:1506.02557.
    """
    x, log_alpha, shared, spec = site(
        "variational_dropout", x, log_alpha, "log_alpha", broadcast_dims, spec
    )
    part = masks.check_part(part, x, spec)
    if _checks.check_flag(deterministic, "deterministic"):
        return x
    return _variational_dropout(
        _checks.consume_key(key, "variational_dropout"),
        masks.nan_outside(x, part),
        exp(log_alpha / 2),
        part,
        shared=shared,
        spec=spec,
    )


@kernel("variational_dropout")
def _variational_dropout(
    key: jax.Array,
    x: jax.Array,
    stddev: jax.Array,
    part: masks.Part | None,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    bits = masks.draw(key, x, broadcast_dims=shared, spec=spec, part=part)
    return multiplied(x, stddev, _variates.normal(bits))


@cites("kingma2015variational")
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

    For each example the pre-activations are drawn, `N(x w, (x * x) (alpha w^2))`, and not the
    weights (local reparameterization). For the loss see `variational_kl`, once for each weight.

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
    return gaussian(key, x, w, variance(w, log_alpha), spec)


@cites("kingma2015variational")
@_checks.hinted
def variational_kl(log_alpha: Learned) -> jax.Array:
    """KL(N(w, alpha w^2) || log-uniform), for each entry of `log_alpha`: `0.6695 - log(alpha) / 2 -
    c1 a - c2 a^2 - c3 a^3`.

    Kingma's cubic approximation, right to 0.035 nats for `alpha <= 1`. Beyond 1 its error is large
    (0.9 at 2, 42 at 5), so an alpha above 1 counts as 1: the divergence then has no gradient, and
    only the likelihood lowers alpha again. For rates above one half take `sparse_kl`, which is
    right for every alpha. The constant makes the exact divergence 0 at infinite alpha, and changes
    no optimum.

    Args:
      log_alpha: any shape. An alpha that several weights share counts once for each of them.

    Raises:
      TypeError, ValueError: `log_alpha` is not a finite number, nor an array of floating numbers.

    References:
      Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
      2015, arXiv:1506.02557.
    """
    log_alpha = jnp.minimum(any_shape(log_alpha), 0)
    alpha = jnp.exp(log_alpha)
    return (
        0.6695 - log_alpha / 2 - alpha * (1.16145124 + alpha * (-1.50204118 + alpha * 0.58629921))
    )
