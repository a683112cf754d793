"""Takes over what a finished stage of the same run directory found of the same images, so that the rest alone is done.

A stage of more, fewer or other images has another key.  What tells that both ask the same of an image is their
`question`: a digest of everything that determines the answer but not which images are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from robustnas.attack.outcomes import FIGURES, Outcomes
from robustnas.run.task import Task
from robustnas.runtime.artifacts import StageFolder


@frozen(eq=False)
class TakenOver:
    """The answers of one finished stage to some of the images of another.

    Args:
        rows: (N,) int64, the place of each image among those of the finished stage; -1 where it is not among them.
        folder: of the finished stage; None where there is none.
    """

    rows: Tensor
    folder: StageFolder | None = None

    @classmethod
    def of(
        cls, task: Task, question: str | None, indices: Tensor, index: Callable[[StageFolder], Sequence[int]]
    ) -> TakenOver:
        """Find the finished stage that answered a question about the most of the images at `indices` (N,).

        Args:
            question: as it stands in the result; None takes nothing over.
            index: of a stage with that question, the places of its images in the test split; none where it will not do.

        Raises:
            RunDirectoryError: a result is not what was written.
        """
        best = cls(torch.full_like(indices, -1))
        for folder in task.directory.beside(task.stage) if question else ():
            if folder.result().get("question") == question:
                row_of = {place: row for row, place in enumerate(index(folder))}
                found = cls(torch.tensor([row_of.get(place, -1) for place in indices.tolist()]), folder)
                best = max(best, found, key=lambda one: len(one.answered))
        return task.processes.broadcast(best)  # type: ignore[no-any-return]

    @property
    def answered(self) -> Tensor:
        """The images that have an answer, as places (n,) among the N, ascending."""
        return (self.rows >= 0).nonzero().squeeze(1)

    @property
    def rest(self) -> Tensor:
        """The images that have none, as places (n,) among the N, ascending."""
        return (self.rows < 0).nonzero().squeeze(1)

    @property
    def told(self) -> dict[str, Any]:
        """What a result says of it: from where, and how many images; nothing where nothing was taken over."""
        if self.folder is None:
            return {}
        return {"taken_over": {"from": self.folder.path.name, "images": len(self.answered)}}

    def completed(self, rows: Sequence[Outcomes], rest: Sequence[Outcomes]) -> list[Outcomes]:
        """Put what an attack did to all N images together, in their order.

        Args:
            rows: the rows of the finished attack.
            rest: those of the attack on `rest`; none where it is empty.
        """
        some, whole = self.rows[self.answered], []
        back = torch.cat([self.answered, self.rest]).argsort()
        for place, row in enumerate(rows):
            tensors: dict[str, Any] = {name: torch.as_tensor(getattr(row, name)) for name in FIGURES}
            kept = attrs.evolve(row, **tensors).chosen(some)
            # evaluations are counted for a batch, not for an image: of some images they are an equal share
            share = int((kept.tried > 0).sum()) / max(int((row.tried > 0).sum()), 1)
            spent = round(row.evaluations * share)
            if len(self.rest):
                kept, spent = kept.joined(rest[place]), spent + rest[place].evaluations
            whole.append(attrs.evolve(kept.chosen(back), evaluations=spent))
        return whole
