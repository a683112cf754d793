"""What one search is given: everything that determines its result."""

from __future__ import annotations

from typing import Any

from attrs import Factory, frozen

from robustnas.contracts import Dataset, SearchSpace
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel


@frozen
class SearchTask:
    """One search of one genotype.

    Args:
        dataset: only its training images are asked for.
        space: the search space.
        metrics: (weight, metric) pairs; empty is plain DARTS.
        threat: what the metrics protect against.
        settings: the recipe's section `search`.
        seed: determines every random number.
    """

    dataset: Dataset
    space: SearchSpace
    metrics: tuple[tuple[float, Any], ...]
    threat: ThreatModel
    settings: Search = Factory(Search)
    seed: int = 0
