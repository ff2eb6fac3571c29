"""The fixed masks of Masksembles."""

from __future__ import annotations

import bisect
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks, random
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

# The limit of the authors' code. Beyond it the masks have next to nothing in common.
_LARGEST_SCALE = 6.0


@cites("durasov2021masksembles")
@_checks.hinted
def masksembles(key: jax.Array, num_masks: int, features: int, *, scale: float = 2.0) -> jax.Array:
    """Masksembles: S fixed masks over the features of a layer, with a chosen overlap. They make S
    networks that share weights, between one network (`scale=1`, equal masks) and a deep ensemble.

    Each mask keeps exactly `m = floor(c / (s (1 - (1 - 1/s)**S)))` of the c features, with `s` the
    scale, and each feature is kept by some mask. All S masks for which this holds are equally
    likely. Two masks have about the share `1 / (2 s - 1)` of the features that either of them keeps
    in common (intersection over union).

    The masks are drawn once, before training, and stay. In training each example belongs to one
    mask, and in prediction all S masks are used. Nothing is rescaled:

        masks = mc.masksembles(jaxdrop.key(0), 4, 64)
        member = jnp.arange(len(h)) * 4 // len(h)  # the examples of a batch, in 4 equal parts
        h = jnp.where(masks[member], h, 0)  # training
        outputs = jax.vmap(lambda mask: rest(jnp.where(mask, h, 0)))(masks)  # prediction

    `mc.subnetwork` turns each mask into a smaller network. The masks are a function of (key,
    num_masks, features, scale) alone: a checkpoint need not hold them.

    Args:
      key: a single key of any generator.
      num_masks: S, at least 1.
      features: c, the number of units or channels of the layer.
      scale: the paper's scale s, in [1, 6]. The larger it is, the fewer features each mask keeps,
        and the fewer two masks have in common: of c features, S = 4 masks keep 0.53 c and overlap
        by 1/3 at scale 2, and keep 0.42 c and overlap by 1/5 at scale 3.

    Returns:
      A bool array of shape (num_masks, features).

    Raises:
      TypeError: no key; `num_masks` or `features` is not an integer, or `scale` not a number.
      ValueError: an array of keys, or an argument out of its range.

    References:
      Durasov, Bagautdinov, Baque & Fua, "Masksembles for uncertainty estimation", 2020,
      arXiv:2012.08334: 4 masks with scales from 1.5 to 3. The authors' code draws S sets of m from
      more than c positions until they fill c of them, and leaves out the others. So does this
      function; the masks that remain have the distribution above, however many positions there are.
    """
    key = _checks.check_key(key, "mc.masksembles", always=True)
    num = _checks.check_count(num_masks, "num_masks")
    count = _checks.check_count(features, "features", most=_checks.LONGEST)
    _checks.check_not_traced(scale, "scale")
    known = _checks.check_number(scale, "scale", _LARGEST_SCALE, least=1.0)
    if not isinstance(known, float):
        raise ValueError(f"scale must be one number, got {_checks.quoted(scale)}")
    share = 1 / (known * (1 - (1 - 1 / known) ** num))
    kept = max(math.floor(count * share), -(-count // num))
    positions = _positions(num, count, kept)
    return _masksembles(key, num=num, count=count, kept=kept, positions=positions)


def _positions(num: int, count: int, kept: int) -> int:
    """From how many positions `num` sets of `kept` must be drawn to fill `count` on average."""

    def is_enough(positions: int) -> bool:
        return positions * (1 - (1 - kept / positions) ** num) >= count

    most = math.ceil(2 * _LARGEST_SCALE * count)
    return bisect.bisect_left(range(most), True, lo=count, key=is_enough)


@kernel("masksembles", checkpoint=False)
def _masksembles(key: jax.Array, *, num: int, count: int, kept: int, positions: int) -> jax.Array:
    def draw(trial: jax.Array) -> jax.Array:
        words = random.bits(jax.random.fold_in(key, trial), (num, positions))
        ranks = jnp.argsort(jnp.argsort(words, axis=1), axis=1)
        return ranks < kept

    def is_wrong(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return state[1].any(0).sum() != count

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return state[0] + 1, draw(state[0])

    none = jnp.zeros((num, positions), bool)
    _, masks = lax.while_loop(is_wrong, again, (jnp.int32(0), none))
    filled = jnp.argsort(~masks.any(0))[:count]
    return jnp.take(masks, filled, axis=1, mode="clip")
