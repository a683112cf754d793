"""The promises of an executor: every job is done once what it waits for has ended, and the run hears of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import Factory, define

from robustnas.contracts import Job, Resources
from robustnas.errors import InputError, RobustnasError
from robustnas.runtime.strangers import text_of
from robustnas.testing.marking_job import WHY, MarkingJob
from robustnas.testing.promise import Judge, judged, made


@define
class Tried:
    """The work that the kit hands out, and what it is told.

    Args:
        jobs: each after what it waits for.
        folder: for the executor.
        stop: whether the run is asked to stop.
        ends: why, or None, by the names of jobs whose end was told.
        again: names of jobs whose end was told twice.
    """

    jobs: Sequence[Job]
    folder: Path
    stop: bool = False
    ends: dict[str, str | None] = Factory(dict)
    again: list[str] = Factory(list)

    def submitted(self, names: Mapping[str, str]) -> None:
        """Whatever names a scheduler has."""

    def ended(self, name: str, why: str | None = None) -> None:
        self.again += [name] if name in self.ends else []
        self.ends[name] = why

    def asked(self) -> bool:
        return self.stop

    def here(self) -> None:
        for job in self.jobs:
            if self.stop:
                return
            if any(self.ends.get(name, "left out") for name in job.needs):
                continue
            try:
                job.call()
            except RobustnasError as fault:
                self.ended(job.name, text_of(fault))
            else:
                self.ended(job.name)


def check_executor(plugin: Any) -> tuple[str, ...]:
    """Hold an executor to its contract: it is handed two chains of jobs, one of which fails in the middle.

    Args:
        plugin: the executor, or its class, which is made with default options.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
        InputError: its `check` refuses to run here.
    """
    with judged("executor", plugin) as verdict:
        executor = made(plugin, verdict)
        small = Resources(gpus=0, cpus=1)
        asks = getattr(executor, "check", None)
        if asks is not None:
            with verdict.promised("check returns nothing, and refuses by raising InputError", unless=(InputError,)):
                answer = asks([small])
            verdict.expect(
                answer is None,
                "check returns nothing, and refuses by raising InputError",
                f"it returned {answer!r:.60}",
            )
        with tempfile.TemporaryDirectory() as place, verdict.apart():
            _chains(executor, Path(place), small, verdict)
        with tempfile.TemporaryDirectory() as place, verdict.apart():
            _stopped(executor, Path(place), small, verdict)
    return tuple(verdict.tried)


def _work(place: Path, small: Resources) -> Tried:
    """Search and training of two methods, the first search of which fails, and a stage that comes after all."""
    marks, folder = place / "marks", place / "executor"
    marks.mkdir()
    folder.mkdir()

    def job(name: str, needs: tuple[str, ...] = (), after: tuple[str, ...] = (), fails: bool = False) -> Job:
        return Job(name, f"m seed 0 {name[:-1]}", name[:-1], needs, after, small, MarkingJob(str(marks), name, fails))

    return Tried(
        [
            job("search1", fails=True),
            job("search2"),
            job("train1", ("search1",)),
            job("train2", ("search2",)),
            job("attack2", ("train2",), ("search1",)),
        ],
        folder,
    )


def _chains(executor: Any, place: Path, small: Resources, verdict: Judge) -> None:
    work = _work(place, small)
    with verdict.promised("run takes jobs that wait for each other, and one that fails"):
        executor.run(work)
    marks = place / "marks"
    done = {file.stem for file in marks.glob("*.ended")}
    verdict.expect(
        {"search2", "train2", "attack2"} <= done,
        "every job is done that can be, before run returns",
        f"of {', '.join(job.name for job in work.jobs)} these were done: {', '.join(sorted(done)) or 'none'}",
    )
    began = {file.stem: set(file.read_text(encoding="utf-8").split()) for file in marks.glob("*.began")}
    early = [
        job.name for job in work.jobs if job.name in began and not began[job.name].issuperset(job.needs + job.after)
    ]
    verdict.expect(
        not early, "a job begins when those that it waits for have ended", f"{', '.join(early)} began before that"
    )
    verdict.expect(
        "train1" not in began, "a job does not begin where one that it needs has failed", "it began all the same"
    )
    told = {name: why for name, why in work.ends.items() if name != "train1"}
    good = {"search2", "train2", "attack2"} <= {name for name, why in told.items() if why is None}
    verdict.expect(
        good and WHY in str(told.get("search1")) and not work.again,
        "the end of each job is told once, and why it failed",
        f"told: {told}{f', and again {work.again}' if work.again else ''}",
    )


def _stopped(executor: Any, place: Path, small: Resources, verdict: Judge) -> None:
    work = _work(place, small)
    work.stop = True
    began = time.monotonic()
    with verdict.promised("run returns soon where the run was asked to stop"):
        executor.run(work)
    took = time.monotonic() - began
    verdict.expect(took < 60, "run returns soon where the run was asked to stop", f"after {took:.0f} s")
