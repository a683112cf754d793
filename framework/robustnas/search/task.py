"""What one search is given: everything that determines its result, and the folder it writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from robustnas.contracts import Dataset, SearchSpace
from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from robustnas.recipe.schema import Search


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
    settings: Search
    seed: int


class Folder(Protocol):
    """Where a search keeps its checkpoint and its history: `robustnas.artifacts.StageFolder`."""

    def save_tensors(self, name: str, state: dict[str, Any]) -> None:
        """Write tensors and plain data whole, or not at all."""

    def load_tensors(self, name: str) -> dict[str, Any] | None:
        """What was written under that name, on the CPU; None where nothing was."""

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace the history of the stage, one record an epoch."""
