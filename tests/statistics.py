"""Checks of randomness. Each returns a p-value: the probability that ideal bits look at least as
odd as these.

A check of many numbers multiplies the smallest p-value by their count (Bonferroni), and so errs on
the side of silence. A chi-square too small is as odd as one too large.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import fft, stats


def normal(z: np.ndarray | float) -> float:
    """Of the largest of standard normal deviates, independent or not."""
    return min(1.0, np.size(z) * 2 * float(stats.norm.sf(np.max(np.abs(z)))))


def chi_square(counts: np.ndarray, expected: np.ndarray | float) -> float:
    """Of multinomial counts."""
    return _chi_square(np.sum((counts - expected) ** 2 / expected), np.size(counts) - 1)


def uniform(values: np.ndarray, bins: int) -> float:
    """Of uint32 values: are they spread evenly over the range?"""
    places = (values.astype(np.uint64) * np.uint64(bins)) >> np.uint64(32)
    return chi_square(np.bincount(places, minlength=bins), values.size / bins)


def byte_counts(values: np.ndarray) -> float:
    """Of unsigned integers: is every value of every one of their bytes as frequent as the
    others?
    """
    columns = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize).T
    tests = [
        chi_square(np.bincount(column, minlength=256), column.size / 256) for column in columns
    ]
    return min(1.0, len(tests) * min(tests))


def shifts(values: np.ndarray, variance: float) -> float:
    """Of independent values of mean 0: does the array correlate with a copy of itself, shifted by
    up to half along each axis?
    """
    padded = [2 * length for length in values.shape]
    products = fft.irfftn(np.abs(fft.rfftn(values, padded)) ** 2, padded)
    near = [np.r_[0 : length // 2, 1 - length // 2 : 0] for length in values.shape]
    terms = functools.reduce(
        np.multiply.outer,
        (length - np.abs(shift) for length, shift in zip(values.shape, near, strict=True)),
    )
    z = products[np.ix_(*near)] / (variance * np.sqrt(terms))
    return normal(z.ravel()[1:])


def run_pairs(keep: np.ndarray, rate: float) -> float:
    """Of a keep mask: do the lengths of a dropped run and of the kept run behind it follow two
    independent geometric laws?
    """
    starts = np.flatnonzero(np.diff(keep)) + 1
    if starts.size < 100:
        return 0.0
    lengths = np.diff(
        starts[int(keep[starts[0]]) :]
    )  # from the first dropped run on; the last run is cut off by the end
    dropped, kept = lengths[: lengths.size // 2 * 2].reshape(-1, 2).T
    longest = [1 + math.ceil(math.log(1e-9, ratio)) for ratio in (rate, 1 - rate)]
    law = np.multiply.outer(
        *(
            ratio ** np.arange(n) * (1 - ratio)
            for ratio, n in zip((rate, 1 - rate), longest, strict=True)
        )
    )
    counts = np.zeros(law.shape)
    np.add.at(counts, (np.minimum(dropped, longest[0]) - 1, np.minimum(kept, longest[1]) - 1), 1)
    expected = law * dropped.size
    common = expected >= 10
    rest = counts[~common].sum(), expected[~common].sum()
    return chi_square(np.append(counts[common], rest[0]), np.append(expected[common], rest[1]))


def flips(changes: np.ndarray) -> float:
    """Of uint32 differences, shape (cases, n): does each case flip each of the 32 bits half of the
    time?
    """
    n = changes.shape[1]
    counts = np.stack([((changes >> np.uint32(bit)) & np.uint32(1)).sum(1) for bit in range(32)])
    return _chi_square(np.sum((counts - n / 2) ** 2) / (n / 4), counts.size)


def rows(keep: np.ndarray) -> float:
    """Of masks of rate 0.5, shape (rows, n): is a row like another one, or like its opposite?"""
    signs = 2 * keep.astype(np.float32) - 1
    products = signs @ signs.T
    return normal(products[np.triu_indices(len(signs), 1)] / math.sqrt(keep.shape[1]))


def collisions(values: np.ndarray) -> float:
    """Of uint32 values: are as many of them equal as chance makes so? A permutation gives none, and
    streams that overlap give far more.
    """
    return total_collisions([values.ravel()])


def total_collisions(streams: Sequence[np.ndarray]) -> float:
    """The same of several streams, each by itself."""
    equal = sum(np.count_nonzero(np.diff(np.sort(stream)) == 0) for stream in streams)
    return _poisson(equal, sum(stream.size * (stream.size - 1) / 2**33 for stream in streams))


def birthday_spacings(values: np.ndarray) -> float:
    """Of uint32 values, shape (years, n): among the n spacings of the sorted values of a year, are
    as many equal as chance makes so? About `n**3 / 2**34` of each year (Marsaglia; the constant and
    its error: L'Ecuyer & Simard, "On the performance of birthday spacings tests with certain
    families of random number generators", Math. Comput. Simul. 55, 2001).
    """
    spacings = np.sort(np.diff(np.sort(values, axis=-1), axis=-1), axis=-1)
    equal = np.count_nonzero(np.diff(spacings, axis=-1) == 0)
    return _poisson(equal, values.shape[0] * values.shape[1] ** 3 / 2**34)


def gaps(values: np.ndarray) -> float:
    """Of uint32 values in their order: are the gaps between those below 2**28, one in 16,
    geometrically distributed? (Knuth, The Art of Computer Programming 2, 3.3.2.)
    """
    lengths = np.diff(np.flatnonzero(values.ravel() < 2**28)) - 1
    if lengths.size < 100:
        return 0.0
    longest = 60
    probabilities = (1 / 16) * (15 / 16) ** np.arange(longest)
    counts = np.bincount(np.minimum(lengths, longest), minlength=longest + 1)
    expected = np.append(probabilities, 1 - probabilities.sum()) * lengths.size
    return chi_square(counts, expected)


def maxima(values: np.ndarray, group: int = 8) -> float:
    """Of uint32 values in their order: is the largest of each `group`, to the power of `group`,
    uniform? (Knuth, The Art of Computer Programming 2, 3.3.2: the maximum-of-t test.)
    """
    largest = values.ravel()[: values.size // group * group].reshape(-1, group).max(-1)
    powers = ((largest + 0.5) / 2**32) ** group
    counts = np.bincount((powers * 64).astype(int), minlength=64)
    return chi_square(counts, len(largest) / 64)


def binomial_counts(counts: np.ndarray, number: int, probability: float) -> float:
    """Of counts of independent keys among `number` trials: is their variance the binomial one?"""
    deviates = (counts - number * probability) / np.sqrt(number * probability * (1 - probability))
    return _chi_square(float(np.sum(deviates**2)), counts.size)


def battery(values: np.ndarray) -> dict[str, float]:
    """The p-values of one stream of unsigned integers, in its order."""
    size = 2 ** (8 * values.dtype.itemsize)
    result = {"bytes": byte_counts(values), "shifts": shifts((values + 0.5) / size - 0.5, 1 / 12)}
    for rate in (0.1, 0.5):
        dropped = round(rate * size)
        result[f"runs at {rate}"] = run_pairs(values >= dropped, dropped / size)
    if values.dtype == np.uint32:
        result |= {"gaps": gaps(values), "maxima": maxima(values)}
    return result


def _chi_square(statistic: float, degrees: int) -> float:
    return 2 * float(min(stats.chi2.cdf(statistic, degrees), stats.chi2.sf(statistic, degrees)))


def _poisson(count: int, expected: float) -> float:
    return 2 * float(min(stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected)))
