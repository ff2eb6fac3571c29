"""Layers that drop along time. See `jaxdrop.functional.sequences`.

`jaxdrop.recurrent_dropout` is dropout at a place inside a cell; as a layer it is `Dropout`.
"""

from collections.abc import Sequence

from jaxdrop.functional import sequences
from jaxdrop.layers._variant import Variant

__all__ = ["EmbeddingDropout", "LockedDropout", "WordDropout", "Zoneout"]


class LockedDropout(Variant, function=sequences.locked_dropout):
    """`jaxdrop.locked_dropout` as a layer: one mask for all time steps.

    Args:
      time_axis: the axis of the input that is time.
    """

    rate: float
    time_axis: int


class EmbeddingDropout(Variant, function=sequences.embedding_dropout):
    """`jaxdrop.embedding_dropout` as a layer: word types are dropped.

    Args:
      time_axis: None for one mask for the whole batch; an axis of the ids for one mask for each
        sequence.
    """

    call = "Drops words; `ids` has the shape in which `embedded` begins."
    rate: float
    time_axis: int | None = None


class WordDropout(Variant, function=sequences.word_dropout):
    """`jaxdrop.word_dropout` as a layer: integer ids are replaced.

    Args:
      rate: the probability of replacing, a number in [0, 1].
      replacement: the id to put in place of a dropped one.
      protected: ids that stay.
    """

    call = "Replaces words in `ids`, integers of any shape."
    rate: float
    replacement: int
    protected: Sequence[int] = ()


class Zoneout(Variant, function=sequences.zoneout):
    """`jaxdrop.zoneout` as a layer, for one state of a recurrent cell.

    Args:
      rate: the probability of keeping the previous state, a number in [0, 1].
      deterministic: if True, the expectation is returned.
    """

    call = "The state after zoneout, from `new` and `previous`, those around the cell."
    rate: float
