"""Two processes that share every batch give what one gives, to rounding, and say clearly what they cannot do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from robustnas.cli import main
from robustnas.runtime.artifacts import forget
from robustnas.runtime.processes import ALONE
from support import places
from support.two_processes import everything

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets."""

Figures = dict[str, dict[str, torch.Tensor]]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in TOLD}
    return {**kept, "PYTHONPATH": str(places.TESTS), "OMP_NUM_THREADS": "1"}


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and everything it said."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Figures, Figures]:
    """Everything `two_processes` computes, in this process and in two."""
    out = tmp_path_factory.mktemp("processes")
    with start(*TWO, str(places.TESTS / "support" / "two_processes.py"), str(out)) as process:
        one = everything(ALONE, out)
        status, said = end(process)
    assert status == 0, said
    return one, torch.load(out / "two.pt", weights_only=True)


@pytest.mark.processes
def test_two_processes_reproduce_one(figures: tuple[Figures, Figures]):
    """Float64 steps of every hypergradient and kind of metric; float32 searches, trainings; evaluation exactly."""
    one, two = figures
    compared = 0
    for name, tensors in one.items():
        assert two[name].keys() == tensors.keys(), name
        for key, expected in tensors.items():
            found = two[name][key]
            compared += 1
            if name == "evaluated":
                assert torch.equal(found, expected), key
                continue
            limit = 1e-12 if expected.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(found, expected, rtol=limit, atol=limit, msg=lambda m: f"{name}, {key}: {m}")  # noqa: B023
    assert compared > 400
    assert sum(name.startswith("search") for name in one) == 4


@pytest.mark.processes
def test_the_halves_matter(figures: tuple[Figures, Figures]):
    """The comparison can fail: batch norm over one half alone gives other figures."""
    from support.shared_batches import layer

    module, images, _ = layer()
    half = module(images[:2])
    assert (half - figures[0]["layer"]["output"][:2]).abs().max() > 0.01


@pytest.mark.processes
def test_processes_tell_each_other(figures: tuple[Figures, Figures]):
    messages = figures[1]["messages"]
    assert bool(messages["told"].all())
    assert len(messages["told"]) == 7
    assert messages["sum"].tolist() == [3.0]
    assert messages["sum64"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert float(messages["average"]) == pytest.approx(0.75)  # (1 * 0 + 3 * 1) / 4


RECIPE = """\
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 4}
threat: {norm: linf, epsilon: 0.05}
search: {epochs: 3, batch: 240, gamma: 0.01}
methods:
  jac: {metric: {name: jacobian, rows: 10}}
train: {epochs: 1, batch: 300, cutout: 0, auxiliary: 0, drop_path: 0, lr: 0.1}
attacks: [{name: pgd, steps: 2, step_size: 0.05}]
evaluate: {images: 60, batch: 16}
certify: {method: ibp, images: 20, batch: 8}
"""


def run(folder: Path, out: str, *options: str) -> list[str]:
    (folder / "r.yaml").write_text(RECIPE)
    return ["-m", "robustnas", "run", str(folder / "r.yaml"), "--out", str(folder / out), "--device", "cpu", *options]


def result(folder: Path, out: str, kind: str) -> Any:
    (found,) = (folder / out / kind).glob("*/result.json")
    return json.loads(found.read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe's run by this process, `one`, and by two, `two`."""
    folder = tmp_path_factory.mktemp("shared")
    with start(*TWO, *run(folder, "two")) as process:
        assert main([*run(folder, "one")[2:], "--quiet"]) == 0
        status, said = end(process)
    assert status == 0, said
    assert said.count("certified %") == 1, "one process alone prints the table"
    return folder


@pytest.mark.processes
def test_a_recipe_under_torchrun_gives_the_same_table(shared: Path):
    # single steps agree to 1e-12; through kinks rounding grows with each epoch, and Adam divides by it
    first = ("--until", "search", "--set", "search.epochs=1")
    with start(*TWO, *run(shared, "two-first", *first)) as process:
        assert main([*run(shared, "one-first", *first)[2:], "--quiet"]) == 0
        status, said = end(process)
    assert status == 0, said
    for runs, exact in (
        (("one-first", "two-first"), {"rtol": 1e-5, "atol": 1e-5}),
        (("one", "two"), {"rtol": 0, "atol": 1e-4}),
    ):
        for table in ("normal", "reduce"):
            one, two = (torch.tensor(result(shared, out, "search")["alpha"][table]) for out in runs)
            torch.testing.assert_close(two, one, **exact)
    for kind in ("clean", "attack", "certify"):
        one, two = (result(shared, out, kind) for out in ("one", "two"))
        assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
        for key in ("labels", "predictions", "success", "certified"):
            assert one.get(key) == two.get(key), (kind, key)


@pytest.mark.processes
def test_a_run_is_gone_on_with_by_as_many_processes_or_not_at_all(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(shared / "two", tmp_path / "two")
    (search,) = (tmp_path / "two" / "search").iterdir()
    forget([search / "result.json"])
    assert main(run(tmp_path, "two")[2:]) == 2
    said = capsys.readouterr().err
    assert "was written by 2 process(es) and here are 1" in said
    assert "--nproc-per-node 2" in said


@pytest.mark.processes
def test_what_processes_cannot_share_is_one_message(tmp_path: Path):
    status, said = end(start(*TWO, *run(tmp_path, "run", "--set", "search.batch=251")))
    assert status != 0
    assert said.count("search.batch 251 cannot be shared equally by 2 processes") == 1
    assert "robustnas: --set search.batch=251: search.batch" in said
    assert "[rank1]: Traceback" not in said, said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--jobs", "2"), "--jobs does stages side by side"),
        (("--device", "cuda:0"), "--device cuda:0: several processes need a device each"),
    ],
)
def test_options_that_are_not_for_processes_that_share_are_refused(
    tmp_path: Path,
    options: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert main([*run(tmp_path, "run")[2:], *options]) == 2
    assert f"robustnas: {told}" in capsys.readouterr().err


@pytest.mark.processes
def test_preempted_together_they_save_and_go_on_as_if_nothing_had_happened(shared: Path, tmp_path: Path):
    """SIGTERM to the launcher, which passes it on: both stop after the same step."""
    search = ("--until", "search")
    process = start(*TWO, *run(tmp_path, "run", *search))
    limit = time.monotonic() + 120
    while not any((tmp_path / "run" / "search").glob("*/history.jsonl")):
        assert process.poll() is None, end(process)
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    end(process)
    (folder,) = (tmp_path / "run" / "search").iterdir()
    assert not (folder / "result.json").exists()
    done = len((folder / "history.jsonl").read_text().splitlines())
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert len(state["records"]) == done < 3
    status, said = end(start(*TWO, *run(tmp_path, "run", *search)))
    assert status == 0, said
    assert result(tmp_path, "run", "search")["alpha"] == result(shared, "two", "search")["alpha"]
