"""Dropping words: their ids, or their embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks, random
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional import _ids

_replace_words = _ids.replacing("word_dropout", "replacement", "ids")


@cites("iyyer2015deep", "bowman2016generating")
@_checks.hinted
@_checks.facts(protected=_checks.check_integers)
def word_dropout(
    key: jax.Array | None,
    ids: jax.Array,
    rate: masks.Rate,
    *,
    replacement: int,
    protected: Sequence[int] = (),
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
    part: masks.Part | None = None,
) -> jax.Array:
    """Word dropout: `y = ids` with probability `1 - rate`, else `replacement`, for each word on its
    own. Nothing is scaled.

    The result is integer: no gradient passes through it. For dropout of the vectors, by word type,
    see `embedding_dropout`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      ids: any shape, any integer dtype.
      rate: the probability of replacing, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `ids`. At 1 all words are replaced that are not protected.
      replacement: the id that takes the place of a dropped one, such as that of the unknown word.
      protected: ids that are never replaced, such as padding and the marks of beginning and end.
      deterministic: if True, or if `rate` is the number 0, `ids` itself is returned.
      spec: as in `jaxdrop.dropout`.
      part: as in `jaxdrop.dropout`; of `ids` of shape `(batch, time)` the axis of time is -1.

    Returns:
      An array like `ids`, of its shape and dtype.

    Raises:
      TypeError: `ids` does not hold integers; an argument is of a wrong type.
      ValueError, NotImplementedError: as `jaxdrop.dropout`; also if the dtype of `ids` cannot hold
        `replacement`.

    References:
      Iyyer, Manjunatha, Boyd-Graber & Daumé, "Deep unordered composition rivals syntactic methods
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
        part=part,
    )


@cites("gal2016theoretically", "merity2018regularizing")
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
    any length. The mask of the table is never formed: bits are drawn at the ids only. The table
    itself does not change, so an output layer that shares it uses all of its rows.

    Args:
      key: a single PRNG key of a generator with random access (this library's, or threefry). May be
        None if nothing is drawn.
      embedded: the vectors of the words: the shape of `ids`, followed by axes of features; any
        floating or complex dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `ids` with a 1 for each axis of features. It gets no gradient. At
        1 the output is 0.
      ids: integers from 0 to 2**32 - 1, of any shape.
      time_axis: None: the whole batch shares one mask, as in AWD-LSTM and in the code of the paper.
        An axis of `ids`: each sequence along it has a mask of its own, as in the paper's text.
      deterministic: if True, or if `rate` is the number 0, `embedded` itself is returned.
      spec: as in `jaxdrop.dropout`: the layout of the whole of `embedded`. It has an effect only if
        each sequence has a mask of its own.

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
    key, distribution = (
        _checks.consume_key(key, "embedding_dropout"),
        masks.distribution(rate, x.dtype),
    )
    layout = None if spec is None else PartitionSpec(*spec[: ids.ndim])
    return _embedding_dropout(key, x, ids, *distribution, time_axis=axis, spec=layout)


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
        # The mask has a row for each sequence, with an entry for each of the 2**32 possible ids: so
        # it does not depend on the size of the vocabulary.
        sequence, count = masks.positions(ids, broadcast_dims=(time_axis,), spec=spec)
        bits = random.bits_at(key, (sequence, words), (count, 2**32))
    bits = lax.expand_dims(bits, range(ids.ndim, x.ndim))
    return masks.scaled(masks.below(bits, threshold), x, scale)
