"""Work on images batch by batch, so that a stage that was killed goes on instead of beginning again.

What is found of a batch is written now and then into a file of the stage's folder, one a process, and read by all of
them: a batch's result does not depend on who found it, so a run may go on with another number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from robustnas import interrupt
from robustnas.artifacts import StageFolder, damaged
from robustnas.errors import RunDirectoryError
from robustnas.run.task import Task

SECONDS = 20.0
"""How often, at most, what is done is written."""

Rows = dict[str, list[Any]]
"""Figures of a batch by name, each with one entry an image; `certified` is a bool."""


def rows_of(task: Task, batches: Sequence[Tensor], compute: Callable[[Tensor], Rows]) -> Rows:
    """What `compute` finds of all batches, in their order; batches that an earlier sitting did are not done again.

    Args:
        batches: places of images (n,), ascending, those of one batch each.
        compute: says nothing to the other processes.

    Raises:
        RobustnasError: `compute` failed in one of the processes; then it fails in all.
        RunDirectoryError: what an earlier sitting wrote is damaged.
        Interrupted: the process was asked to stop; what is done has been written.
    """
    world, count = task.world, sum(len(places) for places in batches)
    kept = _Kept(task.folder.path, world.rank)

    def own() -> dict[int, Rows]:
        done = certified = 0
        found = {}
        try:
            for number in range(world.rank, len(batches), world.size):
                interrupt.check()
                places = batches[number]
                found[number] = rows = kept.found(places) or compute(places)
                kept.note(places, rows)
                done, certified = done + len(places), certified + sum(rows["certified"])
                task.report(min(done * world.size, count), count, "image", certified=certified / done)
        except interrupt.Interrupted:
            kept.write()
            raise
        return found

    merged: dict[int, Rows] = {}
    for some in world.agree(own):
        merged |= some
    names = list(merged[0]) if merged else []
    return {name: [one for number in sorted(merged) for one in merged[number][name]] for name in names}


def forget(task: Task) -> None:
    """Remove what was written on the way: the result is there."""
    if task.world.first:
        for path in _files(task.folder.path):
            path.unlink(missing_ok=True)


@attrs.define(eq=False)
class _Kept:
    """What is done of a stage, in memory and in its folder.

    Args:
        folder: of the stage.
        rank: of this process.
    """

    folder: Path
    rank: int
    _before: dict[str, Rows] = attrs.field(factory=dict, init=False)
    _own: dict[str, Rows] = attrs.field(factory=dict, init=False)
    _written: float = attrs.field(factory=time.monotonic, init=False)

    def __attrs_post_init__(self) -> None:
        for path in _files(self.folder):
            for name, rows in (StageFolder(path.parent).load_tensors(path.name) or {}).items():
                if not isinstance(rows, dict) or "certified" not in rows:
                    raise RunDirectoryError(damaged(path, "it does not hold what was found of each batch"))
                self._before[name] = rows
                if path == self._file():
                    self._own[name] = rows

    def found(self, places: Tensor) -> Rows | None:
        """What an earlier sitting found of a batch; None where none did, as where batches were of another size."""
        return self._before.get(_name(places))

    def note(self, places: Tensor, rows: Rows) -> None:
        """A batch is done; written now and then."""
        self._own[_name(places)] = rows
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write what this process has done."""
        if self._own:
            StageFolder(self.folder).save_tensors(self._file().name, dict(self._own))
            self._written = time.monotonic()

    def _file(self) -> Path:
        return self.folder / f"progress-{self.rank}.pt"


def _name(places: Tensor) -> str:
    """Of a batch: its first and its last image."""
    return f"{int(places[0])}-{int(places[-1])}"


def _files(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("progress-*.pt"))
