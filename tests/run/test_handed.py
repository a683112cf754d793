"""The stages of a run in an executor's hands: what it is handed, what the run learns, and what a job refuses."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from robustnas import pipeline
from robustnas.cli import main
from robustnas.contracts import Resources, Work
from robustnas.errors import InputError, RunDirectoryError, RunError
from robustnas.plan import KINDS
from robustnas.recipe import resources as section
from robustnas.recipe.load import load
from robustnas.recipe.schema import Needs
from robustnas.registry import EXECUTORS
from robustnas.run import handed, remote, stage_log
from robustnas.run.directory import RunDirectory
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder, digests
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
    (asked, *jobs) = fakes.HANDED
    assert asked == Resources(gpus=0, cpus=1)
    assert [job.title for job in jobs] == [
        f"jac seed 0 {what}" for what in ("clean", "certify", "attack fgsm", "attack pgd-3")
    ]
    assert jobs[0].needs == (), "what is done is not waited for"
    assert set(jobs[3].needs) | set(jobs[3].after) == {job.name for job in jobs[:3]}
    (made,) = {json.loads(file.read_text())["provenance"]["run"] for file in (run / "clean").glob("jac*/result.json")}
    entries = json.loads((run / "provenance.json").read_text())
    assert made == entries[-1]["started"], "the entry of the command, not of the job"
    assert json.loads((run / "cluster" / "jobs.json").read_text()) == {
        "executor": "in-turn",
        "jobs": {job.name: f"7_{place}" for place, job in enumerate(jobs)},
    }
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
    assert pipeline.run(loaded, out=run, device="cpu", executor=fakes.InTurn()) == 1
    said = capsys.readouterr().err
    assert "failed: jac seed 0 train: the loss is not finite" in said
    assert "left out: jac seed 0 clean, which needs a stage that failed" in said
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
        pipeline.run(loaded, out=run, device="cpu", quiet=True, executor=fakes.InTurn(stop=1))
    assert any((run / "clean").glob("jac*/result.json"))
    assert not any((run / "probe").glob("jac*/result.json"))
    with pytest.raises(InputError, match="one of the two would do"):
        pipeline.run(loaded, out=run, device="cpu", jobs=2, executor=fakes.InTurn())


@pytest.fixture
def call(tmp_path: Path) -> remote.Remote:
    (tmp_path / "r.yaml").write_text(RECIPE)
    made, directory = plan(tmp_path / "r.yaml"), RunDirectory(tmp_path / "run")
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


def test_a_job_that_needs_what_is_not_done_leaves_itself_out(call: remote.Remote):
    with pytest.raises(RunError, match="left out: it needs darts seed 0 search, which is not done"):
        pickle.loads(pickle.dumps(call))()


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


def test_what_is_handed_is_what_the_contract_says():
    @frozen
    class Reads:
        def run(self, work: Work) -> None: ...

    names = {name for name in vars(Work) if not name.startswith("_")}
    assert names == {"jobs", "folder", "submitted", "ended", "asked", "here"}
    assert all(hasattr(handed.Handed, name) for name in names)
