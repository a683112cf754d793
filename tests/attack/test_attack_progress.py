"""An attack that is stopped in the middle goes on where it was: the same record, and nothing done twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import foolbox
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustnas.attack import Conditions, Outcomes, evaluate
from robustnas.attack.foolbox_attack import InTurn
from robustnas.attack.progress import Progress
from robustnas.attack.radii import at_radii
from robustnas.data.images import InMemory
from robustnas.errors import RunDirectoryError
from robustnas.runtime import interrupt, progress_files
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks import gradient_steps
from robustnas_plugins.attacks.fab import FABT
from robustnas_plugins.attacks.pgd import PGD
from support.evaluated_digits import columns, prepare, run, some, stage, trained

COUNT = 60
LINF = ThreatModel("linf", 0.12)
RADII = (0.04, 0.12, 0.2)


class Killed(interrupt.Ended):
    """What a test raises where a process would be killed: nothing catches it."""


class Counter(nn.Module):
    """The network, doing something at its n-th call and counting images."""

    def __init__(self, at: int | None = None, act: Callable[[], None] = lambda: None):
        super().__init__()
        self.network = trained()
        self.at, self.act = at, act
        self.calls = self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.images += len(images)
        if self.calls == self.at:
            self.act()
        logits: Tensor = self.network(images)
        return logits


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is written after every batch."""
    monkeypatch.setattr(progress_files, "SECONDS", -1.0)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`stop.ask()` asks the process to stop, as Ctrl-C would; `stop.undo()` forgets it."""
    noted: list[int] = []
    monkeypatch.setattr(interrupt, "_noted", noted)
    return SimpleNamespace(ask=lambda: noted.append(signal.SIGINT), undo=noted.clear)


def kill() -> None:
    raise Killed


def attacks() -> dict[str, Any]:
    """An attack with draws an image, one with draws a batch, and two in turn."""
    ours = PGD(steps=4, step_size=0.05, restarts=2).build(LINF)
    first = PGD(steps=1, step_size=0.02).build(LINF)
    return {
        "draws an image": ours,
        "draws a batch": foolbox.attacks.LinfPGD(steps=4, abs_stepsize=0.05),
        "in turn": InTurn("linf", {"first": first, "second": FABT(steps=2, target_classes=3).build(LINF)}),
    }


def attacked(name: str, network: nn.Module, progress: Progress | None, among: Tensor | None = None) -> Outcomes:
    images, labels = some(COUNT)
    clean = trained()(images).argmax(dim=1)
    conditions = Conditions(batch=13, seed=3, label=name, clean=clean, progress=progress)
    return evaluate(network, images, labels, attacks()[name], LINF, conditions, among=among)


def same(one: Outcomes, other: Outcomes) -> None:
    for name in ("tried", "prediction", "success", "by", "distance", "answer", "evaluations"):
        left, right = getattr(one, name), getattr(other, name)
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right)), name
    for norm, size in one.sizes.items():
        assert torch.equal(size, other.sizes[norm])


@pytest.mark.parametrize("name", attacks())
def test_asked_to_stop_it_saves_and_goes_on(name: str, tmp_path: Path, stop: SimpleNamespace):
    whole = Counter()
    expected = attacked(name, whole, None)
    assert expected.success.any()
    half = Counter(whole.calls // 2, stop.ask)
    with pytest.raises(interrupt.Interrupted):
        attacked(name, half, Progress(StageFolder(tmp_path)))
    stop.undo()
    assert (tmp_path / "progress-0.pt").is_file(), "written although twenty seconds have not passed"
    rest = Counter()
    same(attacked(name, rest, Progress(StageFolder(tmp_path))), expected)
    assert half.images + rest.images == whole.images, "the batch was finished, and nothing is done twice"
    assert 0 < rest.images < whole.images


@pytest.mark.parametrize("name", attacks())
@pytest.mark.usefixtures("often")
def test_killed_it_loses_the_batch_and_nothing_else(name: str, tmp_path: Path):
    whole = Counter()
    expected = attacked(name, whole, None)
    with pytest.raises(Killed):
        attacked(name, Counter(whole.calls * 2 // 3, kill), Progress(StageFolder(tmp_path)))
    rest = Counter()
    same(attacked(name, rest, Progress(StageFolder(tmp_path))), expected)
    assert 0 < rest.images < 0.8 * whole.images


@pytest.mark.usefixtures("often")
def test_killed_at_the_second_radius_the_first_is_not_attacked_again(tmp_path: Path):
    images, labels = some(COUNT)

    def records(network: nn.Module, progress: Progress) -> list[Outcomes]:
        build = lambda threat: PGD(steps=4, step_size=0.08).build(threat)  # noqa: E731
        return at_radii(
            network,
            InMemory(images, labels),
            labels,
            build,
            [ThreatModel("linf", radius) for radius in RADII],
            Conditions(label="pgd", batch=13, clean=trained()(images).argmax(dim=1), progress=progress),
            left=lambda _: torch.ones(COUNT, dtype=torch.bool),
        )

    whole = Counter()
    expected = records(whole, Progress())
    with pytest.raises(Killed):
        records(Counter(whole.calls // 2, kill), Progress(StageFolder(tmp_path)))
    rest = Counter()
    for found, one in zip(records(rest, Progress(StageFolder(tmp_path))), expected, strict=True):
        same(found, one)
    assert rest.images < 0.7 * whole.images
    again = Counter()
    records(again, Progress(StageFolder(tmp_path)))
    assert again.images == 0, "all of it is known"


def test_one_process_goes_on_from_what_two_wrote(tmp_path: Path):
    even = torch.arange(COUNT) % 2 == 0
    for rank, among in enumerate((even, ~even)):
        mine = Progress(StageFolder(tmp_path, writes=rank == 0), rank)
        attacked("draws an image", trained(), mine, among=among)
        mine.write()
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["progress-0.pt", "progress-1.pt"]
    counter, progress = Counter(), Progress(StageFolder(tmp_path))
    same(attacked("draws an image", counter, progress), attacked("draws an image", trained(), None))
    assert counter.images == 0
    progress.write()
    progress.forget()
    assert not list(tmp_path.iterdir())


def test_what_two_processes_did_twice_counts_once(tmp_path: Path):
    for rank, among in enumerate((torch.arange(COUNT) < 40, torch.arange(COUNT) >= 20)):
        # neither sees the other's file, as on a slow disk: a folder of its own, and the file is moved afterwards
        mine = Progress(StageFolder(tmp_path / str(rank)), rank)
        attacked("draws an image", trained(), mine, among=among)
        mine.write()
        (tmp_path / str(rank) / f"progress-{rank}.pt").rename(tmp_path / f"progress-{rank}.pt")
    expected = attacked("draws an image", trained(), None)
    found = attacked("draws an image", trained(), Progress(StageFolder(tmp_path)))
    # an image's cost is its share of its batch's, and these were other batches
    assert found.evaluations == pytest.approx(expected.evaluations, rel=0.1)
    same(attrs.evolve(found, evaluations=expected.evaluations), expected)


def test_rows_that_are_there_stay_as_they_are():
    done, again = (
        Outcomes(
            LINF, index=index, label=index, clean=index, answer=torch.full((3,), answer), cost=torch.ones(3).double()
        )
        for index, answer in ((torch.arange(3), 1), (torch.arange(2, 5), 2))
    )
    both = done.joined(again)
    assert both.index.tolist() == [0, 1, 2, 3, 4]
    assert both.answer.tolist() == [1, 1, 1, 2, 2]
    assert float(both.cost.sum()) == 5


def test_what_an_older_version_had_begun_is_begun_anew(tmp_path: Path):
    StageFolder(tmp_path).save_tensors("progress-0.pt", {"/0.12/": {"indices": torch.arange(3), "cost": torch.ones(3)}})
    assert len(Progress(StageFolder(tmp_path)).of("/0.12/", LINF).index) == 0


@pytest.mark.usefixtures("often")
def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    attacked("draws an image", trained(), Progress())
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_told(tmp_path: Path):
    told = r"(?s)progress-0.pt is damaged.*delete the folder"
    (tmp_path / "progress-0.pt").write_bytes(b"half of")
    with pytest.raises(RunDirectoryError, match=told) as caught:
        Progress(StageFolder(tmp_path))
    assert str(tmp_path) in str(caught.value)
    StageFolder(tmp_path).save_tensors("progress-0.pt", {"part": "of another form"})
    with pytest.raises(RunDirectoryError, match=told):
        Progress(StageFolder(tmp_path))


RECIPE = """\
attacks: [fgsm, {name: pgd, label: pgd, steps: 4, step_size: 0.06}]
evaluate: {images: 60, batch: 9, epsilons: [0.03, 0.15]}
certify: null
"""


def test_a_run_that_is_stopped_in_an_attack_ends_with_the_same_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, RECIPE)
    calls = 0
    perturbed = gradient_steps.GradientSteps.perturbed
    last: list[int] = []

    def counted(self: Any, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if last and calls == last[0]:
            interrupt._noted.append(signal.SIGTERM)
        return perturbed(self, *given)

    monkeypatch.setattr(gradient_steps.GradientSteps, "perturbed", counted)
    assert run(tmp_path, out="whole") == 0
    every, calls = calls, 0
    last.append(every * 3 // 4)
    assert run(tmp_path) == 130
    assert not (stage(tmp_path / "run", "pgd") / "result.json").exists(), "it was stopped in the middle of pgd"
    assert (stage(tmp_path / "run", "pgd") / "progress-0.pt").is_file()
    last.clear()
    assert run(tmp_path) == 0
    assert calls == every, "no batch twice"
    for label in ("fgsm", "pgd"):
        one, other = (columns(tmp_path / out, label) for out in ("whole", "run"))
        assert one.keys() == other.keys()
        for name, array in one.items():
            assert np.array_equal(array, other[name]), name
        assert not list(stage(tmp_path / "run", label).glob("progress*")), "nothing is left of it"
    assert "Traceback" not in capsys.readouterr().err
