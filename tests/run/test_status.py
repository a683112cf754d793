"""How a run stands, what a stage told, and whom `cancel` asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.errors import InputError
from robustnas.run import stage_log
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.presence import Presence
from robustnas.run.status import cancel, log, stages, status
from robustnas.run.submitted import Submitted, stopped
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder, digests, write_json
from robustnas_plugins.executors.slurm import Slurm


@pytest.fixture
def run(finished_copy: Path) -> RunDirectory:
    return RunDirectory(finished_copy / "run")


@pytest.fixture
def at_work(run: RunDirectory) -> Iterator[Leases]:
    leases = Leases.of(Presence(run.path, quiet=True))
    with leases.begun():
        yield leases


def undone(run: RunDirectory, kind: str) -> StageFolder:
    folder = StageFolder(next((run.path / kind).glob("jac*")))
    digests.forget([folder.path / "result.json"])
    return folder


def test_a_finished_run(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    found = status(run)
    assert found.counts == {"done": 14}
    assert found.peers == []
    assert [one.title for one in found.stages if one.method == "jac"] == [
        f"jac seed 0 {what}" for what in ("search", "train", "clean", "probe", "certify", "attack fgsm", "attack pgd-3")
    ]
    assert main(["status", str(run.path)]) == 0
    assert capsys.readouterr().out == "14 of 14 stages done\n"


def test_running_failed_and_waiting(run: RunDirectory, at_work: Leases, capsys: pytest.CaptureFixture[str]):
    trained, clean = undone(run, "train"), undone(run, "clean")
    undone(run, "probe")
    stage_log.failed(clean, "the loss is not finite\n  a smaller lr would do")
    key = digests.key_of(trained.path)
    assert at_work.take(key)
    at_work.presence.doing = lambda: (
        [{"key": key, "stage": "jac seed 0 train", "place": "epoch 1/2"}],
        "about 4 min left",
    )
    at_work.presence.tell()
    found = status(run)
    assert found.counts == {"done": 11, "running": 1, "failed": 1, "waiting": 1}
    (running,), (failed,) = found.of("running"), found.of("failed")
    assert (running.what, running.place) == ("train", "epoch 1/2")
    assert failed.why == "the loss is not finite"
    assert main(["status", str(run.path)]) == 1
    told = capsys.readouterr().out
    assert "11 of 14 stages done, 1 running, 1 failed, 1 waiting" in told
    assert f"at work: {at_work.presence.peer.words}: jac seed 0 train, about 4 min left" in told
    assert f"robustnas logs {run.path} jac 0 'clean' tells more" in told
    assert "waiting: 1 probe" in told
    at_work.give_back(key)
    assert status(run).counts["running"] == 0


def test_a_process_elsewhere_is_shown_without_a_verdict(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    (run.path / ".work").mkdir()
    peer = {"machine": "node7", "kernel": "k", "process": 7, "job": {"slurm": "12_3"}, "beat": 3}
    write_json(run.path / ".work" / "other.json", peer)
    assert main(["status", str(run.path)]) == 0
    assert "at work: process 7 on node7, slurm job 12_3: no stage yet; --check tells" in capsys.readouterr().out


def test_cancel_asks_whoever_is_at_work(run: RunDirectory, at_work: Leases, capsys: pytest.CaptureFixture[str]):
    assert [peer.name for peer in cancel(run)] == [at_work.presence.peer.name]
    for _ in range(40):
        if interrupt.signalled():
            break
        at_work.presence._ended.wait(0.1)
    assert interrupt.asked()
    assert main(["cancel", str(run.path)]) == 0
    assert f"asked to stop at its next checkpoint: {at_work.presence.peer.words}" in capsys.readouterr().out


def test_cancel_without_anybody_leaves_nothing(run: RunDirectory, capsys: pytest.CaptureFixture[str]):
    assert main(["cancel", str(run.path)]) == 0
    assert capsys.readouterr().out == "nobody is at work there\n"
    assert not (run.path / ".work").exists()


def test_cancel_ends_the_jobs_of_an_executor_that_are_not_done(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    ended: list[str] = []
    monkeypatch.setattr(Slurm, "cancel", lambda self, names: ended.extend(names))
    waits, done = digests.key_of(undone(run, "probe").path), digests.key_of(next((run.path / "clean").glob("jac*")))
    for command, jobs in {"a": {waits: "12_0", done: "13_0"}, "b": {waits: "14"}, "c": {done: "15"}}.items():
        Submitted(command, "slurm", jobs).keep(run.path)
    assert main(["cancel", str(run.path)]) == 0
    assert ended == ["12_0", "14"], "of every command"
    assert [stopped(run.path, command) for command in "abc"] == [True, True, False]
    assert "asked slurm to end 2 jobs" in capsys.readouterr().out
    (run.path / "cluster" / "jobs-b.json").write_text("[]")
    assert main(["cancel", str(run.path)]) == 2
    assert "it does not hold names of jobs" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".work", "cluster"])
def test_a_folder_that_is_a_link_is_not_followed(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path
):
    (run.path / name).symlink_to(tmp_path)
    assert main(["cancel", str(run.path)]) == 2
    assert f"{name} is a symbolic link to" in capsys.readouterr().err


def test_logs_of_a_stage(run: RunDirectory):
    (text,) = log(run, "jac", "0", "search")
    begun, *_, done = text.splitlines()
    assert begun.endswith(" begins")
    assert " done after " in done
    assert "loss " in done
    folder = StageFolder(next((run.path / "attack").glob("jac-seed0-fgsm-*")))
    stage_log.failed(folder, "it diverged")
    folder.write_text("error.txt", "Traceback of a plugin")
    assert list(log(run, "jac", "0", "fgsm"))[1:] == ["it diverged", "Traceback of a plugin"]
    (folder.path / "log.txt").unlink()
    (folder.path / "log.txt").symlink_to(run.path / "table.md")
    assert next(log(run, "jac", "0", "attack fgsm")) == "it diverged", "no link is followed"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("jaq", "0", "search"), "found no method 'jaq'; did you mean 'jac'?"),
        (("jac", "1", "search"), "found no seed '1' of jac; 0 would do"),
        (("jac", "0", "pgd"), "found no stage 'pgd' of jac seed 0; search, train, clean"),
    ],
)
def test_what_is_not_there_is_named_with_what_would_do(run: RunDirectory, asked: tuple[str, str, str], told: str):
    with pytest.raises(InputError) as caught:
        list(log(run, *asked))
    assert told in str(caught.value)


def test_several_candidates_and_nested_seeds_are_told_apart(run: RunDirectory):
    file = run.path / "layout.json"
    data = json.loads(file.read_text())
    seeds = data["methods"]["jac"]
    tried = [f"search/jac-seed0-{n}-{'0' * 11}{n}" for n in (1, 2)] + [f"candidate/jac-seed0-2-{'1' * 12}"]
    seeds["0.1"] = {**seeds["0"], "search": None, "tried": tried}
    run.write_json("layout.json", data)
    found = [one for one in stages(run) if one.where in tried]
    assert [(one.seed, one.what) for one in found] == [("0", "search 1"), ("0", "search 2"), ("0", "candidate 2")]
