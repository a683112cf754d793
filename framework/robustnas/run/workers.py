"""Runs stages in worker processes, so that independent stages run side by side.

Each worker is started afresh (`spawn`), keeps its imports from stage to stage, and dies with its parent: a thread
waits on a pipe whose other end only the parent holds, and the end of that pipe ends the worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import attrs
import torch

from robustnas.errors import RobustnasError, RunError
from robustnas.plan import Plan, Stage
from robustnas.registry import plugin_file
from robustnas.run.directory import RunDirectory
from robustnas.runtime import interrupt
from robustnas.runtime.strangers import carried, traced

_SPAWN = multiprocessing.get_context("spawn")


@attrs.define(eq=False)
class Worker:
    """One process that does stages, and the pipe to it."""

    process: Any
    pipe: Connection
    lifeline: Connection
    stage: Stage | None = None

    def give(self, stage: Stage) -> None:
        self.stage = stage
        self.pipe.send(stage.key)

    def interrupt(self) -> None:
        """Ask the worker to save its work and stop; it answers with ("interrupted",)."""
        self.process.terminate()

    def stop(self) -> None:
        """End the process at once; its checkpoints are whole."""
        self.process.kill()
        self.process.join(5)
        self.pipe.close()
        self.lifeline.close()


def start(plan: Plan, directory: RunDirectory, device: str, threads: int) -> Worker:
    """Start a worker, which waits for the keys of stages.

    It answers with ("report", ...), ("done",), ("failed", ...) or ("interrupted",).
    """
    ours, theirs = _SPAWN.Pipe()
    lifeline_read, lifeline_write = _SPAWN.Pipe(duplex=False)
    files = {file.text: file.sha256 for file in plugin_file.GIVEN.values()}
    # the classes of a plan may be of these files, so it is unpacked when they are registered
    given = (theirs, lifeline_read, files, pickle.dumps(plan), directory, device, threads)
    process = _SPAWN.Process(target=_serve, args=given, daemon=True)
    # a child inherits that the signal is ignored: while it imports, Ctrl-C must reach the parent alone
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if _in_main_thread() else None
    try:
        process.start()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    theirs.close()
    lifeline_read.close()
    return Worker(process, ours, lifeline_write)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _die_with_parent(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):  # both errors mean that the parent is gone
        lifeline.recv()
    os._exit(1)


def _serve(
    pipe: Connection,
    lifeline: Connection,
    files: Mapping[str, str],
    packed: bytes,
    directory: RunDirectory,
    device: str,
    threads: int,
) -> None:
    """Do one stage after the other until the pipe closes: this is all a worker does."""
    # a daemon for its parent, which ends it and does not wait for it; yet it may start processes that read images
    multiprocessing.current_process().daemon = False
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    plan: Plan | None = None
    from robustnas.run.stages import execute
    from robustnas.run.task import Task

    torch.set_num_threads(threads)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # libraries put their work space on the current device

    def report(done: int, total: int, unit: str, step: tuple[int, int] | None = None, **figures: float) -> None:
        pipe.send(("report", done, total, unit, step, figures))

    with interrupt.listening(quiet=True):
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches the parent too, which then asks the worker to stop
        while True:
            try:
                key = pipe.recv()
            except EOFError:
                return
            try:
                if plan is None:
                    for text, sha256 in files.items():
                        plugin_file.register(text, sha256)
                    plan = pickle.loads(packed)
                execute(Task(plan, plan.by_key[key], directory, torch.device(device), report))
            except RobustnasError as fault:
                pipe.send(("failed", carried(fault)))
            except KeyboardInterrupt as fault:
                if interrupt.asked():
                    pipe.send(("interrupted",))
                    return
                pipe.send(("failed", RunError(traced(fault))))  # nobody asked to stop: a plugin raised it
            else:
                pipe.send(("done",))
