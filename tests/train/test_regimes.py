"""Regimes: their losses are those of the papers, and their perturbed images too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from robustnas.nn.normalize import PixelNetwork
from robustnas.runtime import seeding
from robustnas.threat import ThreatModel
from robustnas.train.regimes.adversarial import Adversarial
from robustnas.train.regimes.standard import Standard
from robustnas.train.regimes.trades import Trades
from support.networks import Bars, TinyNetwork
from support.training_context import loss_of

THREAT = ThreatModel("linf", 0.1)


def network() -> PixelNetwork:
    with seeding.seeded(0, "test"):
        return PixelNetwork(TinyNetwork(4, 3, True), Bars.mean, Bars.std)


@pytest.mark.parametrize("regime", [Adversarial(steps=3), Trades(steps=3)])
def test_perturbed_images_are_admissible_and_worse(regime: Any):
    images = Bars().split("train")
    net = network()
    generator = torch.Generator().manual_seed(0)
    found = regime.perturbed(net, images.pixels, images.labels, THREAT, generator)
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
    found = regime.perturbed(net, x, images.labels, THREAT, torch.Generator().manual_seed(5))
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
    loss = loss_of(regime, net, x, images.labels, THREAT, seed=5).loss
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
        return loss_of(regime, net, images.pixels, images.labels, THREAT).loss.item()

    standard, one, two = at(Standard()), at(Trades(beta=1.0)), at(Trades(beta=2.0))
    assert one - standard > 0
    assert two - standard == pytest.approx(2 * (one - standard), rel=1e-3)


def test_the_auxiliary_head_counts_by_its_weight():
    images = Bars().split("train")
    net = network().eval()
    args = (images.pixels, images.labels, THREAT)
    plain, with_head = (loss_of(Standard(), net, *args, auxiliary=weight).loss for weight in (0.0, 0.5))
    head = F.cross_entropy(net.with_auxiliary(images.pixels)[1], images.labels)
    assert with_head.item() == pytest.approx((plain + 0.5 * head).item())
