"""The two terms of certified training while epsilon grows: worked by hand, and with a weight that falls to 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robustnas.bounds import margins
from robustnas.bounds.rectified import rectified
from robustnas.errors import OptionError
from robustnas.nn.normalize import Normalize, PixelNetwork
from robustnas.plan import digest, settings
from robustnas.runtime import seeding
from robustnas.threat import ThreatModel
from robustnas.train.regimes.certified import Certified
from robustnas.train.regimes.mtl_ibp import MTLIBP
from robustnas.train.regimes.sabr import SABR
from robustnas.train.regimes.steady import TOLERANCE, balance, entering, tightness
from robustnas.train.settings import Train
from support.training_context import loss_of

IMAGES, LABELS = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
THREAT = ThreatModel("linf", 0.1)


def network() -> PixelNetwork:
    with seeding.seeded(0, "steady"):
        layers = [nn.Sequential(nn.Conv2d(each, 8, 3, padding=1), nn.ReLU()) for each in (1, 8, 8)]
        return PixelNetwork(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 3)), (0.5,), (0.25,)).eval()


def test_tightness_by_hand():
    def term(*radii: float, width: float = 1.0) -> float:
        return tightness([(torch.zeros(2, 3), torch.full((2, 3), radius)) for radius in radii], width).item()

    assert term(0.5, 1.0, 1 / TOLERANCE) == 0
    assert term(4.0) == pytest.approx((TOLERANCE - 1 / 4) / TOLERANCE)
    assert term(4.0, 1.0) == pytest.approx(term(4.0) / 2)
    assert term(1e30) == pytest.approx(1)
    assert term(0.0, width=0.0) == pytest.approx(1), "no division by zero"


def test_balance_by_hand():
    def term(*centres: float, radius: float = 0.1) -> float:
        centre = torch.tensor([centres])
        return balance([(centre, torch.full_like(centre, radius))]).item()

    assert term(1.0, -1.0) == term(2.0, 1.0, -3.0, 0.05) == 0
    assert term(1.0, -1.0, radius=1.5) == 0, "nothing is known of either sign"
    assert term(-1.0, -3.0) == pytest.approx(2), "none passes: both summands are t"
    assert term(1.0, 3.0) == pytest.approx(2), "none is stopped"
    # a = 1/4; around the mean -.75 the squares are 1.75^2 and 3.25^2 + 2 (.75^2)
    spread = 1.75**2 / 3.25**2
    found = term(1.0, -4.0, 0.0, 0.0)
    assert found == pytest.approx((TOLERANCE - 1 / 4 + TOLERANCE - spread) / TOLERANCE)
    assert found == term(-1.0, 4.0, 0.0, 0.0)


def test_both_have_gradients_that_mend_what_they_measure():
    radius = torch.full((1, 3), 4.0, requires_grad=True)
    tightness([(torch.zeros(1, 3), radius)], 1.0).backward()
    assert radius.grad is not None
    assert (radius.grad > 0).all()
    centre = torch.tensor([[1.0, -4.0, -2.0]], requires_grad=True)
    balance([(centre, torch.full((1, 3), 0.1))]).backward()
    assert centre.grad is not None
    assert centre.grad.isfinite().all()
    assert centre.grad[0, 0] < 0, "the one that passes grows"


def test_a_network_that_normalises_is_entered_by_wider_intervals():
    assert entering(nn.Identity(), 0.1) == 0.1
    assert entering(network(), 0.1) == pytest.approx(0.4)
    assert entering(nn.Sequential(Normalize((0.0, 0.0), (0.5, 1.0))), 0.1) == pytest.approx(0.15)


@pytest.mark.parametrize("make", [Certified, SABR, MTLIBP])
def test_they_are_added_with_a_weight_that_falls_to_0(make: Any):
    net = network()

    def added(weight: float, passed: float, **options: Any) -> float:
        grown = {"warmup_epochs": 2.0, "ramp_epochs": 4.0, **options}
        found = [
            loss_of(make(**grown, steady=each), net, IMAGES, LABELS, THREAT, passed=passed, epochs=10).loss.item()
            for each in (weight, 0.0)
        ]
        return found[0] - found[1]

    assert added(0.5, 1.0) == added(0.5, 6.0) == added(0.5, 9.0) == 0
    early, late = added(0.5, 2.5), added(0.5, 5.0)
    assert early > late > 0
    assert added(1.0, 2.5) == pytest.approx(2 * early, rel=1e-3)
    regime, context = (
        make(warmup_epochs=2.0, ramp_epochs=4.0, steady=0.5),
        type("At", (), {"passed": 3.0, "epochs": 10}),
    )
    terms = regime.terms(net, context, THREAT, 0.02)
    with rectified() as seen:
        margins(net, IMAGES, LABELS, ThreatModel("linf", 0.02), "ibp")
    share = regime.share(3.0, 10)
    assert terms(seen).item() == pytest.approx(0.5 * (1 - share) * (tightness(seen, 0.08) + balance(seen)).item())
    assert terms([]) == 0, "a network without rectifiers"


@pytest.mark.parametrize("make", [Certified, SABR, MTLIBP])
def test_bad_options_are_refused(make: Any):
    with pytest.raises(ValueError, match="'steady' must be >= 0"):
        make(steady=-0.1)
    with pytest.raises(OptionError, match=r"found steady 0\.5 and ramp_epochs 0.*steady: 0"):
        Train(epochs=10, regime=make(steady=0.5, ramp_epochs=0))
    Train(epochs=10, regime=make(steady=0.5))


def test_at_its_default_it_is_in_no_key():
    keys = [digest("train", settings(Train(regime=SABR(**each)))) for each in ({}, {"steady": 0.0}, {"steady": 0.5})]
    assert keys[0] == keys[1] != keys[2]
