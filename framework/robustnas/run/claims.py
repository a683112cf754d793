"""Which of the stages that may begin this process does, where others are at work in the same run directory.

A stage that another process is at is looked after until that has ended: then it is done, or failed, or this process's.
"""

from __future__ import annotations

import time

from attrs import Factory, define

from robustnas.errors import DeviceError, DeviceLostError, DiskFullError, LeaseLostError, RobustnasError, RunError
from robustnas.plan import Stage
from robustnas.run import stage_log
from robustnas.run.agenda import Agenda
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.progress import Progress
from robustnas.runtime.strangers import text_of

OF_THE_MACHINE = (DeviceError, DeviceLostError, DiskFullError)
"""Faults that say nothing of the stage: another machine may do it."""

LOOK_SECONDS = 2.0
"""Seconds between two looks at the stages that others are at."""


@define(eq=False)
class Claims:
    """Takes stages from an agenda, each with its lease.

    Args:
        leases: None where nobody else can be at work.
    """

    agenda: Agenda
    directory: RunDirectory
    progress: Progress
    leases: Leases | None = None
    _elsewhere: dict[str, Stage] = Factory(dict)
    _told: set[str] = Factory(set)
    _looked: float = 0.0

    @property
    def waiting(self) -> bool:
        """Whether stages are left that others are at."""
        return bool(self._elsewhere)

    def take(self) -> Stage | None:
        """Take the first stage that may begin and that nobody is at; None where there is none, or none yet."""
        self._look()
        while (stage := self.agenda.take()) is not None:
            if self.leases is None:
                return stage
            # most of what others did is seen without a lease
            if self.directory.done(stage):
                self.agenda.found(stage)
            elif not self.leases.take(stage.key):
                self._elsewhere[stage.key] = stage
            elif not (folder := self.directory.folder(stage)).done:
                folder.swept()
                stage_log.begins(folder)
                return stage
            else:
                self.leases.give_back(stage.key)
                self.agenda.found(stage)
        for key, waited in self._elsewhere.items():
            if self.leases is not None and key not in self._told:
                self._told.add(key)
                self.progress.elsewhere(waited, self.leases.told(key))
        return None

    def finished(self, stage: Stage) -> None:
        """Note that a stage that was taken is done."""
        self._give_back(stage)
        self.agenda.finished(stage)

    def failed(self, stage: Stage, fault: RobustnasError) -> None:
        """Note that a stage that was taken failed, or that another process has taken over.

        Where it is this machine that failed, others find the stage left and not failed.

        Raises:
            RobustnasError: as `Agenda.failed`.
        """
        lost = isinstance(fault, LeaseLostError)
        try:
            if self.leases is not None and not lost and not isinstance(fault, OF_THE_MACHINE):
                stage_log.failed(self.directory.folder(stage), text_of(fault))
        except LeaseLostError:
            lost = True
        finally:
            self._give_back(stage)
            if self.leases is not None and lost:
                self.progress.taken_over(stage)
                self._elsewhere[stage.key] = stage
            else:
                self.agenda.failed(stage, fault)

    def stopped(self, stage: Stage) -> None:
        """Note that a stage that was taken was stopped on the way."""
        self._give_back(stage)

    def clear(self) -> None:
        """Let no other stage begin."""
        self._elsewhere.clear()
        self.agenda.clear()

    def _give_back(self, stage: Stage) -> None:
        if self.leases is not None:
            self.leases.give_back(stage.key)

    def _look(self) -> None:
        """Look what became of the stages that others are at."""
        if self.leases is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for stage in list(self._elsewhere.values()):
            if not self.leases.free(stage.key):
                continue
            del self._elsewhere[stage.key]
            folder = self.directory.folder(stage)
            why = None if folder.done else stage_log.why_failed(folder)
            if why is None:  # done, which is seen when it is taken, or left by a process that has ended
                self.agenda.put_back(stage)
            else:
                self.agenda.failed(stage, RunError(f"{why} (in another process)"))
