"""Dropping inputs of a model: tokens, labels, modalities."""

from jaxdrop.functional.tokens._tokens import (
    Arrays,
    ModalityRule,
    Per,
    TokenRule,
    label_dropout,
    modality_dropout,
    token_dropout,
)

__all__ = [
    "Arrays",
    "ModalityRule",
    "Per",
    "TokenRule",
    "label_dropout",
    "modality_dropout",
    "token_dropout",
]
