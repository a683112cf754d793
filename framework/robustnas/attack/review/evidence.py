"""How much is more than chance, and more than the imperfection of any attack."""

from __future__ import annotations

import math

CHANCE = 0.01
"""The level of all tests: a difference that is less probable than this is taken to be real."""

FEWEST = math.ceil(-math.log2(CHANCE))
"""So many images have to differ before the sign test can succeed: 2 ** -7 is the first power below `CHANCE`."""


def by_chance(first: int, second: int) -> float:
    """How likely the first of two equals is ahead in at least `first` of the `first + second` images where they differ.

    This is the one-sided sign test: images on which both fare alike say nothing, every other image is a fair coin.
    """
    differing = first + second
    ways = sum(math.comb(differing, ahead) for ahead in range(first, differing + 1))
    return ways / (1 << differing)


def at_least(successes: int, trials: int, probability: float) -> float:
    """How likely at least so many of `trials` independent tries succeed, each with this probability."""
    from scipy.special import bdtrc  # imported here, because few users of this module need it

    return 1.0 if successes <= 0 else float(bdtrc(successes - 1, trials, probability))


def counts(images: int, among: int, share: float) -> bool:
    """Whether so many images are worth a warning: two at least, and at least this share of those looked at.

    One image of a thousand is within what a longer run or another random start of a good attack changes.
    """
    return images >= 2 and images >= share * among
