"""Dropping along time: whole features, words, and steps of a recurrent state.

Dropout inside a recurrent cell is a matter of which key meets which step. A function draws the same
mask whenever it gets the same key, so a key made outside the loop holds for the whole sequence, and
`jax.random.fold_in(key, t)` differs from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, masks, random
from jaxdrop.functional import _ids
from jaxdrop.functional._kernel import kernel
from jaxdrop.functional.elements import dropout

_replace_words = _ids.replacing("word_dropout", "replacement", "ids")


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
      time_axis: the axis of `x` that is time; negative axes count from the end. It has no default,
        for time stands first in one half of all code and second in the other, and the wrong axis is
        dropout of another kind, with no error.
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
    """Recurrent dropout without memory loss: dropout of what a cell is about to add to its memory,
    never of the memory.

    It is `jaxdrop.dropout`, and what matters is where it stands in the cell:

        LSTM    c = f * c + i * recurrent_dropout(key, g, rate);    h = o * tanh(c)
        GRU     h = (1 - z) * h + z * recurrent_dropout(key, candidate, rate)

    With one key for all steps each sequence has one mask; with `jax.random.fold_in(key, t)` each
    step has its own. The paper has both. It multiplies by `1 - rate` at evaluation instead of
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

    with keys that differ from step to step. What the cell gives out is `h` after zoneout. A padded
    step must carry the state on: `jnp.where(padding, h, zoneout(...))`.

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
      Krueger, Maharaj, Kramar, Pezeshki, Ballas, Ke, Goyal, Bengio, Courville & Pal, "Zoneout:
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


@_checks.hinted
def word_dropout(
    key: jax.Array | None,
    ids: jax.Array,
    rate: masks.Rate,
    *,
    replacement: int,
    protected: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Word dropout: `y = ids` with probability `1 - rate`, else `replacement`, for each word by
    itself. Nothing is scaled.

    The result is integer: no gradient passes through it. For dropout of the vectors, by word type,
    see `embedding_dropout`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      ids: any shape, any integer dtype.
      rate: the probability of replacing, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `ids`. At 1 all words are replaced that are not protected.
      replacement: the id to put in place of a dropped one, that of the unknown word for example.
      protected: ids that stay: padding, the marks of beginning and end.
      deterministic: if True, or if `rate` is the number 0, `ids` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `ids`, of its shape and dtype.

    Raises:
      TypeError: `ids` does not hold integers; an argument is of a wrong type.
      ValueError, NotImplementedError: as `jaxdrop.dropout`; also if the dtype of `ids` cannot hold
        `replacement`.

    References:
      Iyyer, Manjunatha, Boyd-Graber & Daume, "Deep unordered composition rivals syntactic methods
      for text classification", ACL
      2015. Bowman, Vilnis, Vinyals, Dai, Jozefowicz & Bengio, "Generating sentences from a
      continuous space", 2016, arXiv:1511.06349.
    """
    return _replace_words(
        key,
        ids,
        rate,
        replacement=replacement,
        protected=protected,
        deterministic=deterministic,
        spec=spec,
    )


@_checks.hinted
def embedding_dropout(
    key: jax.Array | None,
    embedded: jax.Array,
    rate: masks.Rate,
    *,
    ids: jax.Array,
    time_axis: int | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Embedding dropout: `y = m[ids] embedded / (1 - rate)` with one `m ~ Bernoulli(1 - rate)` for
    each word type.

    All occurrences of a word are kept or dropped together, as if rows of the embedding table had
    been dropped before the lookup:

        embedding_dropout(key, table[ids], rate, ids=ids)

    equals the lookup in `jaxdrop.dropout(key, table, rate, broadcast_dims=(1,))`, for a table of
    any length. The mask of the table is never made: bits are asked for at the ids alone. Nor is the
    table touched, so an output layer that shares it sees all of it.

    Args:
      key: a single PRNG key of a generator with random access (this library's, or threefry). May be
        None if nothing is drawn.
      embedded: the vectors of the words: the shape of `ids`, and behind it axes of features; any
        floating or complex dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `ids` with a 1 for each axis of features. It gets no gradient. At
        1 the output is 0.
      ids: integers from 0 to 2**32 - 1, of any shape.
      time_axis: None: the whole batch shares one mask, as in AWD-LSTM and in the code of the paper.
        An axis of `ids`: each sequence along it has a mask of its own, as in the paper's text.
      deterministic: if True, or if `rate` is the number 0, `embedded` itself is returned.
      spec: as in `jaxdrop.dropout`: the layout of the whole of `embedded`. It matters only where
        sequences have masks of their own.

    Returns:
      An array like `embedded`, of its shape and dtype.

    Raises:
      TypeError, ValueError: as `jaxdrop.dropout`; also if `ids` are not integers, if their shape is
        not that in which `embedded` begins, or if they have no such `time_axis`.
      NotImplementedError: the key's generator can only draw whole arrays (rbg, philox).

    References:
      Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
      networks", 2016, arXiv:1512.05287. Merity, Keskar & Socher, "Regularizing and optimizing LSTM
      language models", 2017, arXiv:1708.02182, with rate 0.1.
    """
    x = _checks.check_inexact(embedded, "embedding_dropout", "embedded")
    ids = _checks.check_ids(ids, "embedding_dropout")
    if x.shape[: ids.ndim] != ids.shape:
        raise ValueError(
            f"embedded must begin with the shape of ids, {tuple(ids.shape)}, but it is"
            f" {tuple(x.shape)}."
        )
    x, rate, _, spec = _checks.check_site(
        "embedding_dropout", x, rate, range(ids.ndim, x.ndim), spec, "embedded"
    )
    axis = (
        None if time_axis is None else _checks.check_axis(time_axis, "time_axis", ids.ndim, "ids")
    )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    key, law = _checks.consume_key(key, "embedding_dropout"), masks.distribution(rate, x.dtype)
    layout = None if spec is None else PartitionSpec(*spec[: ids.ndim])
    return _embedding_dropout(key, x, ids, *law, time_axis=axis, spec=layout)


@kernel("embedding_dropout")
def _embedding_dropout(
    key: jax.Array,
    x: jax.Array,
    ids: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    time_axis: int | None,
    spec: PartitionSpec | None,
) -> jax.Array:
    words = ids.astype(jnp.uint32)
    if time_axis is None:
        bits = random.bits_at(key, (words,), (2**32,))
    else:
        # One row of the mask for each sequence, with room for every id, so that no row depends on
        # the size of the vocabulary.
        sequence, count = masks.positions(ids, broadcast_dims=(time_axis,), spec=spec)
        bits = random.bits_at(key, (sequence, words), (count, 2**32))
    bits = lax.expand_dims(bits, range(ids.ndim, x.ndim))
    return masks.scaled(masks.below(bits, threshold), x, scale)
