"""Rank correlations over architectures, with bootstrap intervals, and the noise ceiling of what is predicted.

A bootstrap draw of architectures is a row of counts: how often each was drawn.  Both correlations are sums over pairs
of architectures, so all draws are matrix products with what the pairs are, and no draw is ranked anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike, NDArray

from robustnas.table.statistics.estimate import CONFIDENCE, Estimate

FEWEST = 3
"""Two architectures are always in perfect order: a correlation needs as many as this, and an interval more."""

BLOCK = 2**22
"""At most so many pairs of architectures are held at once."""

Floats = NDArray[np.float64]
Correlation = Callable[[Floats, Floats, Floats], Floats]
"""(n,) predictor, (n,) outcome, (B, n) counts -> (B,) correlations, NaN where either is constant."""


def _blocks(values: Floats) -> list[slice]:
    rows = max(1, BLOCK // max(len(values), 1))
    return [slice(start, start + rows) for start in range(0, len(values), rows)]


def kendall(first: Floats, second: Floats, counts: Floats) -> Floats:
    """Compute Kendall's tau-b (Kendall 1945, Biometrika 33) of each draw: concordant minus discordant pairs, over the
    geometric mean of the pairs that are tied in neither of the one and of the other."""
    sums = np.zeros((3, len(counts)))
    for rows in _blocks(first):
        one, two = (np.sign(values[rows, None] - values) for values in (first, second))
        for place, pairs in enumerate((one * two, np.abs(one), np.abs(two))):
            sums[place] += (counts[:, rows] * (counts @ pairs.T)).sum(1)
    return _ratio(sums[0], sums[1], sums[2])


def spearman(first: Floats, second: Floats, counts: Floats) -> Floats:
    """Compute Spearman's rho (Spearman 1904, American Journal of Psychology 15) of each draw: the correlation of the
    ranks, where equal values share the mean of theirs."""
    ranks = np.empty((2, *counts.shape))
    for rows in _blocks(first):
        for place, values in enumerate((first, second)):
            below = (np.sign(values[rows, None] - values) + 1) / 2  # 1 below, 1/2 equal
            ranks[place][:, rows] = counts @ below.T
    ranks -= (counts * ranks).sum(2, keepdims=True) / counts.sum(1)[:, None]
    return _ratio(*((counts * ranks[i] * ranks[j]).sum(1) for i, j in ((0, 1), (0, 0), (1, 1))))


def _ratio(product: Floats, one: Floats, two: Floats) -> Floats:
    """Divide by the geometric mean; NaN where that is 0 to rounding."""
    scale = np.sqrt(np.maximum(one, 0) * np.maximum(two, 0))
    found = np.full_like(product, np.nan)
    np.divide(product, scale, out=found, where=scale > 1e-9)
    return np.clip(found, -1.0, 1.0)


def correlation(
    predictor: ArrayLike,
    outcome: ArrayLike,
    kind: Correlation = kendall,
    *,
    seed: int = 0,
    draws: int = 1000,
    confidence: float = CONFIDENCE,
) -> Estimate | None:
    """Estimate a rank correlation over architectures, with a percentile interval of bootstrap draws of architectures
    (Efron 1979, Annals of Statistics 7).  Draws in which either is constant count for nothing.

    Args:
        predictor, outcome: (n,) finite values, one an architecture.
        kind: `kendall` or `spearman`.
        seed: of the draws; the same draws for every pair of one seed and number of architectures.

    Returns:
        None where no such correlation exists: fewer than `FEWEST` architectures, or one of both is constant.
    """
    return _estimate([(predictor, outcome)], kind, seed, draws, confidence)


@frozen
class Ceiling:
    """How well an outcome predicts itself: what noise of training leaves to be predicted.

    Args:
        between_trainings: the rank correlation of two trainings of the same architectures, mean over pairs of seeds.
        of_the_mean: the same for the means over all seeds, had there been a second set of them: r becomes
            k r / (1 + (k - 1) r) (Spearman 1910, Brown 1910, British Journal of Psychology 3); 0 where r is below 0.
        highest: what a predictor that knew the true values could reach against these means: the root of
            `of_the_mean` (Spearman's correction for attenuation, 1904).  For rank correlations both are approximate.
        seeds: k, the number of trainings.
    """

    between_trainings: Estimate
    of_the_mean: Estimate
    highest: Estimate
    seeds: int


def noise_ceiling(
    outcomes: Sequence[Sequence[float]],
    kind: Correlation = spearman,
    *,
    seed: int = 0,
    draws: int = 1000,
    confidence: float = CONFIDENCE,
) -> Ceiling | None:
    """Estimate the noise ceiling of outcomes[architecture][training seed], with bootstrap intervals over architectures.

    Args:
        outcomes: finite values, the same number of training seeds for every architecture.
        kind, seed: as in `correlation`.

    Returns:
        None where it cannot be told: one training seed, fewer than `FEWEST` architectures, or constant outcomes.
    """
    columns = list(zip(*outcomes, strict=True))
    found = _estimate(list(combinations(columns, 2)), kind, seed, draws, confidence)
    if found is None:
        return None
    ends = [max(0.0, one) for one in (found.value, found.low, found.high)]
    means = [len(columns) * r / (1 + (len(columns) - 1) * r) for r in ends]
    return Ceiling(found, Estimate(*means), Estimate(*map(math.sqrt, means)), len(columns))


def _estimate(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], kind: Correlation, seed: int, draws: int, confidence: float
) -> Estimate | None:
    """Estimate the mean of the correlations of pairs, all drawn together; None where one does not exist."""
    number = np.size(pairs[0][0]) if pairs else 0
    if number < FEWEST:
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(number, np.full(number, 1 / number), size=draws)
    counts = np.vstack([np.ones(number), drawn])  # as they are, then the draws
    every = np.mean([kind(np.asarray(a, np.float64), np.asarray(b, np.float64), counts) for a, b in pairs], axis=0)
    known = every[1:][~np.isnan(every[1:])]
    if math.isnan(every[0]) or len(known) == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(float(every[0]), float(low), float(high))
