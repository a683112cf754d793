"""Random search: the best of several genotypes that are drawn uniformly, each trained and judged.

Drawing, training and judging are stages of their own, so that candidates can be trained side by side.
Source: Li and Talwalkar 2019, arXiv:1902.07638.
"""

from __future__ import annotations

from attrs import frozen

from robustnas.search.candidates import BestOf
from robustnas.search.strategies.random import Random


@frozen
class RandomSearch(BestOf, Random):
    """Keeps the best of several genotypes drawn uniformly, each trained without the images that judge it."""

    @property
    def best_of(self) -> BestOf:
        """How many are drawn, and how one is chosen."""
        return BestOf(self.samples, self.epochs, self.holdout)
