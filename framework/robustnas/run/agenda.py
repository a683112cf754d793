"""Keeps the stages that are left to do: which may begin, and which are skipped because one before them failed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence

from robustnas.errors import DeviceLostError, DiskFullError, InputError, RobustnasError
from robustnas.plan import Stage
from robustnas.run.progress import Progress
from robustnas.runtime.strangers import text_of


class Agenda:
    """Stages in the order in which they should be done; each may begin when all that it waits for have ended.

    Args:
        todo: the stages.
        progress: shows what becomes of each stage.
        row_ended: is called whenever nothing is left to do of a method and seed.

    Attributes:
        failures: the stages that failed, and why.
    """

    def __init__(self, todo: Sequence[Stage], progress: Progress, row_ended: Callable[[], None] | None = None):
        self.failures: list[tuple[Stage, RobustnasError]] = []
        self._progress = progress
        self._row_ended = row_ended
        self._left = Counter((stage.method, stage.seed) for stage in todo)
        self._todo = todo
        self._places = {stage.key: place for place, stage in enumerate(todo)}
        self._missing = [{*stage.needs, *stage.after} & self._places.keys() for stage in todo]
        self._ready = [place for place, missing in enumerate(self._missing) if not missing]
        self._waiting: dict[str, list[int]] = {}
        for place, missing in enumerate(self._missing):
            for key in missing:
                self._waiting.setdefault(key, []).append(place)
        self._lost: set[str] = set()

    def take(self) -> Stage | None:
        """Take the first stage that may begin; None where none may, or none yet."""
        while self._ready:
            stage = self._todo[heapq.heappop(self._ready)]
            if not self._lost.intersection(stage.needs):
                return stage
            self._progress.skipped(stage)
            self._lost.add(stage.key)
            self._ended(stage)
        return None

    def put_back(self, stage: Stage) -> None:
        """Let a stage that was taken be taken again."""
        heapq.heappush(self._ready, self._places[stage.key])

    def found(self, stage: Stage) -> None:
        """Note that a stage that was taken is done: another process did it."""
        self._progress.found(stage)
        self._ended(stage)

    def lost(self, stage: Stage) -> bool:
        """Whether a stage failed, or is left out."""
        return stage.key in self._lost

    def clear(self) -> None:
        """Let no other stage begin."""
        self._ready, self._waiting = [], {}

    def finished(self, stage: Stage) -> None:
        """Note that a stage that was taken is done."""
        self._progress.finished(stage)
        self._ended(stage)

    def failed(self, stage: Stage, fault: RobustnasError) -> None:
        """Note that a stage that was taken failed; those that need it are left out.

        Raises:
            RobustnasError: `fault` itself, where it would stop every other stage as well: bad input, a full disk, a
                device that is lost.
        """
        if isinstance(fault, InputError | DiskFullError | DeviceLostError):
            raise fault
        self.failures.append((stage, fault))
        self._progress.failed(stage, text_of(fault))
        self._lost.add(stage.key)
        self._ended(stage)

    def _ended(self, stage: Stage) -> None:
        self._left[stage.method, stage.seed] -= 1
        if self._row_ended is not None and not self._left[stage.method, stage.seed]:
            self._row_ended()
        for place in self._waiting.pop(stage.key, ()):
            self._missing[place].discard(stage.key)
            if not self._missing[place]:
                heapq.heappush(self._ready, place)
