"""Noise of the ball's size: how large, how distributed, whose, and until when."""

from __future__ import annotations

import math

import pytest
import torch
from test_attacks import Linear
from torch import Tensor, nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.noise import GaussianNoise, UniformNoise

BOTH = [pytest.param(GaussianNoise, id="gaussian"), pytest.param(UniformNoise, id="uniform")]
RADII = {"linf": 0.1, "l2": 0.6, "l1": 4.0}


class Never(nn.Module):
    """Class 0, whatever it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + 0 * images.flatten(1).sum(dim=1, keepdim=True)


def drawn(factory, norm: str, images: Tensor, times: int = 1, network: nn.Module | None = None, epsilon=None) -> Tensor:
    """What the attack gives, against class 0."""
    threat = ThreatModel(norm, RADII[norm] if epsilon is None else epsilon)
    attack = factory(draws=times).build(threat)
    draws = PerImageRandom.of_images(0, "noise", torch.arange(len(images)))
    return attack.perturbed(
        Never() if network is None else network, images, torch.zeros(len(images)).long(), threat, draws
    )


def grey(count: int = 40, side: int = 16) -> Tensor:
    """No noise of these sizes meets the box here, but in l_inf the largest."""
    return torch.full((count, 3, side, side), 0.5)


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_in_l2_and_l1_it_is_on_the_surface_of_the_ball(factory, norm):
    images = grey()
    size = ThreatModel(norm, 0.0).distance(drawn(factory, norm, images).double(), images.double())
    torch.testing.assert_close(size, torch.full_like(size, RADII[norm]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_distributed_as_announced(norm):
    images = grey()
    gaussian, uniform = (((drawn(one, norm, images)) - images).double() for one in (GaussianNoise, UniformNoise))
    for noise in (gaussian, uniform):
        assert abs(float(noise.mean())) < 0.02 * float(noise.std())  # 30720 entries: four times the mean's own spread
    if norm == "linf":
        epsilon = RADII["linf"]
        full = (gaussian.abs() >= epsilon * (1 - 1e-5)).double().mean()
        assert float(full) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.015)
        inner = gaussian[gaussian.abs() < epsilon * 0.5].numel() / gaussian.numel()
        assert inner == pytest.approx(math.erf(0.5 / math.sqrt(2)), abs=0.015)
        # clip(n, -1, 1) has variance 1 - 2 phi(1) = 0.516; u has 1/3
        assert float(gaussian.var()) == pytest.approx(0.516 * epsilon**2, rel=0.03)
        assert float(uniform.var()) == pytest.approx(epsilon**2 / 3, rel=0.03)
        assert float(uniform.abs().max()) > 0.999 * epsilon
    else:
        for noise, kurtosis in ((gaussian, 3.0), (uniform, 1.8)):
            assert float(noise.pow(4).mean() / noise.var().square()) == pytest.approx(kurtosis, rel=0.06)


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 10.0])
def test_it_stays_in_ball_and_box(factory, norm, share):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 5, 7, generator=generator)
    images[:5] = images[:5].round()
    epsilon = min(RADII[norm] * share, 1.0) if norm == "linf" else RADII[norm] * share
    found = drawn(factory, norm, images, 2, epsilon=epsilon)
    assert found.shape == images.shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    size = ThreatModel(norm, epsilon).distance(found, images)
    assert float(size.max()) <= epsilon + 1e-6
    assert bool((size > 0).all()) == (epsilon > 0)


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("norm", NORMS)
def test_no_two_images_and_no_two_draws_are_alike(factory, norm):
    images = grey(6, 4)
    draws = [drawn(factory, norm, images, times) for times in (1, 2, 3)]  # the last is what a network that stands gets
    noise = (torch.cat(draws) - 0.5).flatten(1)
    alike = torch.nn.functional.cosine_similarity(noise[:, None], noise[None], dim=2) - torch.eye(len(noise))
    assert float(alike.abs().max()) < 0.75
    assert torch.equal(drawn(factory, norm, images), draws[0])
    other = factory(draws=1).build(ThreatModel(norm, RADII[norm]))
    threat, labels = ThreatModel(norm, RADII[norm]), torch.zeros(6).long()
    elsewhere = other.perturbed(Never(), images, labels, threat, PerImageRandom.of_images(1, "noise", torch.arange(6)))
    assert not torch.isclose(elsewhere, draws[0]).flatten(1).all(dim=1).any()


class Watched(nn.Module):
    """A linear network that notes how many images it sees at once, and how many of these are not of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Linear(2)
        self.seen: list[int] = []
        self.fooled: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        self.seen.append(len(images))
        self.fooled.append(int((logits.argmax(dim=1) != 0).sum()))
        return logits


def near_the_boundary() -> Tensor:
    """Images of class 0 at different distances from the boundary."""
    generator = torch.Generator().manual_seed(4)
    images = 0.5 + 0.1 * (2 * torch.rand(120, 1, 3, 3, generator=generator) - 1)
    return images[predict(Linear(2), images) == 0]


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("norm", NORMS)
def test_images_leave_once_they_are_fooled_with_the_first_draw_that_does(factory, norm):
    images = near_the_boundary()
    assert len(images) > 30
    # small enough that several draws are needed
    epsilon = {"linf": 0.05, "l2": 0.1, "l1": 0.25}[norm]
    found = {}
    for times in (1, 2, 4, 8):
        network = Watched()
        found[times] = drawn(factory, norm, images, times, network, epsilon)
        left = len(images)
        for seen, fooled in zip(network.seen, network.fooled, strict=True):
            assert seen == left
            left -= fooled
        assert len(network.seen) == times
        assert int((predict(Linear(2), found[times]) == 0).sum()) == left > 0
        if times > 1:
            before = found[times // 2]
            broken = predict(Linear(2), before) != 0
            assert torch.equal(found[times][broken], before[broken])
            assert left < int((~broken).sum())


@pytest.mark.parametrize("factory", BOTH)
def test_nothing_is_shown_when_nothing_stands(factory):
    network, threat, labels = Counted(Never()), ThreatModel("l2", 0.1), torch.ones(3).long()
    factory(draws=5).build(threat).perturbed(network, grey(3), labels, threat, PerImageRandom.fresh(3))
    assert network.images == 3  # all fell to the first draw


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("norm", NORMS)
def test_an_images_result_is_its_own(factory, norm):
    images = near_the_boundary()
    threat = ThreatModel(norm, {"linf": 0.05, "l2": 0.1, "l1": 0.25}[norm])
    attack, network = factory(draws=4).build(threat), Linear(2).double()
    draws, labels = PerImageRandom.of_images(0, "noise", torch.arange(len(images))), torch.zeros(len(images)).long()

    def inside(batch: Tensor) -> Tensor:
        return network(batch.double())  # so that no decision hangs on rounding

    together = attack.perturbed(inside, images, labels, threat, draws)
    broken = inside(together).argmax(dim=1) != 0
    assert 0 < int(broken.sum()) < len(images)
    for chosen in (torch.arange(7, 15), torch.randperm(len(images), generator=torch.Generator().manual_seed(0))):
        some = attack.perturbed(inside, images[chosen], labels[chosen], threat, draws.at(chosen))
        assert torch.equal(some, together[chosen])


@pytest.mark.parametrize("factory", BOTH)
def test_through_the_harness(factory):
    network, images = Linear(2), near_the_boundary()
    labels = torch.zeros(len(images)).long()
    threat = ThreatModel("linf", 0.05)
    plugin = factory(draws=3)
    record = evaluate(
        network, images, labels, plugin.build(threat), threat, Conditions(label="noise", access=plugin.access)
    )
    assert plugin.access == plugin.build(threat).access == "noise"
    assert record.access == ("noise",)
    assert 0 < int(record.success.sum()) < len(images)
    assert float(record.distance.max()) <= 0.05 + 1e-6
    assert len(images) < record.evaluations < plugin.evaluations(2) * len(images)
    counted = Counted(Never())
    evaluate(counted, images, labels, plugin.build(threat), threat, Conditions(clean=labels))
    # and one to judge each image
    assert counted.images == (plugin.evaluations(2) + 1) * len(images)


@pytest.mark.parametrize("factory", BOTH)
@pytest.mark.parametrize("draws", [0, -1, 2.5, "3"])
def test_draws_are_a_whole_number_from_1(factory, draws):
    with pytest.raises((TypeError, ValueError), match="draws"):
        factory(draws=draws)
