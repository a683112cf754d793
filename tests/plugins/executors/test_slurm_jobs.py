"""What becomes of Slurm's jobs: how they end, come back, and are cancelled, played without a Slurm."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import Factory, define, frozen

from robustnas.contracts import Job, Resources
from robustnas.errors import InputError, RunError
from robustnas.runtime import interrupt
from robustnas_plugins.executors import slurm
from robustnas_plugins.executors.slurm import Resumed, Slurm


@define
class Stopped:
    """A stage that is asked to stop by a signal, and does so as stages do."""

    number: int | None
    fault: type[BaseException] = interrupt.Interrupted

    def __call__(self) -> None:
        with interrupt.listening(quiet=True):
            if self.number is not None:
                os.kill(os.getpid(), self.number)
            if interrupt.asked():
                raise self.fault


@define(eq=False)
class Told:
    """The work that is handed out, and what the run is told."""

    jobs: Sequence[Job]
    folder: Path
    names: dict[str, str] = Factory(dict)
    ends: dict[str, str | None] = Factory(dict)

    def submitted(self, names: Mapping[str, str]) -> None:
        self.names.update(names)

    def ended(self, name: str, why: str | None = None) -> None:
        self.ends[name] = why

    def asked(self) -> bool:
        return len(self.ends) == len(self.jobs)

    def here(self) -> None:
        raise AssertionError


@frozen
class Clock:
    """Time that passes when somebody sleeps."""

    now: list[float] = Factory(lambda: [0.0])

    def sleep(self, seconds: float) -> None:
        self.now[0] += seconds

    def monotonic(self) -> float:
        return self.now[0]


@pytest.fixture(autouse=True)
def _nothing_left_asked():
    yield
    interrupt.withdraw()


def work(folder: Path, calls: Sequence[Callable[[], None]], **asked: Any) -> Told:
    return Told(
        [
            Job(f"s{n}", f"m seed {n} search", "search", (), (), Resources(**asked), call)
            for n, call in enumerate(calls)
        ],
        folder,
    )


def command(folder: Path, name: str, does: str) -> None:
    """A command of Slurm's that notes what it was given."""
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/told\n{does}\n')
    file.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder, "sbatch", "echo Submitted batch job 12")
    for name in ("srun", "scancel", "scontrol", "squeue"):
        command(folder, name, "")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@define(eq=False)
class Submits:
    """Stands for an executor of submitit."""

    folder: Path
    cluster: str
    slurm_max_num_timeout: int
    made: list[Any]
    parameters: dict[str, Any] = Factory(dict)
    calls: list[Any] = Factory(list)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit_array(self, calls: Sequence[Any]) -> list[Any]:
        self.made.append(self)
        self.calls = list(calls)
        none = SimpleNamespace(result_pickle=self.folder / "none", stderr="the log")
        return [SimpleNamespace(job_id=f"12_{n}", paths=none) for n in range(len(calls))]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setitem(
        sys.modules,
        "submitit",
        SimpleNamespace(
            AutoExecutor=lambda **options: Submits(made=found, **options),
            helpers=SimpleNamespace(DelayedSubmission=lambda *given: given),
        ),
    )
    return found


def test_submitit_is_given_what_it_can_queue_again(
    made: list[Any], commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    monkeypatch.setattr(slurm, "time", clock)
    told = work(tmp_path, [print, print], cpus=8)
    Slurm(poll=10.0).run(told)
    (array,) = made
    assert [call.checkpoint() for call in array.calls] == [(call,) for call in array.calls]
    assert array.parameters["slurm_srun_args"] == ["--cpus-per-task=8"], "srun does not take it from sbatch any more"
    assert told.names == {"s0": "12_0", "s1": "12_1"}
    assert clock.monotonic() == 70.0, "a file system may hide the result of a job that has gone, for a minute"
    assert "ended without a result" in (told.ends["s0"] or "")


def test_a_result_ends_a_job_at_the_next_look(
    made: list[Any], commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    monkeypatch.setattr(slurm, "time", clock)
    monkeypatch.setattr(slurm, "_why", lambda handle: None)
    command(commands, "squeue", "echo 12_0; echo 12_1")  # accounting may lag behind
    (tmp_path / "none").touch()
    told = work(tmp_path, [print, print])
    Slurm(poll=10.0).run(told)
    assert (told.ends, clock.monotonic()) == ({"s0": None, "s1": None}, 10.0)


def test_a_job_out_of_time_is_queued_again_by_submitit(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'robustnas[slurm]'")
    from submitit.core.utils import DelayedSubmission
    from submitit.slurm.slurm import SlurmJobEnvironment

    monkeypatch.setattr(slurm, "time", Clock())
    folder = tmp_path / "jobs"
    folder.mkdir()
    Slurm(requeues=2).run(work(folder, [Stopped(signal.SIGUSR2), print], hours=1 / 60))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)}
    for name, value in {"SUBMITIT_FOLDER": str(folder), "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    environment = SlurmJobEnvironment()
    try:
        for left in (1, 0):
            delayed = DelayedSubmission.load(environment.paths.submitted_pickle)
            environment._handle_signals(environment.paths, delayed)
            with pytest.raises(SystemExit):
                delayed.result()
            told = (commands / "told").read_text().splitlines()
            assert told.count("scontrol requeue 12_0") == 2 - left
            interrupt.withdraw()
            again = DelayedSubmission.load(environment.paths.submitted_pickle)
            assert (again._timeout_countdown, again.function.call) == (left, Stopped(signal.SIGUSR2))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("call", "state", "comes_back"),
    [
        (Stopped(signal.SIGUSR2), "", True),
        (Stopped(signal.SIGUSR2, interrupt.Cancelled), "", False),
        (Stopped(signal.SIGTERM), "RUNNING", True),
        (Stopped(signal.SIGTERM), "COMPLETING", False),
        (Stopped(signal.SIGTERM, interrupt.Cancelled), "RUNNING", False),
        (Stopped(signal.SIGTERM, KeyboardInterrupt), "RUNNING", False),
    ],
)
def test_a_job_comes_back_that_slurm_and_nobody_else_stopped(
    commands: Path, call: Stopped, state: str, comes_back: bool, monkeypatch: pytest.MonkeyPatch
):
    command(commands, "squeue", f"echo {state}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    back: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: back.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            Resumed(call)()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert bool(back) is comes_back


def test_a_job_of_several_nodes_begins_on_each_and_tells_where_they_meet(
    made: list[Any], commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slurm, "time", Clock())
    Slurm().run(work(tmp_path, [print], nodes=2, gpus=4))
    (array,) = made
    asked = {name: array.parameters[name] for name in ("nodes", "tasks_per_node", "gpus_per_node")}
    assert asked == {"nodes": 2, "tasks_per_node": 1, "gpus_per_node": 4}
    command(commands, "sbatch", "")
    monkeypatch.setattr(slurm, "find_spec", lambda name: True)
    Slurm().check([Resources(nodes=2)])
    assert "--nodes=2 --ntasks-per-node=1" in (commands / "told").read_text()
    with pytest.raises(InputError, match="resources ask for 2 nodes, and this machine is one: nodes: 1, or cluster sl"):
        Slurm(cluster="local").check([Resources(), Resources(nodes=2)])

    command(
        commands,
        "scontrol",
        'case "$2" in hostnames) echo n7; echo n9;; *) echo "NodeName=n7 NodeAddr=10.0.0.7";; esac',
    )
    seen: list[dict[str, str]] = []
    told = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[7,9]", "SLURM_NODEID": "1", "SLURM_JOB_ID": "40012"}
    names = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "")
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    Resumed(lambda: seen.append({name: os.environ[name] for name in names}))()
    assert seen == [{"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "20012"}]
    command(commands, "scontrol", "echo no such list >&2; exit 1")
    with pytest.raises(RunError, match=r"scontrol show hostnames n.*: no such list"):
        Resumed(print)()


def test_of_several_nodes_the_first_that_failed_tells_why(tmp_path: Path):
    def task(number: int, at: int, fault: Exception | None) -> Any:
        result = tmp_path / f"{number}"
        result.touch()
        os.utime(result, ns=(at, at))
        return SimpleNamespace(paths=SimpleNamespace(result_pickle=result), exception=lambda: fault)

    late = task(0, 2000, ValueError("its 2 processes ended with status 1"))
    first = task(1, 1000, ValueError("\nrobustnas.errors.RunError: n9 has torch 1\n-----\nmore"))
    tasks = [late, first, task(2, 500, None)]
    handle = SimpleNamespace(job_id="12", paths=late.paths, num_tasks=3, task=tasks.__getitem__)
    assert slurm._why(handle) == "n9 has torch 1"


def test_a_node_that_is_not_the_first_waits_to_be_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm, "time", clock := Clock())
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        for node, waits in (("0", 0.0), ("1", slurm.ENDS)):
            monkeypatch.setenv("SLURM_NODEID", node)
            with pytest.raises(KeyboardInterrupt):
                Resumed(Stopped(signal.SIGUSR2))()
            assert clock.monotonic() == waits
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_all_that_waits_is_taken_from_the_queue_before_anything_that_runs_is_stopped(commands: Path):
    Slurm().cancel([f"12_{n}" for n in range(501)])
    told = [line.split()[:2] for line in (commands / "told").read_text().splitlines()]
    assert told == [["scancel", how] for how in ("--state=PENDING",) * 2 + ("--signal=TERM",) * 2]


def test_names_of_jobs_are_no_options(commands: Path):
    for name in ("--user=me", "12_3 ", "", "12_", "12\n"):
        with pytest.raises(InputError, match="where the name of a job of Slurm was kept"):
            Slurm().cancel(["12", name])
        with pytest.raises(InputError, match="where the name of a job of Slurm was kept"):
            Slurm().queued(["12", name])
    assert not (commands / "told").exists()


def test_jobs_that_are_still_queued(commands: Path, monkeypatch: pytest.MonkeyPatch):
    command(commands, "squeue", "echo 12_0; echo 14")
    assert Slurm().queued(["12_0", "12_1", "14"]) == ["12_0", "14"]
    command(commands, "squeue", "exit 1")
    with pytest.raises(InputError, match="squeue does not answer"):
        Slurm().queued(["12_0"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="squeue does not answer"):
        Slurm().queued(["12_0"])
    with pytest.raises(InputError, match="scancel, which is not here: a login node would do"):
        Slurm().cancel(["12_0"])
