"""Random subsets of exactly k of the n members of an axis, for dropout that does not compute what
it drops.

    kept = subsets.draw(key, 2048, 0.5)  # 1024 of 2048 hidden units, in ascending order
    hidden = jax.nn.relu(x @ kept.gather(w1, axis=1) + kept.gather(b1))
    y = kept.scaled(hidden) @ kept.gather(w2)

A Bernoulli mask keeps a number of entries that differs from key to key. The shape of an array
may not depend on a key, so work is saved only if that number is fixed. Here exactly k of n members
are kept, and all subsets of k members are equally likely. Each member is kept with probability
k / n, and multiplied by n / k if it is kept, so that the mean is exactly that without dropout. The
multiplier of a member has the variance `n / k - 1`; those of two members have the correlation
`-1 / (n - 1)`, where those of a Bernoulli mask have 0.

With `groups=g` the axis consists of g groups of n / g consecutive members, each of which keeps
k / g. A device that holds whole groups chooses and gathers among its own members, without
communication, and the subset is the same on every such mesh and on one device.
"""

from jaxdrop.subsets._axes import gather_axes
from jaxdrop.subsets._drawing import Pattern, check_known_rate, draw, number_kept, smallest
from jaxdrop.subsets._subset import Subset, dropped

__all__ = [
    "Pattern",
    "Subset",
    "check_known_rate",
    "draw",
    "dropped",
    "gather_axes",
    "number_kept",
    "smallest",
]


def __dir__() -> list[str]:
    return __all__
