"""Runs stages in an order that respects what they need, independent ones side by side where several devices are given.

A stage that fails stops those that need it and nothing else.  Bad input and a full disk stop everything.  Other
processes, here or on other machines, may do stages of the same directory at the same time (`run.claims`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

import torch

from robustnas.errors import RobustnasError, RunError
from robustnas.plan import Plan, Stage
from robustnas.run import workers
from robustnas.run.agenda import Agenda
from robustnas.run.claims import Claims
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.progress import Progress
from robustnas.run.remaining import Remaining
from robustnas.run.stages import execute
from robustnas.run.task import Task
from robustnas.runtime import interrupt
from robustnas.runtime.processes import ALONE, Processes

POLL_SECONDS = 0.2
"""Seconds after which a wait looks whether the run was asked to stop."""


def run_all(
    plan: Plan,
    stages: Sequence[Stage],
    directory: RunDirectory,
    devices: Sequence[torch.device],
    progress: Progress,
    processes: Processes = ALONE,
    row_ended: Callable[[], None] | None = None,
    leases: Leases | None = None,
) -> list[tuple[Stage, RobustnasError]]:
    """Do `stages`, one at a time on each of `devices`, of which several may be the same.

    Args:
        row_ended: is called whenever nothing is left to do of a method and seed.
        leases: of the directory, where others may be at work in it too; of several processes that share each stage the
            first one's count.

    Returns:
        The stages that failed, and why; in the first process also those that failed in somebody else's.

    Raises:
        InputError: a stage found bad input.
        RunError: a stage failed in one of several processes alone, or a worker ended without a word.
        DiskFullError: there is no room to write results.
        DeviceLostError: the device no longer answers.
        Interrupted: the process was asked to stop; what can be resumed has been saved.
    """
    done = processes.broadcast(directory.all_done(stages))
    todo = [stage for stage in stages if stage.key not in done]
    left = Remaining(plan, todo, min(len(devices), max(len(todo), 1)))
    progress.plan(len(stages), len(stages) - len(todo), left)
    agenda = Agenda(todo, progress, row_ended)
    claims = Claims(agenda, directory, progress, leases)
    if len(devices) > 1 and len(todo) > 1:
        _side_by_side(plan, claims, directory, devices[: len(todo)], progress)
        return agenda.failures
    while True:
        taken = claims.take() if processes.first else None
        stage, waiting = processes.broadcast((taken, claims.waiting))
        if (stage is not None or waiting) and processes.any(interrupt.asked()):
            raise interrupt.Interrupted
        if stage is not None:
            progress.started(stage)
            _do(Task(plan, stage, directory, devices[0], progress.reporter(stage), processes), claims)
        elif waiting:
            time.sleep(POLL_SECONDS)
        else:
            return agenda.failures


def _do(task: Task, claims: Claims) -> None:
    """Do one stage here, together with the other processes."""
    try:
        execute(task)
    except RobustnasError as fault:
        if task.processes.size > 1 and not fault.shared:
            raise  # the other processes cannot be asked whether they failed too: they may be waiting for this one
        claims.failed(task.stage, fault)
    else:
        claims.finished(task.stage)


def _side_by_side(
    plan: Plan, claims: Claims, directory: RunDirectory, devices: Sequence[torch.device], progress: Progress
) -> None:
    """Do stages in workers, one a device, until none is left."""
    interrupt.check()
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    pool = [workers.start(plan, directory, str(device), threads) for device in devices]
    stopping = False
    try:
        while True:
            if interrupt.asked() and not stopping:
                stopping = True
                claims.clear()
                for worker in pool:
                    if worker.stage is not None:
                        worker.interrupt()
            for worker in pool:
                if worker.stage is None and (ready := claims.take()) is not None:
                    worker.give(ready)
                    progress.started(ready)
            busy = {worker.pipe: worker for worker in pool if worker.stage is not None}
            if not busy and not claims.waiting:
                break
            for pipe in wait(list(busy), timeout=POLL_SECONDS):
                _heard(busy[pipe], claims, progress, stopping=stopping)  # type: ignore[index]
        interrupt.check()
    finally:
        for worker in pool:
            worker.stop()


def _heard(worker: workers.Worker, claims: Claims, progress: Progress, *, stopping: bool) -> None:
    """Take one message of a worker that has a stage.

    Raises:
        RunError: the worker ended without a message, and was not asked to stop.
    """
    stage = worker.stage
    assert stage is not None
    try:
        what, *content = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        if not stopping:
            worker.process.join(5)
            raise RunError(
                f"the process doing {stage.title} ended without a word (exit status "
                f"{worker.process.exitcode}; out of memory?); fewer --jobs may help. "
                "Finished stages are intact: run the same command again to go on"
            ) from None
        what = "interrupted"  # a worker that is still starting ends without a message, and has nothing to save
    if what == "report":
        done, total, unit, step, figures = content
        progress.reporter(stage)(done, total, unit, step, **figures)
        return
    worker.stage = None
    if what == "done":
        claims.finished(stage)
    elif what == "failed":
        claims.failed(stage, content[0])
    else:
        claims.stopped(stage)
