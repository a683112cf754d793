"""Two processes that share every batch give what one gives, to rounding, and say clearly what they cannot do."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustnas.cli import main
from robustnas.runtime.processes import ALONE
from support import places
from support.two_processes import everything

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets."""

RECIPE = """\
dataset: {name: digits, train_images: 100}
search_space: {name: darts-s2, cells: 1, channels: 2, network_cells: 1, network_channels: 4}
threat: {norm: linf, epsilon: 0.05}
search: {epochs: 2, batch: 20, gamma: 0.01}
methods:
  jac: {metric: {name: jacobian, rows: 10}} # all, as two processes draw others
train: {epochs: 1, batch: 50, cutout: 0, auxiliary: 0, drop_path: 0, lr: 0.1}
attacks: [{name: pgd, steps: 2, step_size: 0.05}]
evaluate: {images: 30, batch: 8}
certify: {method: ibp, images: 10, batch: 4}
"""

Figures = dict[str, dict[str, torch.Tensor]]


def run(folder: Path, out: str, *options: str) -> list[str]:
    (folder / "r.yaml").write_text(RECIPE)
    return ["run", str(folder / "r.yaml"), "--out", str(folder / out), "--device", "cpu", *options]


def result(folder: Path, out: str, kind: str) -> Any:
    (found,) = (folder / out / kind).glob("*/result.json")
    return json.loads(found.read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Figures]:
    """A folder in which two processes have done what `two_processes` computes, and after that some commands.

    These are the recipe as `two`, as `preempted` until it is asked to stop, its rest, a batch that they cannot share.
    And what they said, and the figures that this process computes, which has also run the recipe as `one`.
    """
    folder = tmp_path_factory.mktemp("processes")
    commands = (
        shlex.join(run(folder, "two")),
        f"preempted: {shlex.join(run(folder, 'preempted', '--until', 'search'))}",
        shlex.join(["kept:", str(folder / "preempted"), str(folder / "stopped")]),
        shlex.join(run(folder, "preempted", "--until", "search")),
        shlex.join(run(folder, "odd", "--set", "search.batch=21")),
    )
    kept = {name: value for name, value in os.environ.items() if name not in TOLD}
    paths = os.pathsep.join([str(places.TESTS), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [*TWO, str(places.TESTS / "support" / "two_processes.py"), str(folder), *commands],
        env={**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        one = everything(ALONE, folder)
        assert main([*run(folder, "one"), "--quiet"]) == 0
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads((folder / "statuses.json").read_text())["statuses"] == [0, 130, 0, 0, 2], err
    return folder, out + err, one


@pytest.fixture(scope="module")
def figures(both: tuple[Path, str, Figures]) -> tuple[Figures, Figures]:
    """Everything `two_processes` computes, in this process and in two."""
    folder, _, one = both
    return one, torch.load(folder / "two.pt", weights_only=True)


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


@pytest.mark.processes
def test_a_recipe_under_torchrun_gives_the_same_table(both: tuple[Path, str, Figures]):
    folder, said, _ = both
    assert said.count("certified %") == 1, "one process alone prints the table"
    for table in ("normal", "reduce"):
        one, two = (torch.tensor(result(folder, out, "search")["alpha"][table]) for out in ("one", "two"))
        # single steps agree to 1e-12 in float64; Adam divides by their rounding
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    for kind in ("clean", "attack", "certify"):
        one, two = (result(folder, out, kind) for out in ("one", "two"))
        assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
        for key in ("labels", "predictions", "success", "certified"):
            assert one.get(key) == two.get(key), (kind, key)


@pytest.mark.processes
def test_preempted_together_they_save_and_go_on_as_if_nothing_had_happened(both: tuple[Path, str, Figures]):
    """SIGTERM to one of them, in the second step of the second epoch: both stop after that step."""
    folder, *_ = both
    (stopped,) = (folder / "stopped" / "search").iterdir()
    assert not (stopped / "result.json").exists()
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    assert len((stopped / "history.jsonl").read_text().splitlines()) == len(state["records"]) == 1
    assert state["middle"]["steps"] == 2
    assert result(folder, "preempted", "search")["alpha"] == result(folder, "two", "search")["alpha"]


@pytest.mark.processes
def test_a_run_is_gone_on_with_by_as_many_processes_or_not_at_all(
    both: tuple[Path, str, Figures], capsys: pytest.CaptureFixture[str]
):
    folder, *_ = both
    assert main(run(folder, "stopped")) == 2
    said = capsys.readouterr().err
    assert "was written by 2 process(es) and here are 1" in said
    assert "--nproc-per-node 2" in said


@pytest.mark.processes
def test_whole_runs_and_all_that_moves_weights_import_no_compiler(both: tuple[Path, str, Figures]):
    """`robustnas.nn.optimizers`: it would take two seconds of each process."""
    modules = json.loads((both[0] / "statuses.json").read_text())["modules"]
    assert "torch.optim" in modules
    assert "torch._dynamo" not in modules


@pytest.mark.processes
def test_what_processes_cannot_share_is_one_message(both: tuple[Path, str, Figures]):
    _, said, _ = both
    assert said.count("search.batch 21 cannot be shared equally by 2 processes") == 1
    assert "robustnas: --set search.batch=21: search.batch" in said
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
    assert main([*run(tmp_path, "run"), *options]) == 2
    assert f"robustnas: {told}" in capsys.readouterr().err
