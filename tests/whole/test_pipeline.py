"""The whole flow through the command line, on the shipped digits: tables, resume, locks, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustnas import pipeline
from robustnas.cli import main
from robustnas.recipe import load
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.presence import Presence
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder, forget
from support.finished_run import RECIPE, results, run, table, without_seconds
from support.imported import imported
from support.places import TESTS


def test_a_run_ends_with_a_table(finished_run: Path):
    rows = table(finished_run)["rows"]
    assert [r["method"] for r in rows] == ["darts", "jac"]
    for r in rows:
        assert r["seeds"] == [0]
        assert set(r["attacks"]) == {"fgsm", "pgd-3"}
        assert r["robust"]["mean"] <= r["clean"]["mean"] <= 1
        assert r["parameters"]["mean"] > 0
        assert r["search_seconds"]["mean"] > 0
        assert set(r["certified_radius"]) == {"linf", "l2", "l1"}
    text = (finished_run / "run" / "table.md").read_text()
    assert "| darts" in text
    assert (finished_run / "run" / "table.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("recipe", ["r.yaml", "run/recipe.yaml"])
def test_running_again_or_as_it_is_stored_does_nothing_and_says_the_same(
    finished_copy: Path, capsys: pytest.CaptureFixture[str], recipe: str
):
    before, rows = results(finished_copy), table(finished_copy)
    made_by = (finished_copy / "run" / "provenance.json").read_text()
    half = next((finished_copy / "run" / "train").glob("darts*")) / ".checkpoint.pt.abc.part"
    half.write_bytes(b"half")
    assert main(["run", str(finished_copy / recipe), "--out", str(finished_copy / "run")]) == 0
    assert results(finished_copy) == before
    assert (finished_copy / "run" / "provenance.json").read_text() == made_by
    assert table(finished_copy) == rows
    printed = capsys.readouterr()
    assert "darts" in printed.out
    assert "14 of 14 stages were done before" in printed.err
    assert not half.exists(), "what a kill left half written is cleared"


def test_an_added_attack_method_and_seed_do_only_what_is_new(finished_copy: Path):
    before = results(finished_copy)
    attacks = "[fgsm, {name: pgd, steps: 3, step_size: 0.01}, {name: pgd, steps: 4, step_size: 0.01}]"
    assert run(finished_copy, "--quiet", "--set", f"attacks={attacks}") == 0
    after = results(finished_copy)
    assert {k: after[k] for k in before} == before
    assert len(after) - len(before) == 2, "one attack for each method"
    assert run(finished_copy, "--quiet", "--set", "seeds=[0, 1]", "--set", "methods={darts: {}}") == 0
    assert len(results(finished_copy)) == len(after) + 7
    assert table(finished_copy)["rows"][0]["clean"]["std"] is not None


@pytest.mark.parametrize(
    ("override", "text"),
    [("dataset=mnist", "dataset"), ("search_space.cells=2", "search_space"), ("threat.epsilon=0.03", "threat")],
)
def test_another_experiment_is_refused(
    finished_copy: Path, capsys: pytest.CaptureFixture[str], override: str, text: str
):
    before = results(finished_copy)
    assert run(finished_copy, "--set", override) == 2
    assert f"{text}: found" in capsys.readouterr().err
    assert results(finished_copy) == before


def test_the_table_is_rebuilt_from_the_directory_alone(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    before = (finished_copy / "run" / "table.json").read_bytes()
    for name in ("table.json", "table.md", "table.csv", "recipe.yaml"):
        (finished_copy / "run" / name).unlink()
    (finished_copy / "r.yaml").unlink()
    assert main(["table", str(finished_copy / "run")]) == 0
    assert (finished_copy / "run" / "table.json").read_bytes() == before
    assert "jac" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["search", "train", "clean", "attack", "certify"])
def test_a_damaged_result_is_named_and_only_that_stage_is_redone(
    finished_copy: Path, capsys: pytest.CaptureFixture[str], kind: str
):
    before, rows = results(finished_copy), table(finished_copy)
    damaged = next((finished_copy / "run" / kind).glob("darts*")) / "result.json"
    damaged.write_text('{"half": ')
    assert run(finished_copy, "--quiet") == 2 or kind == "search"
    if kind == "search":  # nothing that is left to do reads it, but the table does
        assert main(["table", str(finished_copy / "run")]) == 2
    message = capsys.readouterr().err
    assert f"{damaged} is damaged" in message
    assert f"delete the folder {damaged.parent}" in message
    shutil.rmtree(damaged.parent)
    assert run(finished_copy, "--quiet") == 0
    after = results(finished_copy)
    assert {k for k in before if after[k] != before[k]} == {str(damaged.relative_to(finished_copy))}
    assert without_seconds(table(finished_copy)) == without_seconds(rows)


def test_until_stops_after_the_stage(tmp_path: Path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert run(tmp_path, "--quiet", "--until", "search", "--set", "methods={darts: {}}") == 0
    assert {Path(k).parts[1] for k in results(tmp_path)} == {"search"}
    assert not (tmp_path / "run" / "table.json").exists()


def start(folder: Path, signal: str, whom: str, *more: str) -> subprocess.Popen[str]:
    """`robustnas run`, to which this signal comes in the first step of the second epoch of a search."""
    command = [sys.executable, str(TESTS / "support" / "struck.py"), signal, whom, "3"]
    command += ["run", str(folder / "r.yaml"), "--out", str(folder / "run"), *more]
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr."""
    _, message = process.communicate(timeout=300)
    return process.returncode, message


def in_the_second_epoch(folder: Path) -> list[Path]:
    """The histories of a run's searches, none of which has ended, after their first epoch."""
    assert not any((folder / "run" / "search").glob("*/result.json"))
    histories = (folder / "run" / "search").glob("*/history.jsonl")
    return [history for history in histories if history.read_text().count("\n") == 1]


@pytest.mark.processes
def test_kill_minus_nine_then_go_on_gives_the_same_table(finished_run: Path, tmp_path: Path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert end(start(tmp_path, "SIGKILL", "self"))[0] == -signal.SIGKILL
    assert in_the_second_epoch(tmp_path)
    assert run(tmp_path, "--quiet") == 0
    assert without_seconds(table(tmp_path)) == without_seconds(table(finished_run))


@pytest.mark.processes
def test_side_by_side_killed_and_then_asked_to_stop_a_run_goes_on_to_the_same_table(finished_run: Path, tmp_path: Path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert end(start(tmp_path, "SIGKILL", "parent", "--jobs", "2", "--quiet"))[0] == -signal.SIGKILL
    assert in_the_second_epoch(tmp_path)
    for search in (tmp_path / "run" / "search").glob("jac-*"):
        shutil.rmtree(search)  # so that one of the two begins anew, and has a third step
    status, message = end(start(tmp_path, "SIGTERM", "parent", "--jobs", "2"))
    assert status == 130, message
    assert "stopping after this step" in message
    assert "Traceback" not in message
    states = [torch.load(file, weights_only=True) for file in (tmp_path / "run" / "search").glob("*/checkpoint.pt")]
    assert 1 in [state["middle"]["steps"] for state in states if state["middle"] is not None]
    assert run(tmp_path, "--quiet") == 0
    assert without_seconds(table(tmp_path)) == without_seconds(table(finished_run))


def test_a_budget_that_is_over_leaves_a_directory_that_goes_on_to_the_same_bits(
    finished_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = table(finished_copy)
    (training,) = (finished_copy / "run" / "train").glob("darts*")
    weights = StageFolder(training).load_tensors("network.pt")
    shutil.rmtree(training)
    loaded = load.load(finished_copy / "r.yaml")

    def stopped(end: float) -> None:
        with pytest.raises(interrupt.OutOfTime, match="13 of 14 stages are done"):
            pipeline.run(loaded, out=finished_copy / "run", device="cpu", end=end)
        assert "jac" in capsys.readouterr().out, "the table of what is done"

    stopped(time.monotonic())
    assert not training.exists(), "it was over before the first step"
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=iter(range(100)).__next__))
    stopped(5)
    state = StageFolder(training).load_tensors("checkpoint.pt")
    assert state is not None
    assert 1 <= state["middle"]["steps"] <= 5, "in the middle of an epoch"
    monkeypatch.undo()
    assert pipeline.run(loaded, out=finished_copy / "run", device="cpu", quiet=True, end=time.monotonic() + 3600) == 0
    assert not interrupt.asked()
    assert without_seconds(table(finished_copy)) == without_seconds(before)
    again = StageFolder(training).load_tensors("network.pt")
    assert weights is not None
    assert again is not None
    assert all(torch.equal(again[name], one) for name, one in weights.items())


@pytest.mark.processes
def test_two_recipes_do_not_share_a_directory_and_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "r.yaml").write_text(RECIPE)
    first = start(tmp_path, "none", "self")
    limit = time.monotonic() + 120
    while not any((tmp_path / "run" / "search").glob("*/history.jsonl")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)
    assert run(tmp_path, "--set", "seeds=[1]") == 2
    assert (
        f"another run (process {first.pid} on {platform.node()}) works in this directory by another recipe"
        in capsys.readouterr().err
    )
    first.send_signal(signal.SIGINT)
    status, message = end(first)
    assert status == 130
    assert "Traceback" not in message
    assert f"robustnas run {tmp_path / 'r.yaml'}" in message


def test_a_ctrl_c_that_an_import_swallows_is_honoured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    original, before = load.load, signal.getsignal(signal.SIGINT)

    def swallows(*given: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return original(*given)

    monkeypatch.setattr(load, "load", swallows)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert run(tmp_path) == 130
    assert f"to go on where it stopped: robustnas run {tmp_path / 'r.yaml'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_no_cuda_here_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert run(tmp_path, "--device", "cuda") == 2
    assert "this machine has cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "table {}",
        "table {} --format latex --sort clean",
        "records {}",
        "draw {}",
        "robustbench {} darts --architecture cells",
    ],
)
def test_what_is_finished_is_shown_without_torch(finished_copy: Path, command: str):
    status, heavy = imported(*command.format(finished_copy / "run").split())
    assert "torch" not in heavy
    assert status == (2 if "robustbench" in command else 0), "no AutoAttack is among its attacks"


def test_a_plan_runs_nothing(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["plan", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert "2 x 2 = 4 steps" in printed
    assert "0 of 14 stages are done" in printed
    assert main(["plan", str(finished_run / "r.yaml"), "--out", str(finished_run / "run")]) == 0
    printed = capsys.readouterr().out
    assert "14 of 14 stages are done" in printed
    assert f"{int(table(finished_run)['rows'][0]['parameters']['mean']):,}" in printed


def test_a_stage_that_diverges_fails_alone(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    diverging = ("--set", "methods.jac.train={lr: 1e30, clip: 1e30}", "--set", "methods.darts.train={epochs: 1}")
    assert run(finished_copy, *diverging) == 1
    message = capsys.readouterr().err
    assert "failed: jac seed 0 train" in message
    rows = {r["method"]: r for r in table(finished_copy)["rows"]}
    assert rows["darts"]["clean"] is not None
    assert rows["jac"]["clean"] is None
    assert rows["jac"]["search_seconds"] is not None


@pytest.mark.processes
def test_a_lost_search_takes_all_that_needs_it_along_and_nothing_else(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Side by side: where a search fails, its train, clean, attacks and certificate are left out; others go on."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert run(tmp_path, "--jobs", "2", "--set", "methods.jac.search={w_lr: 1e30, w_clip: 1e30}") == 1
    message = capfd.readouterr().err
    assert "failed: jac seed 0 search" in message
    assert message.count("left out: jac seed 0") == 6
    assert "Traceback" not in message
    rows, whole = ({r["method"]: r for r in table(folder)["rows"]} for folder in (tmp_path, finished_run))
    assert without_seconds(rows["darts"]) == without_seconds(whole["darts"])
    assert rows["jac"]["search_seconds"] is None


def test_a_training_whose_history_was_lost_goes_on(finished_copy: Path):
    """What a full disk between checkpoint and history leaves behind."""
    rows = table(finished_copy)
    folder = next((finished_copy / "run" / "train").glob("darts*"))
    forget([folder / "result.json", folder / "history.jsonl"])
    assert run(finished_copy, "--quiet") == 0
    assert without_seconds(table(finished_copy)) == without_seconds(rows)
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2


def test_a_plugin_that_raises_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from robustnas_plugins.metrics.jacobian import Jacobian

    def broken(self: Any, network: Any, images: Any, labels: Any, threat: Any) -> Any:
        return [][0]

    monkeypatch.setattr(Jacobian, "score", broken)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert run(tmp_path, "--until", "search") == 1
    message = capsys.readouterr().err
    assert "failed: jac seed 0 search: IndexError: list index out of range (at " in message
    assert "test_pipeline.py:" in message
    assert "Traceback" not in message
    (kept,) = (tmp_path / "run" / "search").glob("jac*/error.txt")
    assert "Traceback" in kept.read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.json", '{"half": '), ("layout.json", '{"half": '), ("layout.json", "[]"), ("layout.json", "{}")],
)
def test_a_damaged_file_of_the_directory_costs_no_stage(
    finished_copy: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
):
    before, file = results(finished_copy), finished_copy / "run" / name
    file.write_text(text)
    assert (run(finished_copy, "--quiet") if name == "run.json" else main(["table", str(file.parent)])) == 2
    message = capsys.readouterr().err
    assert f"{file} is damaged" in message
    assert f"delete the file {file} alone" in message
    if name == "run.json":  # a layout is written again as it is
        file.unlink()
    assert run(finished_copy, "--quiet") == 0
    assert results(finished_copy) == before


def test_a_layout_of_a_newer_version_says_so(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    file = finished_copy / "run" / "layout.json"
    RunDirectory(finished_copy / "run").write_json("layout.json", {**json.loads(file.read_text()), "schema": 99})
    assert main(["table", str(finished_copy / "run")]) == 2
    message = capsys.readouterr().err
    assert f"{file} is of schema 99 and this version of robustnas reads" in message
    assert run(finished_copy, "--quiet") == 0
    assert main(["table", str(finished_copy / "run")]) == 0


def test_a_result_of_another_form_is_damaged(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    keys = {"clean": "predictions", "certify": "radius", "probe": "flags", "search": "search_seconds"}
    for kind, key in keys.items():
        file = next((finished_copy / "run" / kind).glob("darts*")) / "result.json"
        whole, written = json.loads(file.read_text()), StageFolder(file.parent)
        written.finish({**whole, key: "x"})
        assert main(["table", str(finished_copy / "run")]) == 2
        assert f"{file} is damaged: its {key} is 'x'" in capsys.readouterr().err
        written.finish(whole)


def test_a_directory_where_another_recipe_is_at_work_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.yaml").write_text(RECIPE)
    leases = Leases.of(Presence(tmp_path / "run"))
    with leases.begun():
        leases.work_on("another recipe")
        assert run(tmp_path, "--quiet") == 2
    message = capsys.readouterr().err
    assert f"another run (process {os.getpid()} on {platform.node()}) works in this directory" in message
    assert f"stop it (robustnas cancel {tmp_path / 'run'})" in message
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_a_run_that_is_refused_claims_nothing(tmp_path: Path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    only = ("--quiet", "--set", "methods={darts: {}}")
    assert run(tmp_path, *only, "--set", "evaluate.images=100000") == 2
    assert run(tmp_path, *only, "--set", "threat.epsilon=0.5", "--until", "search") == 0
