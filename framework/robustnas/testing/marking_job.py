"""The job that the kit hands to executors; processes that do it import nothing heavy."""

from __future__ import annotations

import time
from pathlib import Path

from attrs import frozen

from robustnas.errors import RunError

WHY = "the loss is not finite"


@frozen
class MarkingJob:
    """What a job of the kit does: it writes when it began and when it ended, and what was there then.

    Args:
        folder: where.
        name: the job's.
        fails: whether it raises.
    """

    folder: str
    name: str
    fails: bool = False

    def __call__(self) -> None:
        folder = Path(self.folder)
        there = sorted(file.stem for file in folder.glob("*.ended"))
        (folder / f"{self.name}.began").write_text("\n".join(there), encoding="utf-8")
        time.sleep(0.02)
        (folder / f"{self.name}.ended").touch()
        if self.fails:
            raise RunError(WHY)
