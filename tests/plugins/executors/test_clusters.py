"""Real engines on this machine, their workers pre-empted and killed: the table of a plain run, to the digit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from robustnas.cli import main
from robustnas.contracts import Resources
from robustnas.errors import InputError
from robustnas.run import submitted
from robustnas_plugins.executors.slurm import Slurm
from support import loopback_slurm
from support.finished_run import table, without_seconds

pytestmark = pytest.mark.processes


def told_at_work(run: Path) -> list[dict[str, Any]]:
    """What the processes tell that are at a stage of a run, but for this one."""
    found = []
    for file in (run / ".work").glob("*.json"):
        try:
            told = json.loads(file.read_text())
        except (OSError, ValueError):  # it has just gone
            continue
        found += [told] if told["process"] != os.getpid() else []
    return found


def at_work(run: Path) -> list[int]:
    """The numbers of these processes."""
    return [told["process"] for told in told_at_work(run)]


def without(folder: Path, *stages: str) -> Path:
    """The folder of a finished run, from which some stages are taken away."""
    for stage in stages:
        for found in (folder / "run").glob(stage):
            shutil.rmtree(found)
    return folder


@contextmanager
def meanwhile(do: Callable[[], None], seconds: float) -> Iterator[None]:
    """Inside, something is done every few seconds."""
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run(folder: Path, executor: str, *more: str) -> int:
    """Go on with the run of a folder, its stages done by an executor, with one thread as in every test."""
    command = ["run", str(folder / "r.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]
    sets = [word for override in ("resources={every: {cpus: 1}}", *more) for word in ("--set", override)]
    return main([*command, "--executor", executor, *sets])


def test_submitit_whose_jobs_are_pre_empted(finished_run: Path, finished_copy: Path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'robustnas[slurm]'")
    without(finished_copy, "search/jac-*", "train/jac-*")
    told: list[int] = []

    def pre_empt() -> None:
        searches = list((finished_copy / "run" / "search").glob("jac*/history.jsonl"))
        for process in at_work(finished_copy / "run") if searches and not told else ():
            told.append(process)
            os.kill(process, signal.SIGUSR2)  # as Slurm does

    with meanwhile(pre_empt, 0.05):
        assert run(finished_copy, "{name: slurm, cluster: local, poll: 0.2}") == 0
    assert without_seconds(table(finished_copy)) == without_seconds(table(finished_run))
    assert told
    logs = "".join(file.read_text() for file in (finished_copy / "run" / "cluster" / "slurm").rglob("*.out"))
    logs += "".join(file.read_text() for file in (finished_copy / "run" / "cluster" / "slurm").rglob("*.err"))
    assert "Requeued job" in logs, "and it went on"


def test_slurm_whose_jobs_are_queued_again(finished_run: Path, finished_copy: Path, monkeypatch: pytest.MonkeyPatch):
    """Debian's slurmctld and slurmd; a job that is queued again is killed first, as when its node is lost."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'robustnas[slurm]'")
    if (reason := loopback_slurm.reason_without()) is not None:
        pytest.skip(reason)
    without(finished_copy, "train/*", "clean/*")
    again: list[str] = []

    def queue_again() -> None:
        names = [one for told in told_at_work(finished_copy / "run") for one in told["job"].values()]
        if names and len(again) < 2:
            again.append(names[0])
            subprocess.run(["scontrol", "requeue", names[0]], check=False)

    kept: list[submitted.Submitted] = []
    monkeypatch.setattr(submitted.Submitted, "keep", lambda self, directory: kept.append(self))
    with loopback_slurm.cluster(finished_copy / "slurm"):
        with pytest.raises(InputError, match=r"the cluster refuses --partition=gpus .*[Ii]nvalid partition"):
            Slurm(partition="gpus").check([Resources()])
        with meanwhile(queue_again, 8.0):
            assert run(finished_copy, "{name: slurm, poll: 1}", "resources.every.hours=0.5") == 0
    assert without_seconds(table(finished_copy)) == without_seconds(table(finished_run))
    assert again
    names = kept[-1].jobs.values()
    assert len(names) == 5
    arrays = {name.partition("_")[0] for name in names}
    assert len(arrays) == 3, "the look at a machine, and the stages of a kind are an array"


def test_slurm_whose_jobs_have_two_nodes(finished_copy: Path):
    """Two played nodes of Debian's Slurm: the process that Slurm begins on each meets the other's."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'robustnas[slurm]'")
    if (reason := loopback_slurm.reason_without()) is not None:
        pytest.skip(reason)
    without(finished_copy, "train/jac-*")
    with loopback_slurm.cluster(finished_copy / "slurm", nodes=2):
        assert run(finished_copy, "{name: slurm, poll: 1}", "resources.train={nodes: 2, hours: 0.5}") == 0
    (made,) = (finished_copy / "run" / "train").glob("jac-*/result.json")
    assert json.loads(made.read_text())["provenance"]["processes"] == 2


def test_ray_whose_workers_are_killed(finished_run: Path, finished_copy: Path):
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'robustnas[ray]'")
    without(finished_copy, "search/jac-*", "train/*", "clean/*", "attack/*")
    draw, killed = random.Random(0), []

    def kill() -> None:
        there = [process for process in at_work(finished_copy / "run") if process not in killed]
        if len(killed) < 3 and there:
            with suppress(ProcessLookupError):  # it has just gone by itself
                os.kill(process := draw.choice(there), signal.SIGKILL)
                killed.append(process)

    began = time.monotonic()
    with meanwhile(kill, 4.0):
        assert run(finished_copy, "ray") == 0
    ray.shutdown()
    assert without_seconds(table(finished_copy)) == without_seconds(table(finished_run))
    assert killed, f"nobody was at work in {time.monotonic() - began:.0f} s"
