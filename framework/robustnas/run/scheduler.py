"""Stages in an order that respects what they need; those that are independent side by side if asked.

A stage that fails stops those that need it and nothing else.  Bad input and a full disk stop everything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing.connection import wait

import torch
from attrs import field, frozen

from robustnas.errors import DeviceLostError, DiskFullError, InputError, RobustnasError, RunError
from robustnas.plan import Plan, Stage
from robustnas.run import workers
from robustnas.run.directory import RunDirectory
from robustnas.run.progress import Progress
from robustnas.run.stages import execute
from robustnas.run.task import Task
from robustnas.runtime import interrupt
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.strangers import text_of

POLL_SECONDS = 0.2
"""How often a wait for the workers looks whether the run was asked to stop."""


@frozen
class Outcome:
    """What happened: how many stages were done now, how many before, and what failed."""

    done_now: int
    done_before: int
    failures: list[tuple[Stage, RobustnasError]] = field(factory=list)


def run_all(
    plan: Plan,
    stages: Sequence[Stage],
    directory: RunDirectory,
    devices: Sequence[torch.device],
    progress: Progress,
    processes: Processes = ALONE,
) -> Outcome:
    """Do `stages`, one at a time on each of `devices`, of which several may be the same.

    Raises:
        InputError: a stage found bad input.
        RunError: a stage failed in one of several processes alone, or a worker ended without a word.
        DiskFullError: there is no room to write results.
        DeviceLostError: the device no longer answers.
        Interrupted: the process was asked to stop; what can be resumed has been saved.
    """
    done = processes.broadcast(directory.all_done(stages))
    todo = [stage for stage in stages if stage.key not in done]
    before = len(stages) - len(todo)
    progress.plan(len(stages), before)
    if len(devices) > 1 and len(todo) > 1:
        failures = _side_by_side(plan, todo, directory, devices[: len(todo)], progress)
    else:
        failures = _one_by_one(plan, todo, directory, devices[0], progress, processes)
    return Outcome(len(directory.all_done(todo)), before, failures)


def _one_by_one(
    plan: Plan,
    todo: list[Stage],
    directory: RunDirectory,
    device: torch.device,
    progress: Progress,
    processes: Processes,
) -> list[tuple[Stage, RobustnasError]]:
    failures: list[tuple[Stage, RobustnasError]] = []
    lost: set[str] = set()
    for stage in todo:
        if processes.any(interrupt.asked()):
            raise interrupt.Interrupted
        if lost.intersection(stage.needs):
            lost.add(stage.key)
            progress.skipped(stage)
            continue
        progress.started(stage)
        try:
            execute(Task(plan, stage, directory, device, progress.reporter(stage), processes))
        except RobustnasError as fault:
            if processes.size > 1 and not fault.shared:
                raise  # whether the others failed too cannot be asked: they may wait for this one
            _stop_if_hopeless(fault)
            failures.append((stage, fault))
            lost.add(stage.key)
            progress.failed(stage, text_of(fault))
        else:
            progress.finished(stage)
    return failures


def _side_by_side(
    plan: Plan,
    todo: list[Stage],
    directory: RunDirectory,
    devices: Sequence[torch.device],
    progress: Progress,
) -> list[tuple[Stage, RobustnasError]]:
    failures: list[tuple[Stage, RobustnasError]] = []
    waiting = list(todo)
    unfinished = {stage.key for stage in todo}
    lost: set[str] = set()
    asked: set[int] = set()
    interrupt.check()
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    pool = [workers.start(plan, directory, str(device), threads) for device in devices]
    try:
        while waiting or any(worker.stage for worker in pool):
            for stage in list(waiting):  # in the order of the flow, so that what needs a lost stage is lost in turn
                if not lost.intersection(stage.needs):
                    continue
                waiting.remove(stage)
                unfinished.discard(stage.key)
                lost.add(stage.key)
                progress.skipped(stage)
            if interrupt.asked():
                for worker in pool:
                    if worker.stage is not None and id(worker) not in asked:
                        worker.interrupt()
                        asked.add(id(worker))
                waiting.clear()
            for worker in pool:
                ready = next((s for s in waiting if not unfinished.intersection((*s.needs, *s.after))), None)
                if worker.stage is None and ready is not None:
                    waiting.remove(ready)
                    worker.give(ready)
                    progress.started(ready)
            busy = {worker.pipe: worker for worker in pool if worker.stage is not None}
            for pipe in wait(list(busy), timeout=POLL_SECONDS):
                worker = busy[pipe]  # type: ignore[index]
                working = worker.stage
                assert working is not None
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    if id(worker) in asked:  # it was still starting, and had nothing to save
                        worker.stage = None
                        continue
                    worker.process.join(5)
                    raise RunError(
                        f"the process doing {working.title} ended without a word (exit status "
                        f"{worker.process.exitcode}; out of memory?); fewer --jobs may help. "
                        "Finished stages are intact: run the same command again to go on"
                    ) from None
                if message[0] == "report":
                    _, done, total, unit, figures = message
                    progress.reporter(working)(done, total, unit, **figures)
                    continue
                worker.stage = None
                unfinished.discard(working.key)
                if message[0] == "interrupted":
                    continue
                if message[0] == "done":
                    progress.finished(working)
                    continue
                fault: RobustnasError = message[1]
                _stop_if_hopeless(fault)
                failures.append((working, fault))
                lost.add(working.key)
                progress.failed(working, text_of(fault))
        interrupt.check()
    finally:
        for worker in pool:
            worker.stop()
    return failures


def _stop_if_hopeless(fault: RobustnasError) -> None:
    """Bad input, a full disk and a lost device would stop every other stage as well."""
    if isinstance(fault, InputError | DiskFullError | DeviceLostError):
        raise fault
