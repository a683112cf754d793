"""A figure with its interval, and Student's interval of a mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from attrs import frozen

CONFIDENCE = 0.95
"""The confidence of every interval here that does not say another."""


@frozen
class Estimate:
    """A figure, and the interval that holds the true one with the stated confidence."""

    value: float
    low: float
    high: float


def mean_estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Estimate the mean of a population from independent draws, by Student's t (Student 1908, Biometrika 6).

    Exact for normal draws.  None for fewer than two, which say nothing of their spread.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # imported here: a table of few seeds needs none of it

    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)
