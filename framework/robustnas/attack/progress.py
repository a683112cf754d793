"""What is done of an attack, image by image, so that a run that was killed goes on instead of beginning again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import attrs
import torch
from torch import Tensor

from robustnas.artifacts import StageFolder, damaged
from robustnas.errors import RunDirectoryError
from robustnas.threat import NORMS

SECONDS = 20.0
"""How often, at most, what is done is written."""


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

    Every process writes a file of its own and reads all: an image's result does not depend on who found it, so a run
    may go on with another number of processes.

    Args:
        folder: of the stage; None keeps nothing.
        rank: of this process.
    """

    folder: StageFolder | None = None
    rank: int = 0
    _parts: dict[str, Done] = attrs.field(factory=dict, init=False)
    _own: dict[str, Done] = attrs.field(factory=dict, init=False)
    _written: float = attrs.field(factory=time.monotonic, init=False)

    def __attrs_post_init__(self) -> None:
        for path in self._files():
            state = StageFolder(path.parent).load_tensors(path.name) or {}
            for part, plain in state.items():
                try:
                    done = Done(**plain)
                except TypeError as fault:
                    raise RunDirectoryError(damaged(path, "it does not hold what was done of an attack")) from fault
                self.of(part).add(done)
                if path == self._file():
                    self._own.setdefault(part, Done()).add(done)

    def of(self, part: str) -> Done:
        """What was done of a part before this process began, by any process, and by this one since."""
        return self._parts.setdefault(part, Done())

    def note(self, part: str, done: Done) -> None:
        """A batch is done; written now and then."""
        self.of(part).add(done)
        self._own.setdefault(part, Done()).add(done)
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write what this process has done."""
        if self.folder is None or not self._own:
            return
        state = {part: attrs.asdict(done) for part, done in self._own.items()}
        attrs.evolve(self.folder, writes=True).save_tensors(self._file().name, state)
        self._written = time.monotonic()

    def forget(self) -> None:
        """Remove the files: the result is written."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder.path / f"progress-{self.rank}.pt"

    def _files(self) -> Iterable[Path]:
        if self.folder is None or not self.folder.path.is_dir():
            return []
        return sorted(self.folder.path.glob("progress-*.pt"))
