"""A genotype drawn uniformly from the space, by the space's own sampler: the mean of the space, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from robustnas.contracts import SearchContext


@frozen
class Random:
    """Draws a genotype uniformly from the space; a search must beat this before anything else is said of it."""

    uses = ()
    needs = ("sample",)

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Draw a genotype."""
        from robustnas.search import drawn  # plans name this strategy, and are read without torch

        return {"genotype": drawn(context.space, context.dataset, context.seed), "search_seconds": 0.0}
