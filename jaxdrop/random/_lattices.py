"""How S samples divide the unit interval among them, at every position in an order of its own.

A lattice has p points, p prime. At each position the samples on it draw `frac(b + a t / p)`, t = 0,
..., p - 1, with b uniform in [0, 1) and a in {1, ..., p - 1}: one value in each interval of length
1/p. Every value by itself is uniform. Since p is prime, any two samples fall into any two of the
intervals equally often (Carter & Wegman, "Universal classes of hash functions", J. Comput. Syst.
Sci. 18, 1979), and since positions are independent of each other, the variance of a mean over the
samples equals that of samples whose intervals are in wholly random order: it depends on pairs of
samples only. The error of a function of two positions alone is uneven: small as a rule, and large
if both positions drew the same a, as one pair of positions in about p does.

An even S is the sum p + q of two different odd numbers that are prime or 1, for every S from 4 to
2**16. Where values of the first lattice stand at d of their intervals, those of the second stand
at 1 - d. Below k/S there
are then ceil(pk/S - d) + ceil(qk/S - 1 + d) = k of both: one in each interval of length 1/S.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jaxdrop.random._words import WORD

MOST = 2**16 - 1


def sizes(num: int) -> tuple[int, ...]:
    """The numbers of points of the lattices of `num` samples: together `num`, or one more if `num`
    is odd and no prime.
    """
    if _is_odd_prime_or_1(num):
        return (num,)
    total = num + num % 2
    if total == 2:
        return 1, 1
    # Of few samples, a second lattice lets products of two units vary more, unless it is a single
    # point. Of many, two equal ones make it rarer that two units go together in all samples.
    ways = range(1, total // 2) if total < 24 else range((total - 1) // 2, 0, -1)
    return next(
        (total - q, q) for q in ways if _is_odd_prime_or_1(q) and _is_odd_prime_or_1(total - q)
    )


def points(num: int) -> npt.NDArray[np.uint32]:
    """A row for each of `num` samples: the fields of a `LatticePoint` of `_generators.py`."""
    lattices = []
    for mirror, prime in zip((0, WORD - 1), sizes(num), strict=False):
        # The fraction index / prime with 48 bits, as a word of 32 and one of 16.
        fraction = (np.arange(prime, dtype=np.uint64) << np.uint64(48)) // np.uint64(prime)
        rows = np.empty((prime, 5), np.uint32)
        rows[:, 0], rows[:, 1], rows[:, 4] = prime, pow(prime, -1, WORD), mirror
        rows[:, 2], rows[:, 3] = np.divmod(fraction, np.uint64(2**16))
        lattices.append(rows)
    return np.concatenate(lattices)[:num]


def _is_odd_prime_or_1(n: int) -> bool:
    return n % 2 == 1 and all(n % divisor for divisor in range(3, int(n**0.5) + 1, 2))
