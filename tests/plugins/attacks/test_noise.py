"""Noise of the ball's size: how large, how distributed, whose, and until when."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.noise import GaussianNoise, UniformNoise
from support.attacked_networks import Flat, Linear, around_grey, draws_of

BOTH = [pytest.param(GaussianNoise, id="gaussian"), pytest.param(UniformNoise, id="uniform")]
RADII = {"linf": 0.1, "l2": 0.6, "l1": 4.0}


def drawn(factory, norm: str, images: Tensor, times: int = 1, network: nn.Module | None = None, epsilon=None) -> Tensor:
    """What the attack gives, against class 0."""
    threat = ThreatModel(norm, RADII[norm] if epsilon is None else epsilon)
    attack = factory(draws=times).build(threat)
    labels = torch.zeros(len(images)).long()
    return attack.perturbed(Flat(2) if network is None else network, images, labels, threat, draws_of(len(images)))


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
def test_no_two_images_and_no_two_draws_are_alike(factory, norm):
    images = grey(6, 4)
    draws = [drawn(factory, norm, images, times) for times in (1, 2, 3)]  # the last is what a network that stands gets
    noise = (torch.cat(draws) - 0.5).flatten(1)
    alike = torch.nn.functional.cosine_similarity(noise[:, None], noise[None], dim=2) - torch.eye(len(noise))
    assert float(alike.abs().max()) < 0.75
    assert torch.equal(drawn(factory, norm, images), draws[0])
    threat, labels = ThreatModel(norm, RADII[norm]), torch.zeros(6).long()
    elsewhere = factory(draws=1).build(threat).perturbed(Flat(2), images, labels, threat, draws_of(6, seed=1))
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
    images = around_grey(120)
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
    network, threat, labels = Counted(Flat(2)), ThreatModel("l2", 0.1), torch.ones(3).long()
    factory(draws=5).build(threat).perturbed(network, grey(3), labels, threat, PerImageRandom.fresh(3))
    assert network.images == 3  # all fell to the first draw


@pytest.mark.parametrize("factory", BOTH)
def test_through_the_harness(factory):
    network, images = Linear(2), near_the_boundary()
    labels = torch.zeros(len(images)).long()
    threat = ThreatModel("linf", 0.05)
    plugin = factory(draws=3)
    conditions = Conditions(label="noise", access=plugin.access)
    record = evaluate(network, images, labels, plugin.build(threat), threat, conditions)
    assert plugin.access == plugin.build(threat).access == "noise"
    assert record.access == ("noise",)
    assert 0 < int(record.success.sum()) < len(images)
    assert float(record.distance.max()) <= 0.05 + 1e-6
    assert len(images) < record.evaluations < plugin.evaluations(2) * len(images)
    counted = Counted(Flat(2))
    evaluate(counted, images, labels, plugin.build(threat), threat, Conditions(clean=labels))
    # and one to judge each image
    assert counted.images == (plugin.evaluations(2) + 1) * len(images)
