"""Dropping inputs of a model: tokens, labels, modalities."""

from jaxdrop.functional.tokens._labels import label_dropout
from jaxdrop.functional.tokens._modalities import Arrays, ModalityRule, Per, modality_dropout
from jaxdrop.functional.tokens._random_ltd import random_ltd
from jaxdrop.functional.tokens._reinsertion import reinsert_tokens
from jaxdrop.functional.tokens._tokens import TokenRule, token_dropout

__all__ = [
    "Arrays",
    "ModalityRule",
    "Per",
    "TokenRule",
    "label_dropout",
    "modality_dropout",
    "random_ltd",
    "reinsert_tokens",
    "token_dropout",
]
