"""Layers that drop inputs of a model. See `jaxdrop.functional.tokens`."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxdrop.functional import tokens
from jaxdrop.layers._variant import Variant

__all__ = ["LabelDropout", "ModalityDropout", "RandomLTD", "TokenDropout"]


class TokenDropout(Variant, function=tokens.token_dropout):
    """`jaxdrop.token_dropout` as a layer: fewer tokens (patches) go on. timm's is
    `PatchDropoutWithIndices`.

    Args:
      rate: the probability of dropping, a number in [0, 1).
      num_prefix_tokens: how many tokens at the start are always kept.
      rule: whose rule says how many are kept: `'timm'`, `'floor'` or `'round'`.
      ordered: if True, tokens stay in their order.
    """

    call = "The kept ones of `inputs`, shape (..., tokens, features), and their indices."
    rate: float
    num_prefix_tokens: int
    rule: tokens.TokenRule = "timm"
    ordered: bool = False


class RandomLTD(Variant, function=tokens.random_ltd):
    """`jaxdrop.random_ltd` as a layer: `ltd(x, layer)` runs `layer` on some of the tokens, which
    then return to their places.

    The layer is the caller's: its parameters are where they are without this one. Linen's `init`
    runs it on all tokens.

    Args:
      rate: the probability of dropping, a number in [0, 1).
      num_prefix_tokens: how many tokens at the start are always kept.
      groups: how many groups of tokens keep equally many.
      deterministic: if True, the layer sees all tokens.
    """

    call = """`inputs`, with `layer` of the kept tokens in their places.

    Args:
      inputs: shape (..., tokens, features).
      layer: a module of the same framework, or a function, that returns what is like `inputs`.
      positions: of the tokens; the layer gets those of the kept ones, as `positions`.
      mask: of attention; the layer gets its part, as `mask`.
    """
    rate: float
    num_prefix_tokens: int = 0
    groups: int = 1


class LabelDropout(Variant, function=tokens.label_dropout):
    """`jaxdrop.label_dropout` as a layer, for classifier-free guidance.

    Args:
      null_id: the label that stands for none.
    """

    call = "Drops labels: those of `force_drop`, booleans, if it is given; then nothing is random."
    rate: float
    null_id: int

    def _forced(self, labels: jax.Array, force_drop: jax.Array, rate: Any, spec: Any) -> jax.Array:
        """Drops the labels of `force_drop`, for which no key is needed."""
        rate = self.rate if rate is None else rate
        settled: dict[str, Any] = {"deterministic": True, "spec": spec, "force_drop": force_drop}
        return self._evaluate(None, (labels,), rate, **settled)


class ModalityDropout(Variant, function=tokens.modality_dropout):
    """`jaxdrop.modality_dropout` as a layer: whole inputs are dropped, never all of them.

    Args:
      rule: `'independent'`, or `'one'` for at most one.
      weights: of rule `'one'`: which modality it is, as probabilities.
      per: `'example'` or `'batch'`.
    """

    call = "Drops some of `arrays`, two or more in a pytree."
    rate: float
    rule: tokens.ModalityRule = "independent"
    weights: Sequence[float] | None = None
    per: tokens.Per = "example"
