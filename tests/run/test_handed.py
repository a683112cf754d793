"""The stages of a run in an executor's hands: what it is handed, what the run learns, and what a job refuses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen

from robustnas import pipeline
from robustnas.cli import main
from robustnas.contracts import Resources, Work
from robustnas.errors import DeviceError, InputError, RunDirectoryError, RunError
from robustnas.plan import KINDS
from robustnas.recipe import resources as section
from robustnas.recipe.load import load
from robustnas.recipe.schema import Needs
from robustnas.registry import EXECUTORS, REGISTRIES
from robustnas.run import handed, late, remote, stage_log, submitted
from robustnas.run.directory import RunDirectory
from robustnas.run.presence import Presence
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder, digests
from support import loopback_slurm
from support.fake_package import install
from support.finished_run import table, without_seconds
from support.tiny_plan import RECIPE, plan

FAKES = """
import pickle
from attrs import frozen, field
from robustnas.errors import InputError, RobustnasError
from robustnas.runtime import interrupt

HANDED = []

@frozen
class InTurn:
    stop: int = -1
    silent: bool = False
    refuses: bool = False
    had: tuple = ()
    twice: bool = False

    def queued(self, names):
        return [name for name in names if name in self.had]

    def check(self, resources):
        HANDED[:] = resources
        if self.refuses:
            raise InputError("in-turn: no such partition")

    def run(self, work):
        (work.folder / "mine").touch()
        lost = set()
        for place, job in enumerate(pickle.loads(pickle.dumps(list(work.jobs)))):
            HANDED.append(job)
            if place == self.stop:
                interrupt.request("a test")
            if work.asked() or self.silent:
                return
            if lost.intersection(job.needs):
                lost.add(job.name)
                if self.twice:
                    work.ended(job.name, "the job ended without a result")
                continue
            work.submitted({job.name: f"7_{place}"})
            try:
                job.call()
            except RobustnasError as fault:
                lost.add(job.name)
                work.ended(job.name, str(fault))
            else:
                work.ended(job.name)
"""


@pytest.fixture(autouse=True)
def no_strangers_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks packages that other tests have used would be refused."""
    for registry in REGISTRIES.values():
        for cls in [cls for cls, entry in registry.loaded.items() if entry.stranger is not None]:
            monkeypatch.delitem(registry.loaded, cls)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    install(
        tmp_path / "site",
        "handed-fakes",
        {"robustnas.executors": {"in-turn": "handed_fakes:InTurn"}},
        handed_fakes=FAKES,
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    EXECUTORS.load("in-turn")
    import handed_fakes  # type: ignore[import-not-found]

    return handed_fakes


def undone(run: Path, *kinds: str) -> None:
    """Take results of method jac away."""
    for kind in kinds:
        for folder in (run / kind).glob("jac*"):
            digests.forget([folder / "result.json"])


def test_an_executor_does_what_is_left_and_the_table_is_the_same(
    fakes: Any, finished_copy: Path, capsys: pytest.CaptureFixture[str]
):
    run, before = finished_copy / "run", table(finished_copy)
    undone(run, "clean", "certify", "attack")
    command = ["run", str(finished_copy / "r.yaml"), "--out", str(run), "--device", "cpu"]
    assert main([*command, "--executor", "in-turn", "--set", "resources={every: {cpus: 1}}"]) == 0
    assert without_seconds(table(finished_copy)) == without_seconds(before)
    (asked, short, looks, *jobs) = fakes.HANDED
    assert (asked, short) == (Resources(gpus=0, cpus=1), Resources(gpus=0, cpus=1, hours=handed.CHECK_HOURS))
    assert (looks.kind, looks.resources, looks.needs) == ("check", short, ())
    assert [job.title for job in jobs] == [
        f"jac seed 0 {what}" for what in ("clean", "certify", "attack fgsm", "attack pgd-3")
    ]
    assert jobs[0].needs == (looks.name,), "what is done is not waited for, but for a look at a machine"
    assert looks.name not in jobs[3].needs, "which those before it waited for"
    assert set(jobs[3].needs) | set(jobs[3].after) == {job.name for job in jobs[:3]}
    (made,) = {json.loads(file.read_text())["provenance"]["run"] for file in (run / "clean").glob("jac*/result.json")}
    entries = json.loads((run / "provenance.json").read_text())
    assert made == entries[-1]["started"], "the entry of the command, not of the job"
    assert list(submitted.kept(run)) == [], "all its jobs have ended"
    assert (run / "cluster" / "in-turn" / entries[-1]["by"] / "mine").exists()
    assert "done by another process" in capsys.readouterr().err


def test_what_fails_in_a_job_is_told_and_what_needs_it_is_left_out(
    fakes: Any, finished_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from robustnas.run import stages

    def fails(task: Any) -> None:
        raise RunError("the loss is not finite")

    run = finished_copy / "run"
    undone(run, "train", "clean")
    monkeypatch.setitem(stages.DO, "train", fails)
    loaded = load(finished_copy / "r.yaml")
    for twice in (False, True):  # a scheduler's jobs for what is left out end too
        assert pipeline.run(loaded, out=run, device="cpu", executor=fakes.InTurn(twice=twice)) == 1
        said = capsys.readouterr().err
        assert "failed: jac seed 0 train: the loss is not finite" in said
        assert "left out: jac seed 0 clean, which needs a stage that failed" in said
        assert "failed: jac seed 0 clean" not in said
    folder = StageFolder(next((run / "train").glob("jac*")))
    assert stage_log.why_failed(folder) == "the loss is not finite"


def test_an_executor_that_refuses_stops_or_says_nothing(fakes: Any, finished_copy: Path, tmp_path: Path):
    run, loaded = finished_copy / "run", load(finished_copy / "r.yaml")
    undone(run, "clean", "probe")
    with pytest.raises(InputError, match="no such partition"):
        pipeline.run(loaded, out=tmp_path / "new", device="cpu", quiet=True, executor=fakes.InTurn(refuses=True))
    assert not (tmp_path / "new").exists(), "before anything is written"
    with pytest.raises(RunError, match="executor in-turn returned and did not tell what became of jac seed 0 clean"):
        pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(silent=True))
    with pytest.raises(interrupt.Interrupted):
        pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(stop=2))
    (*_, last) = submitted.kept(run)
    entries = json.loads((run / "provenance.json").read_text())
    assert (last.executor, last.command) == ("in-turn", entries[-1]["by"])
    assert last.jobs == {job.name: f"7_{place}" for place, job in enumerate(fakes.HANDED[2:4])}
    assert submitted.stopped(run, last.command), "no job of it begins that the scheduler's signals do not reach"
    assert any((run / "clean").glob("jac*/result.json"))
    assert not any((run / "probe").glob("jac*/result.json"))
    with pytest.raises(InputError, match="one of the two would do"):
        pipeline.run(loaded, out=run, device="cpu", jobs=2, executor=fakes.InTurn())
    several = load(finished_copy / "r.yaml", ["resources={every: {nodes: 2}, search: {nodes: 1}}"])
    with pytest.raises(
        InputError, match=r"a train asks for 2 nodes, and executor in-turn .* resources.train.nodes=1, or"
    ):
        pipeline.run(several, out=tmp_path / "new", device="cpu", quiet=True, executor=fakes.InTurn())
    assert not (tmp_path / "new").exists()


def test_a_stage_that_the_scheduler_still_has_is_not_handed_to_it_again(fakes: Any, finished_copy: Path):
    run, loaded = finished_copy / "run", load(finished_copy / "r.yaml")
    undone(run, "clean", "probe")
    clean, probe = (digests.key_of(next((run / kind).glob("jac*"))) for kind in ("clean", "probe"))
    with pytest.raises(RunError):
        pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(silent=True))
    submitted.Submitted("another", "slurm", {clean: "9"}).keep(run)
    submitted.Submitted("before", "in-turn", {clean: "12", probe: "13"}).keep(run)
    with pytest.raises(RunDirectoryError, match=r"still has 1 jobs of an earlier command .* \(13\); wait .*cancel"):
        pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(had=("9", "13")))
    assert {one.command for one in submitted.kept(run)} == {"another", "before"}
    submitted.stop(run, "before")
    submitted.stop(run, "of-no-names")
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(had=("9",))) == 0
    assert {one.command for one in submitted.kept(run)} == {"another"}, "of another scheduler nothing is known"
    assert submitted.stopped_commands(run) == []


def test_names_that_vanish_while_they_are_read_are_none(tmp_path: Path):
    for command in ("a", "b"):
        submitted.Submitted(command, "slurm", {"x": "9"}).keep(tmp_path)
    found = submitted.kept(tmp_path)
    assert next(found).command == "a"
    submitted.forget(tmp_path, "b")
    submitted.forget(tmp_path, "b")
    assert list(found) == []
    (tmp_path / "cluster" / "jobs-c.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"jobs-c\.json"):
        list(submitted.kept(tmp_path))


def test_a_command_that_is_at_work_is_not_forgotten(fakes: Any, finished_copy: Path):
    run, loaded = finished_copy / "run", load(finished_copy / "r.yaml")
    undone(run, "clean")
    with Presence(run, quiet=True) as other:
        submitted.Submitted(other.peer.name, "in-turn", {"x": "9"}).keep(run)
        submitted.stop(run, other.peer.name)
        assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 0
        assert [one.command for one in submitted.kept(run)] == submitted.stopped_commands(run) == [other.peer.name]


def test_a_machine_that_is_not_like_this_one_is_told_once_and_nothing_begins(
    fakes: Any, finished_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run, loaded = finished_copy / "run", load(finished_copy / "r.yaml")
    undone(run, "clean", "probe")
    monkeypatch.setattr(handed, "versions", lambda: {"torch": "1.0"})
    for twice in (False, True):
        with pytest.raises(
            InputError, match=r"^executor in-turn: \S+ has torch \S+ where .* 1.0: .*; nothing was begun$"
        ):
            pipeline.run(loaded, out=run, device="cpu", executor=fakes.InTurn(twice=twice))
        assert "failed" not in capsys.readouterr().err
        assert [job.kind for job in fakes.HANDED[2:]] == ["check", "clean"], "those after it are not even looked at"
        assert not any((run / "clean").glob("jac*/result.json"))
    monkeypatch.setattr(handed, "versions", remote.versions)
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 0
    undone(run, "clean")
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 0
    assert [job.kind for job in fakes.HANDED[2:]] == ["clean"], "one alone says the same itself"


def test_a_gpu_that_torch_does_not_see_is_told_before_anything_begins(call: remote.Remote):
    remote.Check(call)()
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"torch sees no GPU on .*, or --device cpu would do"):
            remote.Check(evolve(call, device="cuda"))()
    with pytest.raises(RunError, match="does not see the run directory /nowhere"):
        remote.Check(evolve(call, directory="/nowhere"))()
    every = [Resources(4, 8, 32.0, 24.0, nodes=2), Resources(0, 2, None, 1.0), Resources(1, 4, 16.0)]
    assert handed.least(every) == Resources(1, 2, 16.0, handed.CHECK_HOURS)
    assert handed.least(every[1:2]) == Resources(0, 2, None, handed.CHECK_HOURS)


def test_a_result_that_a_file_system_hides_is_waited_for(
    fakes: Any, finished_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    run, loaded = finished_copy / "run", load(finished_copy / "r.yaml")
    undone(run, "clean")
    looks: list[int] = []

    def hides(count: int) -> None:
        looks.clear()
        monkeypatch.setattr(RunDirectory, "done", lambda self, stage: looks.append(1) or len(looks) > count)

    def fails(self: remote.Remote) -> None:
        raise RunError("it diverged")

    monkeypatch.setattr(late, "LOOK", 0.0)
    monkeypatch.setattr(remote.Remote, "__call__", lambda self: None)
    hides(3)
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 0
    assert len(looks) == 4
    monkeypatch.setattr(late, "CACHED", 0.05)
    hides(1_000_000)
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 1, "it never comes"
    assert len(looks) > 1
    monkeypatch.setattr(remote.Remote, "__call__", fails)
    hides(1_000_000)
    assert pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn()) == 1
    assert len(looks) == 1, "what failed is not waited for"


@pytest.fixture
def call(tmp_path: Path) -> remote.Remote:
    return called(tmp_path)


def called(tmp_path: Path, *overrides: str) -> remote.Remote:
    """The job of the second stage of a tiny plan, its recipe's keys overridden."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    made, directory = plan(tmp_path / "r.yaml", *overrides), RunDirectory(tmp_path / "run")
    key = made.until(None)[1].key
    packed = remote.packed(directory, made)
    return remote.Remote(str(directory.path), packed, key, "cpu", 1, 1, "x", "", remote.versions())


def test_a_job_refuses_a_machine_that_is_not_like_this_one(call: remote.Remote, tmp_path: Path):
    with pytest.raises(RunError, match="does not see the run directory /nowhere; --out DIR on a file system"):
        evolve(call, directory="/nowhere")()
    with pytest.raises(RunError, match=r"robustnas \S+ where the run was begun with 0.0.1; torch \S+ where"):
        evolve(call, versions={"robustnas": "0.0.1", "torch": "1.0"})()
    with pytest.raises(RunError, match="no-such-plugin missing where the run was begun with 2"):
        evolve(call, versions={"no-such-plugin": "2"})()
    file = tmp_path / "run" / "cluster" / call.plan[0]
    file.write_bytes(pickle.dumps("another plan"))
    with pytest.raises(RunDirectoryError, match="is not the plan that this job was sent for"):
        call()


def test_a_job_that_needs_what_is_not_done_leaves_itself_out(call: remote.Remote, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(late, "CACHED", 0.0)
    with pytest.raises(
        RunError, match=r"left out: it needs darts seed 0 search, which is not done \(.* sees no /.*json"
    ):
        pickle.loads(pickle.dumps(call))()
    (folder,) = (RunDirectory(Path(call.directory)).folder(stage) for stage in call._plan().until(None)[:1])
    monkeypatch.setattr(late, "CACHED", 100.0)
    stage_log.failed(folder, "the loss is not finite\nand more")
    with pytest.raises(RunError, match=r"it needs darts seed 0 search, which failed: the loss is not finite \("):
        call()


def test_a_job_of_several_nodes_is_told_which_it_is(call: remote.Remote, monkeypatch: pytest.MonkeyPatch):
    several = evolve(call, nodes=3)
    for told in ({}, {"NODE_RANK": "3"}, {"NODE_RANK": "-1"}, {"MASTER_PORT": ""}):
        for name, value in {"NODE_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "20012", **told}.items():
            monkeypatch.setenv(name, value)
        if told:
            with pytest.raises(
                RunError, match=r"a job of 3 nodes was begun on .* without NODE_RANK, MASTER_ADDR, MASTER"
            ):
                several()
        else:
            words = " ".join(several._meeting())
            assert words.startswith("--nnodes 3 --rdzv-backend c10d --rdzv-endpoint n0:20012 ")
            assert "is_host=0," in words
    monkeypatch.setenv("NODE_RANK", "0")
    monkeypatch.setenv("MASTER_PORT", "20012")
    assert "is_host=1," in several._meeting()[-1]


@pytest.mark.processes
def test_two_nodes_compute_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call = called(tmp_path, "dataset={name: digits, train_images: 100}", "search={epochs: 1, batch: 20}")
    (search, *_) = call._plan().until(None)
    folder = RunDirectory(Path(call.directory)).folder(search)
    evolve(call, key=search.key)()
    alone = folder.result()
    shutil.rmtree(folder.path)
    (port,) = loopback_slurm.free_ports(1)
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))()"
    command = [sys.executable, "-c", code, pickle.dumps(evolve(call, key=search.key, nodes=2)).hex()]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with subprocess.Popen(command, env={**os.environ, **meeting, "NODE_RANK": "1"}) as other:
        for name, value in {**meeting, "NODE_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        evolve(call, key=search.key, nodes=2)()
    assert other.returncode == 0
    together = folder.result()
    assert together["provenance"]["processes"] == 2
    assert together["genotype"] == alone["genotype"]
    for name, rows in alone["alpha"].items():
        # of half a batch each, Adam's steps of 1e-4 and more would be others
        torch.testing.assert_close(torch.tensor(together["alpha"][name]), torch.tensor(rows), rtol=0, atol=1e-5)


def test_a_job_of_a_command_that_was_stopped_does_not_begin_nor_come_back(
    call: remote.Remote, monkeypatch: pytest.MonkeyPatch
):
    def stops(self: remote.Remote) -> None:
        submitted.stop(Path(call.directory), "x")
        raise interrupt.Interrupted

    def interrupted(self: remote.Remote) -> None:
        raise interrupt.Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(remote.Remote, "do", interrupted)
        with pytest.raises(interrupt.Interrupted) as raised:
            call()
        assert not isinstance(raised.value, interrupt.Cancelled), "a scheduler that pre-empts it"
        patched.setattr(remote.Remote, "do", stops)
        with pytest.raises(interrupt.Cancelled):
            call()
    with pytest.raises(interrupt.Cancelled):
        call()
    search = evolve(call, key=call._plan().until(None)[0].key)
    with pytest.raises(interrupt.Cancelled):
        search.do()


def test_a_job_reads_a_plan_with_a_plugin_of_a_file(call: remote.Remote, monkeypatch: pytest.MonkeyPatch):
    given: list[tuple[str, str | None]] = []
    monkeypatch.setattr(remote.plugin_file, "register", lambda text, sha256=None: given.append((text, sha256)))
    evolve(call, files={"mine=/there/mine.py:Mine": "ab"})._plan()
    assert given == [("mine=/there/mine.py:Mine", "ab")], "also where the stage is done by processes of this one"


def test_several_processes_of_a_job_are_deaf_to_what_slurm_sends_to_all():
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        code = "import os, signal, sys; os.kill(os.getpid(), signal.SIGUSR2); sys.exit(7)"
        with remote._deaf([sys.executable, "-S", "-E", "-c", code], dict(os.environ)) as launched:
            os.kill(os.getpid(), signal.SIGUSR2)
        assert launched.returncode == 7
        assert heard == [signal.SIGUSR2], "and the process that began them is not"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_several_processes_that_a_signal_stopped_first_were_asked_to_stop(
    call: remote.Remote, monkeypatch: pytest.MonkeyPatch
):
    def ends(command: Any, environment: Any) -> Any:
        launched = subprocess.Popen(["true"])
        launched.wait()
        interrupt.request("Slurm")
        return launched

    monkeypatch.setattr(remote, "_deaf", ends)
    try:
        with pytest.raises(interrupt.Interrupted):
            evolve(call, processes=2)()
    finally:
        interrupt.withdraw()
    monkeypatch.setattr(remote, "_deaf", lambda command, environment: subprocess.Popen(["true"]))
    with pytest.raises(RunError, match="its 2 processes ended with status 0"):
        evolve(call, processes=2)()


def test_the_section_resources(tmp_path: Path):
    assert section.KINDS == KINDS
    (tmp_path / "r.yaml").write_text(RECIPE)
    every = "{every: {cpus: 8, hours: 1/2}, search: {gpus: 4, hours: 8}, choose: {}}"
    needs = load(tmp_path / "r.yaml", [f"resources={every}"]).recipe.resources
    assert needs["search"] == Needs(gpus=4, cpus=8, hours=8.0)
    asked = {kind: handed.resources(needs, kind, "cuda") for kind in ("search", "train", "choose")}
    assert asked["search"] == Resources(4, 8, None, 8.0)
    assert asked["train"] == Resources(1, 8, None, 0.5)
    assert asked["choose"] == Resources(0, 8, None, 0.5)
    assert handed.resources(needs, "train", "cpu").gpus == 0
    assert handed.resources({}, "train", "auto") == Resources(1, 4)
    assert handed.resources(needs, "search", "cpu") == Resources(0, 8, None, 8.0), "whatever the section says"
    together = load(tmp_path / "r.yaml", ["resources={every: {nodes: 2}, train: {nodes: 1}}"]).recipe.resources
    assert handed.resources(together, "search", "cpu") == Resources(0, 4, None, None, nodes=2)
    assert handed.resources(together, "train", "cuda").nodes == 1
    for device in ("cuda:1", "mps"):
        with pytest.raises(InputError, match=f"found --device {device}: a scheduler .* auto, cuda or cpu would do"):
            handed.resources(needs, "search", device)


def test_what_is_handed_is_what_the_contract_says():
    @frozen
    class Reads:
        def run(self, work: Work) -> None: ...

    names = {name for name in vars(Work) if not name.startswith("_")}
    assert names == {"jobs", "folder", "submitted", "ended", "asked", "here"}
    assert all(hasattr(handed.Handed, name) for name in names)
