"""Dropping along time: whole features, words, and steps of a recurrent state.

Dropout inside a recurrent cell is a matter of which key meets which step. A function draws the same
mask whenever it gets the same key, so a key made outside the loop holds for the whole sequence, and
`jax.random.fold_in(key, t)` differs from step to step.
"""

from jaxdrop.functional.sequences._states import locked_dropout, recurrent_dropout, zoneout
from jaxdrop.functional.sequences._words import embedding_dropout, word_dropout

__all__ = [
    "embedding_dropout",
    "locked_dropout",
    "recurrent_dropout",
    "word_dropout",
    "zoneout",
]
