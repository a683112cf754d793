"""Work on images batch by batch, so that a stage that was killed goes on instead of beginning again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from robustnas.errors import RunDirectoryError
from robustnas.run.task import Task
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import damaged
from robustnas.runtime.progress_files import ProgressFiles

Rows = dict[str, list[Any]]
"""Figures of a batch by name, each with one entry an image; `certified` is a bool."""


def rows_of(task: Task, batches: Sequence[Tensor], compute: Callable[[Tensor], Rows]) -> Rows:
    """Apply `compute` to all batches, and join its rows in order of places; what an earlier sitting did stays.

    Args:
        batches: for each batch the places of its images (n,), ascending; together all places, each once.
        compute: does not communicate with the other processes.

    Raises:
        RobustnasError: `compute` failed in one of the processes; then it fails in all.
        RunDirectoryError: what an earlier sitting wrote is damaged.
        Interrupted: the process was asked to stop; what is done has been written.
    """
    processes, count = task.processes, sum(len(places) for places in batches)
    kept = _Kept(ProgressFiles(task.folder, processes.rank))

    def own() -> dict[int, Rows]:
        done = certified = 0
        rows_by_batch = {}
        try:
            for number in range(processes.rank, len(batches), processes.size):
                interrupt.check()
                places = batches[number]
                rows_by_batch[number] = rows = kept.found(places) or compute(places)
                kept.note(places, rows)
                done, certified = done + len(places), certified + sum(rows["certified"])
                task.report(min(done * processes.size, count), count, "image", certified=certified / done)
        except interrupt.Interrupted:
            kept.write()
            raise
        if processes.size > 1:
            kept.write()  # another process may yet be asked to stop
        return rows_by_batch

    merged: dict[int, Rows] = {}
    for some in processes.run_together(own):
        merged |= some
    order = torch.cat(list(batches)).argsort().tolist() if merged else []
    names = list(merged[0]) if merged else []
    joined = {name: [entry for number in sorted(merged) for entry in merged[number][name]] for name in names}
    return {name: [entries[at] for at in order] for name, entries in joined.items()}


def forget(task: Task) -> None:
    """Remove the files of `rows_of`, which are not needed once the result is written."""
    if task.processes.first:
        ProgressFiles(task.folder, task.processes.rank).forget()


@attrs.define(eq=False)
class _Kept:
    """Keeps what is done of a stage, in memory and in its files."""

    files: ProgressFiles
    _before: dict[str, Rows] = attrs.field(factory=dict, init=False)
    _own: dict[str, Rows] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        for path, own, state in self.files.read():
            for name, rows in state.items():
                if not isinstance(rows, dict) or "certified" not in rows:
                    raise RunDirectoryError(damaged(path, "it does not hold what was found of each batch"))
                self._before[name] = rows
                if own:
                    self._own[name] = rows

    def found(self, places: Tensor) -> Rows | None:
        """Return the rows of a batch from an earlier sitting; None where it did none of just these images."""
        return self._before.get(_name(places))

    def note(self, places: Tensor, rows: Rows) -> None:
        """Note that a batch is done; all of them are written now and then."""
        self._own[_name(places)] = rows
        if self.files.due:
            self.write()

    def write(self) -> None:
        self.files.write(dict(self._own))


def _name(places: Tensor) -> str:
    first, last = int(places[0]), int(places[-1])
    return f"{first}-{last}" if last - first + 1 == len(places) else ",".join(map(str, places.tolist()))
