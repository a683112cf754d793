"""Results that another machine has written and that this one may not see yet: a shared file system may hide new names.

NFS remembers for up to a minute that a file was not there; a list of its folder, which is asked of the server, makes it
look again.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from robustnas.errors import RunDirectoryError
from robustnas.plan import Plan, Stage
from robustnas.run import stage_log
from robustnas.run.directory import RunDirectory
from robustnas.runtime import interrupt

CACHED = 60.0
"""Seconds for which a result may be hidden."""

LOOK = 1.0
"""Seconds between two looks."""


def appears(directory: RunDirectory, stage: Stage, seconds: float | None = None) -> bool:
    """Whether a stage that ended has a result, which is looked for until then, or until the process is to stop.

    Args:
        seconds: how long, at most; None: `CACHED`.
    """
    limit = time.monotonic() + (CACHED if seconds is None else seconds)
    while not directory.done(stage):
        if time.monotonic() >= limit or interrupt.asked():
            return False
        time.sleep(LOOK)
        _listed(directory, stage)
    return True


def absent(plan: Plan, directory: RunDirectory, stage: Stage) -> Stage | None:
    """The first stage that one needs and that is not done; None where all are.

    Results are waited for, but not where it is known that the stage, or one that it needs itself, has failed.
    """
    for key in stage.needs:
        needed = plan.by_key[key]
        if not appears(directory, needed, 0.0 if _failed(plan, directory, needed) else None):
            return needed
    return None


def _failed(plan: Plan, directory: RunDirectory, stage: Stage) -> bool:
    """Whether a stage has failed, or has to be left out for one that has."""
    folder = directory.folder(stage)
    if folder.done:
        return False
    return stage_log.why_failed(folder) is not None or any(
        _failed(plan, directory, plan.by_key[key]) for key in stage.needs
    )


def _listed(directory: RunDirectory, stage: Stage) -> None:
    """Have the folders listed in which the result would be."""
    with suppress(OSError, RunDirectoryError):
        folder = directory.folder(stage).path
        for one in (folder.parent, folder):
            os.listdir(one)
