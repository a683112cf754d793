"""Several commands on one run directory, one of them killed: the table of a run that was alone, to the digit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.run import presence
from support.finished_run import RECIPE, table, without_seconds


def begin(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start `robustnas run` of the recipe in a folder."""
    command = [sys.executable, "-m", "robustnas", "run", str(folder / "r.yaml"), "--out", str(folder / "run"), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def waited(process: subprocess.Popen[str], *found: Path) -> None:
    """Wait until there is a file below one of some folders."""
    limit = time.monotonic() + 200
    while not any(any(folder.glob("*/history.jsonl")) for folder in found):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.processes
def test_shards_and_a_whole_run_together_and_one_of_them_killed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "r.yaml").write_text(RECIPE)
    killed = begin(tmp_path, "--shard", "1/2", "--device", "cpu")
    waited(killed, tmp_path / "run" / "search")
    whole = begin(tmp_path, "--device", "cpu")
    time.sleep(0.5)
    killed.kill()
    killed.communicate()
    assert main(["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--quiet", "--shard", "2/2"]) == 0
    _, told = whole.communicate(timeout=300)
    assert whole.returncode == 0, told
    assert without_seconds(table(tmp_path)) == without_seconds(table(finished_run))
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "14 of 14 stages done\n" in capsys.readouterr().out
    assert presence.peers(tmp_path / "run" / presence.FOLDER) == [], "the one that was killed is known to have ended"


@pytest.mark.processes
def test_cancel_stops_a_run_at_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("epochs: 2, batch: 200", "epochs: 500, batch: 200"))
    run = begin(tmp_path, "--device", "cpu")
    waited(run, tmp_path / "run" / "search")
    assert main(["cancel", str(tmp_path / "run")]) == 0
    assert f"asked to stop at its next checkpoint: process {run.pid} on" in capsys.readouterr().out
    _, told = run.communicate(timeout=100)
    assert run.returncode == 130, told
    assert "cancelled by `robustnas cancel`; stopping after this step" in told
    assert "to go on where it stopped: robustnas run" in told
    assert main(["logs", str(tmp_path / "run"), "darts", "0", "search"]) == 0
    assert "begins" in capsys.readouterr().out
