"""Tests of pairs: what two methods did to the same images, or under the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from robustnas.table.statistics.estimate import Estimate, mean_estimate

FEWEST = 5
"""Fewer pairs than this support no claim, whatever they say."""

LEVEL = 0.05
"""A difference is told apart from none where its corrected p is at most this."""


@frozen
class Difference:
    """One method minus another, over pairs.

    Args:
        mean: of the differences.
        interval: of their mean, 95 %, by Student's t over the pairs; None for fewer than `FEWEST`.
        p: of the exact two-sided Wilcoxon signed-rank test; None for fewer than `FEWEST`.
        pairs: their number.
    """

    mean: float
    interval: Estimate | None
    p: float | None
    pairs: int


def difference(first: Sequence[float | None], second: Sequence[float | None]) -> Difference | None:
    """Compare two methods over the pairs that were measured in both; None where there is none."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    gaps = [0.0 if math.isclose(a, b) else a - b for a, b in both]
    if not gaps:
        return None
    enough = len(gaps) >= FEWEST
    mean = math.fsum(gaps) / len(gaps)
    return Difference(mean, mean_estimate(gaps) if enough else None, wilcoxon(gaps) if enough else None, len(gaps))


def wilcoxon(differences: Sequence[float]) -> float:
    """Compute the exact two-sided p of the signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1).

    The statistic is the sum of the signed ranks of the sizes; differences of 0 are dropped, equal sizes share the mean
    of their ranks, and the p is exact for these too: the share of all signs whose sum is as far from 0.
    """
    gaps = np.array([gap for gap in differences if gap != 0], dtype=np.float64)
    sizes = np.abs(gaps)
    # equal but for rounding is equal: the last digits of means of shares depend on the order of sums
    sizes = np.array([float(f"{size:.9e}") for size in sizes])
    doubled = (sizes[:, None] > sizes).sum(1) + (sizes[:, None] >= sizes).sum(1) + 1
    return _sign_flips(np.sign(gaps).astype(np.int64) * doubled)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Compute the exact two-sided p of McNemar's test: of the images that one of two networks has right and the other
    wrong, is each as often the right one?  (McNemar 1947, Psychometrika 12; the binomial test of the discordant pairs.)

    Args:
        first, second: (N,) whether each image is right under each network.
    """
    from scipy.special import bdtr  # imported here: most tables have no pair of networks

    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    ours, theirs = int((one & ~two).sum()), int((two & ~one).sum())
    return min(1.0, 2 * float(bdtr(min(ours, theirs), ours + theirs, 0.5))) if ours + theirs else 1.0


def mcnemar_over_networks(first: ArrayLike, second: ArrayLike) -> float:
    """Compare two methods on the same images through several networks of each, by an exact two-sided test.

    Seeds see the same images, and an image that is hard under one is hard under others, so adding up the discordant
    pairs of all seeds would count one image several times.  The images are the independent units: each one's score is
    the number of the first method's networks that have it right minus the second's, and under the hypothesis every
    score is as likely with the other sign.  This is the test of Durkalski et al. 2003 (Statistics in Medicine 22) for
    matched pairs in clusters, an image a cluster, with its exact distribution; with one network each it is McNemar's.
    It speaks of these trained networks and of further images, not of further seeds.

    Args:
        first, second: (S, N) whether each image is right under each network.
    """
    scores = np.asarray(first, dtype=np.int64).sum(0) - np.asarray(second, dtype=np.int64).sum(0)
    return _sign_flips(scores)


def _sign_flips(values: NDArray[np.int64]) -> float:
    """Compute how often the sum of whole numbers (N,) is as far from 0 or farther, when every sign is drawn by coin.

    The sum's distribution is the inverse Fourier transform of its characteristic function, the product of cos(v t)
    over the values, and exact to rounding (1e-15 or so), as the sum is a whole number no larger than their sizes'.
    """
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    most, reached = int((sizes * counts).sum()), abs(int(values.sum()))
    if reached == 0:
        return 1.0
    length = 2 * most + 1
    angles = 2 * np.pi * np.arange(most + 1) / length
    transform = np.ones(most + 1)
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * angles) ** count
    chances = np.fft.irfft(transform, length)  # that of the sum s at s, that of -s at the other end
    above, number = 2 * math.fsum(chances[reached : most + 1]), int(counts.sum())
    if number < 40:
        above = round(above * 2**number) / 2**number  # it is a share of 2^number signs
    # where all signs are alike rounding could go below the least there is
    return min(1.0, max(above, 2.0 ** (1 - number)))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct the p of a family of tests, so that with probability 0.95 none of them falls to 0.05 where there is
    nothing to find (Holm 1979, Scandinavian Journal of Statistics 6).

    Returns:
        Corrected p, in the order given.
    """
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = corrected[at] = max(highest, min(1.0, (len(ps) - place) * ps[at]))
    return corrected


def pairs_needed(family: int) -> int:
    """Say how many pairs a claim needs: so many that the signed-rank test, whose least p is 2^(1 - pairs), can fall to
    `LEVEL` after Holm's correction over a family of so many tests."""
    return max(FEWEST, 1 + math.ceil(math.log2(max(family, 1) / LEVEL)))
