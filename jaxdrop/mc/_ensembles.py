"""Ensembles: the members' samples, and the uncertainty between members and within them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _calls, _describe, _groups, _moments, _sampling
from jaxdrop.mc._classification import Classification
from jaxdrop.mc._moments import Moments
from jaxdrop.mc._observations import Regression
from jaxdrop.mc._probabilities import divergence


@cites("lakshminarayanan2017simple", "depeweg2018decomposition")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The predictions of M members, and their uncertainty in two parts.

    `between + within` is the epistemic uncertainty of `summary`: for a `Classification` its mutual
    information, for a `Regression` its epistemic variance, for `Moments` its variance.
    """

    summary: Any
    """The summary of all samples of all members. Each member counts as a group, so that its
    standard error is that of the mean over members.
    """
    members: Any
    """The summaries of the members: each array has a leading axis of length M."""
    between: Any
    """The uncertainty that members do not agree on: the mutual information of the label and the
    member, or the variance of the members' means.
    """
    within: Any
    """The mean over members of the uncertainty that the samples of a member do not agree on."""

    def __repr__(self) -> str:
        return _describe.short_line(self, repr(self.summary), ("between", "within"))


@cites(Ensemble)
@_checks.hinted
def ensemble(
    fn: Callable[..., Any],
    members: Any,
    keys: jax.Array | None = None,
    *,
    summary: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    allow_deterministic: bool = False,
) -> Ensemble:
    """The predictions of a deep ensemble, or of an ensemble with MC dropout, in one call.

    `fn(member, key)` runs for every member and each of its keys, by `jax.vmap` over both. Without
    keys `fn(member)` runs once for each member. The law of total variance, or the chain rule of
    information, divides the epistemic uncertainty: `Var y_ms = Var_m E_s y_ms + E_m Var_s y_ms` and
    `I(y; m, s) = I(y; m) + E_m I(y; s | m)`.

        graph, _ = nnx.split(models[0])
        members = jax.tree.map(lambda *x: jnp.stack(x), *(nnx.split(model)[1] for model in models))

        def fn(member, key):
            return jaxdrop.nnx.stochastic(nnx.merge(graph, member))(key, x)

        found = mc.ensemble(
            fn,
            members,
            mc.keys(key, 5 * 20, groups=5),  # 5 members, 20 passes of each
            summary=lambda logits: mc.classification(logits=logits),
        )
        found.summary.mean, found.between, found.within

    Args:
      fn: a function of a member and a key, or of a member; it returns an array or a pytree of
        arrays.
      members: the parameters of all members, a pytree whose arrays have a leading axis of length M.
      keys: M S keys, the first S for the first member: `mc.keys(key, M * S, groups=M)`, so that
        members do not share masks.
      summary: a function of the samples of a member, with a leading axis of length S, that returns
        a `Classification`, a `Regression` or `Moments`; `Moments` by default.
      batch_size: how many samples of each member to run at once; all by default.
      allow_deterministic: as in `predict`.

    Returns:
      An `Ensemble`.

    Raises:
      TypeError: `fn` does not take these arguments, or `summary` returns something else.
      ValueError: the arrays of `members` have no common leading axis, their number does not divide
        that of the keys, or nothing that `fn` returns depends on the key.

    References:
      Lakshminarayanan, Pritzel & Blundell, "Simple and scalable predictive uncertainty estimation
      using deep ensembles", NeurIPS 2017, arXiv:1612.01474. Depeweg, Hernández-Lobato, Doshi-Velez
      & Udluft, "Decomposition of uncertainty in Bayesian deep learning for efficient and
      risk-sensitive learning", ICML 2018, arXiv:1710.07283.
    """
    _calls.check_function("mc.ensemble", fn, "fn, members, keys")
    num = _number(members)
    if keys is None:
        advice = " For MC dropout pass the keys of all members, mc.keys(key, M * S, groups=M)."
        _calls.check_call("mc.ensemble", "fn(member)", fn, 1, advice)
    else:
        advice = " Without dropout leave the keys out."
        _calls.check_call("mc.ensemble", "fn(member, key)", fn, 2, advice)
    if summary is not None:
        _checks.check_callable(summary, "summary", "samples")
    sets = None
    if keys is not None:
        total = _calls.check_keys(keys)
        if total % num:
            raise ValueError(
                f"keys must be a multiple of the {num} members, as mc.keys(key, {num} * S,"
                f" groups={num}), got {total}"
            )
        sets = _groups.sets(keys, num)

    def one(member: Any, keys: jax.Array | None) -> Any:
        if keys is None:
            samples = jax.tree.map(lambda x: jnp.asarray(x)[None], fn(member))
        else:
            samples = _sampling.predict(
                lambda key: fn(member, key),
                keys,
                batch_size=batch_size,
                allow_deterministic=allow_deterministic,
            )
        found = (summary or _moments.of)(samples)
        if not isinstance(found, (Classification, Regression, Moments)):
            raise TypeError(
                "summary must return a Classification, a Regression or Moments, got"
                f" {_checks.quoted(found)}"
            )
        return found.as_one_group()

    each = jax.vmap(one, in_axes=(0, None if sets is None else 0))(members, sets)
    first = jax.tree.map(lambda x: x[0], each)
    others = jax.tree.map(lambda x: x[1:], each)
    whole = first
    if num > 1:
        whole, _ = lax.scan(lambda total, other: (total.merge(other), None), first, others)
    return Ensemble(whole, each, _between(whole, each), _within(each))


def _between(whole: Any, each: Any) -> Any:
    if isinstance(whole, Classification):
        return divergence(each.log_mean, whole.log_mean).mean(0)
    return whole.group_variance


def _within(each: Any) -> Any:
    if isinstance(each, Classification):
        return each.mutual_information.mean(0)
    spread = each.epistemic_variance if isinstance(each, Regression) else each.variance
    return jax.tree.map(lambda x: x.mean(0), spread)


def _number(members: Any) -> int:
    """The number of members."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(members)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "members must be a pytree of arrays with a leading axis of one length, the number of"
            f" members, got shapes {_checks.quoted(shapes)}. Stack them: jax.tree.map(lambda *x:"
            " jnp.stack(x), *parameters)."
        )
    return lengths.pop()
