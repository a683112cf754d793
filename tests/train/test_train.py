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
from robustnas.nn.normalize import PixelNetwork
from robustnas.run.task import TrainingOnly
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.report import silent
from robustnas.threat import ThreatModel
from robustnas.train.loop import learning_rate
from robustnas.train.regimes import loss as regime_loss
from robustnas.train.regimes import perturb
from robustnas.train.settings import Adversarial, Standard, Trades, Train
from support.networks import Bars, TinyNetwork, TinySpace

CPU = torch.device("cpu")
THREAT = ThreatModel("linf", 0.1)
SETTINGS = Train(epochs=4, batch=16, lr=0.1, cutout=2, crop=1, drop_path=0.2, auxiliary=0.4)


def task(**changes: Any) -> train.TrainTask:
    settings = evolve(SETTINGS, **changes)
    return train.TrainTask(Bars(), TinySpace(), {"width": 4}, THREAT, settings, seed=3)


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


@pytest.mark.parametrize("regime", [Standard(), Adversarial(steps=2), Trades(steps=2)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, regime: Any, checkpoint: str):
    wanted = task(regime=regime, checkpoint=checkpoint)
    whole = train.run(wanted, StageFolder(tmp_path / "whole"), CPU, silent)

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, unit: str, **figures: float) -> None:
        if done == 2:
            raise KilledError

    broken = StageFolder(tmp_path / "broken")
    with pytest.raises(KilledError):
        train.run(wanted, broken, CPU, kill)
    torch.rand(7)  # a new process starts with another random state
    resumed = train.run(wanted, broken, CPU, silent)
    assert without_seconds(resumed) == without_seconds(whole)
    assert without_seconds(broken.history()) == without_seconds(StageFolder(tmp_path / "whole").history())
    one, two = (StageFolder(tmp_path / name).load_tensors("network.pt") for name in ("whole", "broken"))
    assert one is not None
    assert two is not None
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert one.keys() == two.keys()


@pytest.mark.parametrize("after", range(1, 5))
def test_asked_to_stop_it_saves_its_step_and_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
):
    wanted = task(regime=Adversarial(steps=1), epochs=2, batch=24, crop=1, accumulate=2)  # 2 steps an epoch
    whole = train.run(wanted, StageFolder(tmp_path / "whole"), CPU, silent)
    broken = StageFolder(tmp_path / "broken")
    asked: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(train.loop.interrupt, "asked", lambda: asked.append(0) or len(asked) == after)
        with pytest.raises(interrupt.Interrupted):
            train.run(wanted, broken, CPU, silent)
    checkpoint = broken.load_tensors("checkpoint.pt")
    assert checkpoint is not None
    assert (checkpoint["state"]["middle"] is None) == (after % 2 == 0)
    torch.rand(7)
    assert without_seconds(train.run(wanted, broken, CPU, silent)) == without_seconds(whole)
    assert without_seconds(broken.history()) == without_seconds(StageFolder(tmp_path / "whole").history())
    one, two = (StageFolder(tmp_path / name).load_tensors("network.pt") for name in ("whole", "broken"))
    assert one is not None
    assert two is not None
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_seeds_matter_and_are_all_that_matters(tmp_path: Path):
    runs = [
        train.run(evolve(task(), seed=seed), StageFolder(tmp_path / str(i)), CPU, silent)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert without_seconds(runs[0]) == without_seconds(runs[1])
    assert without_seconds(runs[0]) != without_seconds(runs[2])


@frozen
class Watched:
    """Bars that remembers which images were taken."""

    inner: Bars
    taken: set[int]

    shape, classes, mean, std = Bars.shape, Bars.classes, Bars.mean, Bars.std

    def split(self, name: str) -> Any:
        assert name == "train", "training asked for test images"
        images, taken = self.inner.split(name), self.taken

        class Counting:
            labels = images.labels

            def take(self, indices: torch.Tensor) -> torch.Tensor:
                taken.update(indices.tolist())
                return images.take(indices)

        return Counting()


def test_all_training_images_are_used_and_no_test_image(tmp_path: Path):
    watched = Watched(Bars(), set())
    train.run(evolve(task(epochs=1), dataset=watched), StageFolder(tmp_path), CPU, silent)
    assert watched.taken == set(range(48))


@frozen
class Photographs(Bars):
    """Bars that can be read larger; remembers in which sizes its images were read, and how many of them."""

    read: dict[int, set[int]] = Factory(dict)

    def split(self, name: str) -> Any:
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


CROPS = {"crop": 0, "random_resized_crop": [0.5, 1.0], "flip": True}


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_images_are_read_larger_to_be_cropped_and_as_they_are_to_be_judged(tmp_path: Path, checkpoint: str):
    photographs = Photographs()
    wanted = task(**CROPS, read_size=9, colour_jitter=[0.4, 0.4, 0.4, 0.2], epochs=3, checkpoint=checkpoint)
    train.run(evolve(wanted, dataset=TrainingOnly(photographs)), StageFolder(tmp_path), CPU, silent)
    if checkpoint == "last":
        assert photographs.read == {9: set(range(48))}
    else:
        assert photographs.read.keys() == {6, 9}
        assert photographs.read[6] | photographs.read[9] == set(range(48))
        assert not photographs.read[6] & photographs.read[9], "what chooses the checkpoint does not train"


def test_random_resized_crops_resume_and_differ_from_none(tmp_path: Path):
    wanted = task(**CROPS, colour_jitter=[0.2, 0.2, 0.2, 0.1], epochs=2)
    whole = train.run(wanted, StageFolder(tmp_path / "whole"), CPU, silent)
    stopped = StageFolder(tmp_path / "stopped")

    def kill(done: int, *rest: Any, **figures: float) -> None:
        if done == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train.run(wanted, stopped, CPU, kill)
    assert without_seconds(train.run(wanted, stopped, CPU, silent)) == without_seconds(whole)
    plain = train.run(task(crop=0, flip=True, epochs=2), StageFolder(tmp_path / "plain"), CPU, silent)
    assert plain["loss"] != whole["loss"]


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
    ],
)
def test_crops_and_colours_that_make_no_sense_are_refused(keys: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Train(**keys)


def test_sizes_and_colours_that_a_dataset_does_not_have_are_refused(tmp_path: Path):
    folder = StageFolder(tmp_path)
    with pytest.raises(
        InputError, match=r"read_size: 9, and the dataset, with these options, reads its images in one size"
    ):
        train.run(task(**CROPS, read_size=9), folder, CPU, silent)
    with pytest.raises(InputError, match=r"read_size: 5, and the network sees 6x6 pixels; 6 or more"):
        train.run(evolve(task(**CROPS, read_size=5), dataset=Photographs()), folder, CPU, silent)

    @frozen
    class TwoChannels(Bars):
        shape = (2, 6, 6)

    with pytest.raises(InputError, match="images of 2 channels"):
        train.run(evolve(task(colour_jitter=[0.1] * 4), dataset=TwoChannels()), folder, CPU, silent)


def test_best_is_chosen_on_images_that_did_not_train(tmp_path: Path):
    result = train.run(task(checkpoint="best", holdout=0.25), StageFolder(tmp_path), CPU, silent)
    history = StageFolder(tmp_path).history()
    best = max(record["held_out"] for record in history)
    first = next(record["epoch"] for record in history if record["held_out"] == best)
    assert result["epoch_kept"] == first
    assert all(0 <= record["held_out"] <= 1 for record in history)


def network() -> PixelNetwork:
    with seeding.seeded(0, "test"):
        return PixelNetwork(TinyNetwork(4, 3, True), Bars.mean, Bars.std)


@pytest.mark.parametrize("regime", [Adversarial(steps=3), Trades(steps=3)])
def test_perturbed_images_are_admissible_and_worse(regime: Any):
    images = Bars().split("train")
    net = network()
    generator = torch.Generator().manual_seed(0)
    found = perturb(regime, net, images.pixels, images.labels, THREAT, generator)
    assert found.min() >= 0
    assert found.max() <= 1
    assert THREAT.distance(found, images.pixels).max() <= THREAT.epsilon + 1e-6
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    net.eval()
    before = F.cross_entropy(net(images.pixels), images.labels)
    assert F.cross_entropy(net(found), images.labels) > before or isinstance(regime, Trades)


@pytest.mark.parametrize("regime", [Adversarial(steps=3, step_size=0.04), Trades(steps=3, step_size=0.04, noise=0.01)])
def test_perturbed_images_are_those_of_the_papers(regime: Any):
    """Written again as in the papers: signs of the gradient in eval mode, cut to ball and box after every step."""
    images = Bars().split("train")
    net, x = network(), images.pixels
    found = perturb(regime, net, x, images.labels, THREAT, torch.Generator().manual_seed(5))
    draws, shape = torch.Generator().manual_seed(5), x.shape
    net.eval()
    clean = net(x).softmax(1).detach()
    if isinstance(regime, Trades):
        other = x + regime.noise * torch.randn(shape, generator=draws)
    else:
        other = x + THREAT.epsilon * (2 * torch.rand(shape, generator=draws) - 1)
    other = other.clamp(0, 1)
    for _ in range(3):
        other.requires_grad_()
        logits = net(other)
        if isinstance(regime, Trades):
            raised = F.kl_div(logits.log_softmax(1), clean, reduction="sum")
        else:
            raised = F.cross_entropy(logits, images.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(raised, other)
        other = other.detach() + 0.04 * gradient.sign()
        other = torch.min(torch.max(other, x - THREAT.epsilon), x + THREAT.epsilon).clamp(0, 1)
    torch.testing.assert_close(found, other)
    net.train()
    torch.manual_seed(0)
    loss, _ = regime_loss(regime, net, x, images.labels, THREAT, F.cross_entropy, 0.0, torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    if isinstance(regime, Trades):
        natural = net(x)
        divergence = F.kl_div(net(found).log_softmax(1), natural.softmax(1), reduction="batchmean")
        expected = F.cross_entropy(natural, images.labels) + regime.beta * divergence
    else:
        expected = F.cross_entropy(net(found), images.labels)
    torch.testing.assert_close(loss, expected)


def test_trades_is_cross_entropy_plus_beta_times_the_divergence():
    """At beta -> 0 it is the standard loss; the extra term is linear in beta and not negative."""
    images = Bars().split("train")

    def at(regime: Any) -> float:
        net = network().eval()
        value, _ = regime_loss(
            regime,
            net,
            images.pixels,
            images.labels,
            THREAT,
            F.cross_entropy,
            0.0,
            torch.Generator().manual_seed(0),
        )
        return value.item()

    standard, one, two = at(Standard()), at(Trades(beta=1.0)), at(Trades(beta=2.0))
    assert one - standard > 0
    assert two - standard == pytest.approx(2 * (one - standard), rel=1e-3)


def test_the_auxiliary_head_counts_by_its_weight():
    images = Bars().split("train")
    net = network().eval()
    args = (images.pixels, images.labels, THREAT, F.cross_entropy)
    plain, _ = regime_loss(Standard(), net, *args, 0.0, torch.Generator())
    with_head, _ = regime_loss(Standard(), net, *args, 0.5, torch.Generator())
    head = F.cross_entropy(net.with_auxiliary(images.pixels)[1], images.labels)
    assert with_head.item() == pytest.approx((plain + 0.5 * head).item())


def test_the_learning_rate_falls_from_lr_towards_lr_min():
    settings = Train(epochs=10, lr=0.1, lr_min=0.01)
    rates = [learning_rate(settings, epoch) for epoch in range(1, 11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(settings, 11) == pytest.approx(0.01)


def test_divergence_is_an_error_that_names_the_key(tmp_path: Path):
    with pytest.raises(RunError, match=r"epoch 1.*train\.lr"):
        train.run(task(lr=1e30, clip=1e30, epochs=3), StageFolder(tmp_path), CPU, silent)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    train.run(task(epochs=1), StageFolder(tmp_path), CPU, silent)
    with pytest.raises(RunDirectoryError, match="not a checkpoint of this training"):
        train.run(evolve(task(), genotype={"width": 5}), StageFolder(tmp_path), CPU, silent)


def test_drop_path_of_a_network_without_it_is_refused():
    class Plain(TinySpace):
        def network(self, *args: Any, **kwargs: Any) -> Any:
            return torch.nn.Flatten()

    with pytest.raises(InputError, match="drop_path: 0 would do"):
        train.build(Plain(), {}, Bars(), SETTINGS)
