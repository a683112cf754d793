"""The share of an outcome's variance that lies between architectures, and not between trainings of one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from attrs import frozen

from robustnas.table.statistics.estimate import CONFIDENCE, Estimate


@frozen
class Shares:
    """Intraclass correlations of one-way random effects: between over between plus within.

    Args:
        single: of one training an architecture, ICC(1).  It is the correlation of two trainings of one architecture.
        averaged: of the mean of `count` trainings, ICC(1, k): how far such means may be trusted to rank.
        count: trainings an architecture that `averaged` is of.
    """

    single: Estimate
    averaged: Estimate
    count: float


def shares(
    values: Sequence[Sequence[float]], count: int | None = None, confidence: float = CONFIDENCE
) -> Shares | None:
    """Estimate the share of variance between architectures from values[architecture][training seed].

    The analysis of variance, and intervals from the F distribution: Shrout and Fleiss 1979 (Psychological Bulletin 86),
    case 1; McGraw and Wong 1996 (Psychological Methods 1).  Exact for normal values and equally many trainings; where
    their numbers n differ, (N - sum n^2 / N) / (a - 1) takes their place, with N trainings of a architectures (Searle,
    Casella and McCulloch 1992, "Variance Components"), and the interval is approximate.  A share is at least 0, so
    estimates and ends below it are 0.

    Args:
        count: trainings that a mean is taken over; default as many as there are.

    Returns:
        None where it cannot be told: fewer than two architectures, none trained twice, or values that are all alike.
    """
    groups = [group for group in values if len(group) > 0]
    total, number = sum(map(len, groups)), len(groups)
    if number < 2 or total == number:
        return None
    from scipy.special import fdtri

    mean = math.fsum(value for group in groups for value in group) / total
    between = math.fsum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in groups) / (number - 1)
    within = math.fsum((len(group) - 1) * statistics.variance(group) for group in groups if len(group) > 1)
    within /= total - number
    if between == within == 0:
        return None
    each = (total - sum(len(group) ** 2 for group in groups) / total) / (number - 1)
    ratio = between / within if within > 0 else math.inf
    tail = (1 - confidence) / 2
    upper, lower = (float(fdtri(number - 1, total - number, p)) for p in (1 - tail, tail))
    over = each if count is None else count

    def share(ratio: float, trainings: float) -> float:
        """Give the share, of the mean of so many trainings, that belongs to a ratio of mean squares."""
        if ratio == math.inf:
            return 1.0
        signal = max(0.0, (ratio - 1) / each)  # variance between, in units of the variance within
        return trainings * signal / (trainings * signal + 1)

    def estimate(trainings: float) -> Estimate:
        return Estimate(*(share(one, trainings) for one in (ratio, ratio / upper, ratio / lower)))

    return Shares(estimate(1), estimate(over), over)
