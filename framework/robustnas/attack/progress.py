"""What is done of an attack, image by image, so that a run that was killed goes on instead of beginning again."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.progress_files import ProgressFiles
from robustnas.threat import NORMS


@attrs.define(eq=False)
class Done:
    """The images that one part of an attack has been run on, at one radius: rows in the order in which they came.

    Args:
        indices: (n,) int64.
        inside: (n,) bool, the proposed image was admissible.
        answer: (n,) int64, the network's answer to it.
        distance: (n,) float32, its size in the threat's norm.
        sizes: (n,) float64 by norm, where it fooled; infinite elsewhere.
        cost: (n,) float64, model evaluations: those of a batch in equal shares.
    """

    indices: Tensor = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.int64))
    inside: Tensor = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.bool))
    answer: Tensor = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.int64))
    distance: Tensor = attrs.field(factory=lambda: torch.zeros(0))
    sizes: dict[str, Tensor] = attrs.field(
        factory=lambda: {norm: torch.zeros(0, dtype=torch.float64) for norm in NORMS}
    )
    cost: Tensor = attrs.field(factory=lambda: torch.zeros(0, dtype=torch.float64))

    def add(self, other: Done) -> None:
        """Rows of another batch, or another process; an image that is here already stays as it is."""
        other = other.chosen(~torch.isin(other.indices, self.indices))
        self.indices = torch.cat([self.indices, other.indices])
        self.inside = torch.cat([self.inside, other.inside])
        self.answer = torch.cat([self.answer, other.answer])
        self.distance = torch.cat([self.distance, other.distance])
        self.sizes = {norm: torch.cat([self.sizes[norm], other.sizes[norm]]) for norm in NORMS}
        self.cost = torch.cat([self.cost, other.cost])

    def chosen(self, rows: Tensor) -> Done:
        """Some rows, (n,) bool."""
        return Done(
            self.indices[rows],
            self.inside[rows],
            self.answer[rows],
            self.distance[rows],
            {norm: size[rows] for norm, size in self.sizes.items()},
            self.cost[rows],
        )


@attrs.define(eq=False)
class Progress:
    """What is done of all parts of a stage's attack, in memory and in its folder.

    Args:
        folder: of the stage; None keeps nothing.
        rank: of this process.
    """

    folder: StageFolder | None = None
    rank: int = 0
    _files: ProgressFiles = attrs.field(init=False)
    _parts: dict[str, Done] = attrs.field(factory=dict, init=False)
    _own: dict[str, Done] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._files = ProgressFiles(self.folder, self.rank)
        for path, own, state in self._files.read():
            for part, plain in state.items():
                try:
                    done = Done(**plain)
                except TypeError as fault:
                    raise RunDirectoryError(damaged(path, "it does not hold what was done of an attack")) from fault
                self.of(part).add(done)
                if own:
                    self._own.setdefault(part, Done()).add(done)

    def of(self, part: str) -> Done:
        """What was done of a part before this process began, by any process, and by this one since."""
        return self._parts.setdefault(part, Done())

    def note(self, part: str, done: Done) -> None:
        """A batch is done; written now and then."""
        self.of(part).add(done)
        self._own.setdefault(part, Done()).add(done)
        if self._files.due:
            self.write()

    def write(self) -> None:
        """Write what this process has done."""
        self._files.write({part: attrs.asdict(done) for part, done in self._own.items()})

    def forget(self) -> None:
        """Remove the files: the result is written."""
        self._files.forget()
