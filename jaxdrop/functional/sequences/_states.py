"""Dropping features, and steps of a recurrent state, along time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional.elements import dropout


@cites("gal2016theoretically", "merity2018regularizing")
@jax.named_scope("jaxdrop.locked_dropout")
@_checks.hinted
def locked_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    time_axis: int,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Locked (variational) dropout: `y[t] = m x[t] / (1 - rate)` with one mask `m ~ Bernoulli(1 -
    rate)` for all times `t`.

    Each feature of each sequence is kept at all times or dropped at all times. Windows of a longer
    sequence, as of truncated backpropagation, have the same mask if they get the same key.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, which is that of `x` with length 1 along the time axis. It
        gets no gradient.
      time_axis: the axis of `x` that is time; negative axes count from the end. It has no default:
        time is the first axis in some code and the second in other code, and the wrong axis would
        raise no error, but give another kind of dropout.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; also if `time_axis` is not
        an axis of `x`.

    References:
      Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
      networks", 2016, arXiv:1512.05287. Merity, Keskar & Socher, "Regularizing and optimizing LSTM
      language models", 2017, arXiv:1708.02182, for the name.
    """
    x = _checks.check_inexact(x, "locked_dropout")
    axis = _checks.check_axis(time_axis, "time_axis", x.ndim)
    return dropout(key, x, rate, broadcast_dims=(axis,), deterministic=deterministic, spec=spec)


@cites("semeniuta2016recurrent")
@jax.named_scope("jaxdrop.recurrent_dropout")
@_checks.hinted
def recurrent_dropout(
    key: jax.Array | None,
    candidate: jax.Array,
    rate: masks.Rate,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Recurrent dropout without memory loss: dropout of the update that a cell adds to its memory,
    and not of the memory.

    It is `jaxdrop.dropout` of the candidate of a cell:

        LSTM    c = f * c + i * recurrent_dropout(key, g, rate);    h = o * tanh(c)
        GRU     h = (1 - z) * h + z * recurrent_dropout(key, candidate, rate)

    With one key for all steps each sequence has one mask; with `jax.random.fold_in(key, t)` each
    step has its own. The paper has both, and multiplies by `1 - rate` in evaluation instead of
    dividing in training.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      candidate: the update: any shape, any floating or complex dtype.
      rate: the probability of dropping, as in `jaxdrop.dropout`; the paper has 0.25 for steps and
        0.5 for sequences.
      deterministic: if True, or if `rate` is the number 0, `candidate` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `candidate`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.

    References:
      Semeniuta, Severyn & Barth, "Recurrent dropout without memory loss", 2016, arXiv:1603.05118.
    """
    with _checks.renamed(x="candidate"):
        return dropout(key, candidate, rate, deterministic=deterministic, spec=spec)


@cites("krueger2017zoneout")
@_checks.hinted
def zoneout(
    key: jax.Array | None,
    new: jax.Array,
    rate: masks.Rate,
    *,
    previous: jax.Array,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Zoneout: `s = z previous + (1 - z) new` with `z ~ Bernoulli(rate)` for each unit: some units
    skip this step.

    In evaluation it is the expectation, `s = rate previous + (1 - rate) new`. Nothing is divided by
    `1 - rate`. An LSTM has two states, and two calls, each with its rate and its key:

        c = zoneout(cell_key, new_c, 0.5, previous=c)
        h = zoneout(hidden_key, new_h, 0.05, previous=h)

    with keys that differ from step to step. The output of the cell is `h` after zoneout. A padded
    step must leave the state as it is: `jnp.where(padding, h, zoneout(...))`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      new: the state that the cell computed: any shape, any floating or complex dtype.
      rate: the probability of keeping the previous state, in [0, 1]: a number, a traced scalar, or
        an array that broadcasts to the shape of `new`. It gets no gradient. At 0 the result is
        `new` itself, at 1 `previous`.
      previous: the state before, of the shape and dtype of `new`.
      deterministic: if True, the expectation is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `new`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; also if `previous` is not
        like `new`.

    References:
      Krueger, Maharaj, Kramár, Pezeshki, Ballas, Ke, Goyal, Bengio, Courville & Pal, "Zoneout:
      regularizing RNNs by randomly preserving hidden activations", 2016, arXiv:1606.01305, with
      rates 0.5 (cell) and 0.05 (hidden) on characters.
    """
    new, rate, _, spec = _checks.check_site("zoneout", new, rate, (), spec, "new")
    previous = _checks.check_inexact(previous, "zoneout", "previous")
    if (previous.shape, previous.dtype) != (new.shape, new.dtype):
        raise ValueError(
            "zoneout chooses between two states, which must be alike: new is"
            f" {new.dtype}{list(new.shape)}, previous is {previous.dtype}{list(previous.shape)}."
        )
    expected = _checks.check_flag(deterministic, "deterministic")
    if masks.is_number(rate, 0):
        return new
    if masks.is_number(rate, 1):
        return previous
    if expected:
        return _expected_state(new, previous, rate)
    key, new = _checks.consume_key(key, "zoneout"), masks.nan_if_impossible(new, rate)
    return _zoneout(key, new, previous, masks.distribution(rate).threshold, spec=spec)


@kernel("zoneout")
def _zoneout(
    key: jax.Array,
    new: jax.Array,
    previous: jax.Array,
    threshold: jax.Array,
    *,
    spec: PartitionSpec | None,
) -> jax.Array:
    return jnp.where(masks.keep_mask(key, new, threshold, spec=spec), new, previous)


@kernel("zoneout")
def _expected_state(new: jax.Array, previous: jax.Array, rate: jax.Array) -> jax.Array:
    wide = _numerics.compute_dtype(new.dtype)
    share = _numerics.expand(jnp.asarray(rate, wide), new.ndim)
    return (share * previous.astype(wide) + (1 - share) * new.astype(wide)).astype(new.dtype)
