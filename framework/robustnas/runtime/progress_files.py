"""What is done of a stage, in a file for each process, so that a run goes on after a kill instead of beginning again.

Every process writes a file of its own and reads all: what is kept does not depend on who found it, so a run may go on
with another number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged, forget

SECONDS = 20.0
"""How often, at most, what is done is written: a kill costs no more work than that."""


@attrs.define(eq=False)
class ProgressFiles:
    """Reads and writes the files of one stage.

    Args:
        folder: of the stage; None keeps nothing.
        rank: of this process.
    """

    folder: StageFolder | None
    rank: int
    _written: float = attrs.field(factory=time.monotonic, init=False)

    def read(self) -> Iterator[tuple[Path, bool, dict[str, Any]]]:
        """Yield each file, whether it is this process's own, and what it holds.

        Raises:
            RunDirectoryError: one is damaged.
        """
        for path in self._files():
            assert self.folder is not None
            state: Any = self.folder.load_tensors(path.name)
            if not isinstance(state, dict):
                raise RunDirectoryError(damaged(path, "it does not hold what was done"))
            yield path, path == self._own(), state

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written > SECONDS

    def write(self, state: dict[str, Any]) -> None:
        """Write what this process has done, if anything."""
        if self.folder is None or not state:
            return
        attrs.evolve(self.folder, writes=True).save_tensors(self._own().name, state)
        self._written = time.monotonic()

    def forget(self) -> None:
        """Remove the files: the result is written."""
        forget(self._files())

    def _own(self) -> Path:
        assert self.folder is not None
        return self.folder.path / f"progress-{self.rank}.pt"

    def _files(self) -> list[Path]:
        return [] if self.folder is None else self.folder.files("progress-*.pt")
