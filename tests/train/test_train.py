"""Training from scratch: it learns, resumes bit for bit, never sees test images, and keeps its promises a regime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import Factory, evolve, frozen

from robustnas import train
from robustnas.data.images import InMemory
from robustnas.errors import InputError, RunDirectoryError, RunError
from robustnas.run.task import TrainingOnly
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import ThreatModel
from robustnas.train.loop import learning_rate
from robustnas.train.regimes.adversarial import Adversarial
from robustnas.train.regimes.certified import Certified
from robustnas.train.regimes.trades import Trades
from robustnas.train.settings import Train
from support.networks import Bars, TinySpace

CPU = torch.device("cpu")
THREAT = ThreatModel("linf", 0.1)
SETTINGS = Train(epochs=4, batch=16, lr=0.1, cutout=2, crop=1, drop_path=0.2, auxiliary=0.4)


def task(**changes: Any) -> train.TrainTask:
    settings = evolve(SETTINGS, **changes)
    return train.TrainTask(Bars(), TinySpace(), {"width": 4}, THREAT, settings, seed=3)


CROPS = {"crop": 0, "random_resized_crop": [0.5, 1.0], "flip": True}

MACHINE = ("waiting", "peak_memory")
"""Figures of the machine, besides seconds."""


def without_seconds(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: without_seconds(v) for k, v in data.items() if not k.endswith("_seconds") and k not in MACHINE}
    return [without_seconds(v) for v in data] if isinstance(data, list) else data


def test_it_learns_and_reports_every_epoch(tmp_path: Path):
    seen = []
    result = train.run(
        task(epochs=8),
        StageFolder(tmp_path),
        CPU,
        lambda done, total, unit, **f: seen.append((done, total, unit)),
    )
    assert seen == [(e, 8, "epoch") for e in range(9)]
    network = train.load(StageFolder(tmp_path), TinySpace(), {"width": 4}, Bars(), task(epochs=8).settings)
    images = Bars().split("test")
    accuracy = (network(images.pixels).argmax(1) == images.labels).float().mean()
    assert accuracy > 0.8
    assert not network.training
    assert result["parameters"] == 4 * 9 + 8 + (4 * 36 * 3 + 3), "the auxiliary head is not counted"


def test_the_figures_of_a_step_have_the_names_of_an_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[object, dict[str, float]]] = []
    monkeypatch.setattr("robustnas.runtime.epochs.REPORT_SECONDS", 0.0)
    train.run(
        task(epochs=1),
        StageFolder(tmp_path),
        CPU,
        lambda done, total, unit, step=None, **figures: seen.append((step, figures)),
    )
    _, *steps, (_, epoch) = seen
    assert len(steps) >= 2
    assert all(step[0] < step[1] and {"loss", "accuracy"} <= figures.keys() <= epoch.keys() for step, figures in steps)


REGIMES = {
    "standard": {},
    "adversarial": {"regime": Adversarial(steps=2)},
    "trades": {"regime": Trades(steps=2), "checkpoint": "best"},
    "certified": {"regime": Certified(warmup_epochs=0.25, ramp_epochs=1.5), "checkpoint": "best"},
    "resized crops": {**CROPS, "colour_jitter": [0.2, 0.2, 0.2, 0.1], "accumulate": 2},
}


def stopped(folder: Path, wanted: train.TrainTask, monkeypatch: pytest.MonkeyPatch, after: int) -> StageFolder:
    """The folder of a training that is asked to stop after a step; 0: that is killed after its first epoch."""
    asked: list[int] = []

    def kill(done: int, total: int, unit: str, **figures: float) -> None:
        if done == 1 and not after:
            raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: asked.append(0) or len(asked) == after)
        with pytest.raises(interrupt.Interrupted if after else InterruptedError):
            train.run(wanted, StageFolder(folder), CPU, kill)
    torch.rand(7)  # a new process starts with another random state
    return StageFolder(folder)


@pytest.mark.parametrize("keys", REGIMES.values(), ids=REGIMES)
def test_training_that_was_stopped_gives_what_one_gives_that_was_not(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """2 steps an epoch, 2 epochs: stopped after each step, and killed between epochs; all agrees bit for bit."""
    wanted = task(**{"epochs": 2, "batch": 24, **keys})
    whole = StageFolder(tmp_path / "whole")
    result, network = train.run(wanted, whole, CPU), whole.load_tensors("network.pt")
    for after in range(5):
        folder = stopped(tmp_path / str(after), wanted, monkeypatch, after)
        assert (folder.load_tensors("checkpoint.pt")["middle"] is None) == (after % 2 == 0)  # type: ignore[index]
        assert without_seconds(train.run(wanted, folder, CPU)) == without_seconds(result)
        assert without_seconds(folder.history()) == without_seconds(whole.history())
        torch.testing.assert_close(folder.load_tensors("network.pt"), network, rtol=0, atol=0)


def test_a_checkpoint_as_older_versions_wrote_it_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They kept their progress one level below, the sums of its figures in no mapping of their own."""
    wanted = task(epochs=2, batch=24, checkpoint="best")
    whole = train.run(wanted, StageFolder(tmp_path / "whole"), CPU)
    folder = stopped(tmp_path / "old", wanted, monkeypatch, 3)
    state: Any = folder.load_tensors("checkpoint.pt")
    middle = {**state["middle"], **state["middle"]["figures"]}
    del middle["figures"]
    below = {"epoch": 1, "best": state["records"][0]["held_out"], "best_epoch": 1, "middle": middle}
    below |= {name: state[name] for name in ("records", "seconds", "processes")}
    folder.save_tensors("checkpoint.pt", {"network": state["network"], "optimizer": state["optimizer"], "state": below})
    assert without_seconds(train.run(wanted, folder, CPU)) == without_seconds(whole)


def test_seeds_matter_and_are_all_that_matters(tmp_path: Path):
    runs = [
        train.run(evolve(task(), seed=seed), StageFolder(tmp_path / str(i)), CPU) for i, seed in enumerate((0, 0, 1))
    ]
    assert without_seconds(runs[0]) == without_seconds(runs[1])
    assert without_seconds(runs[0]) != without_seconds(runs[2])


@frozen
class Photographs(Bars):
    """Bars that can be read larger; remembers in which sizes its images were read, and how many of them."""

    read: dict[int, set[int]] = Factory(dict)

    def split(self, name: str) -> Any:
        assert name == "train", "training asked for test images"
        return self._counted(super().split(name), 6)

    def training_images(self, side: int) -> Any:
        images = super().split("train")
        larger = F.interpolate(images.pixels, (side, side), mode="bilinear")
        return self._counted(InMemory(larger, images.labels), side)

    def _counted(self, images: InMemory, side: int) -> Any:
        read = self.read.setdefault(side, set())

        class Counting:
            labels = images.labels

            def take(self, indices: torch.Tensor) -> torch.Tensor:
                read.update(indices.tolist())
                return images.take(indices)

        return Counting()


def test_all_training_images_are_used_and_no_test_image(tmp_path: Path):
    photographs = Photographs()
    train.run(evolve(task(epochs=1), dataset=photographs), StageFolder(tmp_path), CPU)
    assert photographs.read == {6: set(range(48))}


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_images_are_read_larger_to_be_cropped_and_as_they_are_to_be_judged(tmp_path: Path, checkpoint: str):
    photographs = Photographs()
    wanted = task(**CROPS, read_size=9, colour_jitter=[0.4, 0.4, 0.4, 0.2], epochs=3, checkpoint=checkpoint)
    train.run(evolve(wanted, dataset=TrainingOnly(photographs)), StageFolder(tmp_path), CPU)
    if checkpoint == "last":
        assert photographs.read == {9: set(range(48))}
    else:
        assert photographs.read.keys() == {6, 9}
        assert photographs.read[6] | photographs.read[9] == set(range(48))
        assert not photographs.read[6] & photographs.read[9], "what chooses the checkpoint does not train"


def test_random_resized_crops_differ_from_none(tmp_path: Path):
    results = [
        train.run(task(crop=0, flip=True, epochs=1, **more), StageFolder(tmp_path / str(len(more))), CPU)
        for more in ({}, {"random_resized_crop": [0.5, 1.0]})
    ]
    assert results[0]["loss"] != results[1]["loss"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"random_resized_crop": [0.5]}, "two shares of the area"),
        ({"random_resized_crop": [0.0, 1.0]}, "two shares of the area"),
        ({"random_resized_crop": [0.9, 0.5]}, "two shares of the area"),
        ({"random_resized_crop": [0.5, 1.0], "crop": 4}, "one of the two ways to crop"),
        ({"read_size": 9}, r"random_resized_crop: \[0\.08, 1\] beside it"),
        ({"colour_jitter": [0.4, 0.4, 0.4]}, "four numbers"),
        ({"colour_jitter": [0.4, 0.4, -0.4, 0.1]}, "four numbers"),
        ({"colour_jitter": [0.4, 0.4, 0.4, 0.6]}, "four numbers"),
        ({"regime": "trades"}, r"found 'trades'; a regime with its options, such as Standard\(\), would do"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Train(**keys)


def test_sizes_and_colours_that_a_dataset_does_not_have_are_refused(tmp_path: Path):
    folder = StageFolder(tmp_path)
    with pytest.raises(
        InputError, match=r"read_size: 9, and the dataset, with these options, reads its images in one size"
    ):
        train.run(task(**CROPS, read_size=9), folder, CPU)
    with pytest.raises(InputError, match=r"read_size: 5, and the network sees 6x6 pixels; 6 or more"):
        train.run(evolve(task(**CROPS, read_size=5), dataset=Photographs()), folder, CPU)

    @frozen
    class TwoChannels(Bars):
        shape = (2, 6, 6)

    with pytest.raises(InputError, match="images of 2 channels"):
        train.run(evolve(task(colour_jitter=[0.1] * 4), dataset=TwoChannels()), folder, CPU)


def test_best_is_chosen_on_images_that_did_not_train(tmp_path: Path):
    result = train.run(task(checkpoint="best", holdout=0.25), StageFolder(tmp_path), CPU)
    history = StageFolder(tmp_path).history()
    best = max(record["held_out"] for record in history)
    first = next(record["epoch"] for record in history if record["held_out"] == best)
    assert result["epoch_kept"] == first
    assert all(0 <= record["held_out"] <= 1 for record in history)


def test_the_learning_rate_falls_from_lr_towards_lr_min():
    settings = Train(epochs=10, lr=0.1, lr_min=0.01)
    rates = [learning_rate(settings, epoch) for epoch in range(1, 11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(settings, 11) == pytest.approx(0.01)


def test_divergence_is_an_error_that_names_the_key(tmp_path: Path):
    with pytest.raises(RunError, match=r"epoch 1.*train\.lr"):
        train.run(task(lr=1e30, clip=1e30, epochs=3), StageFolder(tmp_path), CPU)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    train.run(task(epochs=1), StageFolder(tmp_path), CPU)
    with pytest.raises(RunDirectoryError, match="not a checkpoint of this training"):
        train.run(evolve(task(epochs=1), genotype={"width": 5}), StageFolder(tmp_path), CPU)


def test_drop_path_of_a_network_without_it_is_refused():
    class Plain(TinySpace):
        def network(self, *args: Any, **kwargs: Any) -> Any:
            return torch.nn.Flatten()

    with pytest.raises(InputError, match="drop_path: 0 would do"):
        train.build(Plain(), {}, Bars(), SETTINGS)
