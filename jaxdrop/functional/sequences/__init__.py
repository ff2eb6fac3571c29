"""Dropping along time: whole features, words, and steps of a recurrent state.

A function draws the same mask whenever it gets the same key. So inside a recurrent cell a key that
is made outside the loop gives one mask for the whole sequence, and `jax.random.fold_in(key, t)`
another mask in each step.
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
