"""Means and spreads of a nested design: training seeds below search seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from attrs import frozen

from robustnas.table.statistics.estimate import Estimate, mean_estimate


@frozen
class Nested:
    """What a method's networks say of the method.

    Args:
        means: one value a search seed, the mean over the training seeds below it; None where none was measured.
        mean: of these means, so that every search counts the same however often its network was trained.
        std: their sample standard deviation (n - 1), the spread between searches as it was measured: of its square,
            the training seeds' variance over their number is noise of training.  None for one search seed.
        std_within: the spread between trainings of one architecture, pooled over the search seeds: the root of the sum
            of squares within them over its degrees of freedom.  None where no search seed has two training seeds.
        interval: Student's 95 % interval of the mean, over the means of search seeds.  In a balanced nested design
            these are independent draws, alike in distribution, whatever the two variances are (Searle, Casella and
            McCulloch 1992, "Variance Components"), so it is exact for normal ones.  Networks are no units of
            their own here: three trainings of one search are not three searches.  None for one search seed.
    """

    means: list[float | None]
    mean: float
    std: float | None
    std_within: float | None
    interval: Estimate | None


def nested(values: Sequence[Sequence[float | None]]) -> Nested | None:
    """Summarise values[search seed][training seed]; None stands for what was not measured.

    Returns:
        None where nothing was measured.
    """
    measured = [[value for value in below if value is not None] for below in values]
    means = [statistics.fmean(below) if below else None for below in measured]
    known = [mean for mean in means if mean is not None]
    if not known:
        return None
    squares = math.fsum((len(below) - 1) * statistics.variance(below) for below in measured if len(below) > 1)
    freedom = sum(len(below) - 1 for below in measured if below)
    return Nested(
        means=means,
        mean=statistics.fmean(known),
        std=statistics.stdev(known) if len(known) > 1 else None,
        std_within=math.sqrt(squares / freedom) if freedom else None,
        interval=mean_estimate(known),
    )
