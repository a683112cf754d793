"""The bilevel search: alpha on one half of the training images, w on the other (`robustnas.search`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from robustnas.contracts import SearchContext


@frozen
class Bilevel:
    """Searches alpha and w together, as section search says: DARTS and its descendants."""

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Search a genotype, or go on with a search that was stopped."""
        from robustnas.search import SearchTask, run  # plans name this strategy, and are read without torch

        task = SearchTask(
            dataset=context.dataset,
            space=context.space,
            metrics=context.metrics,
            threat=context.threat,
            settings=context.settings,
            seed=context.seed,
        )
        return run(task, context.folder, context.device, context.report, context.processes)
