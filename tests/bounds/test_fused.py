"""The cross-entropy bounded in one backward pass: above every loss in the region, below the intervals', and sharp."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustnas.bounds import CrownIBP, interval_margins_and_loss, margins_within
from robustnas.bounds.fused import Fused
from robustnas.errors import InputError
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes.bounded import worst_logits
from support.networks import convolutional, linear

IMAGES = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 0])
RADII = {"linf": 0.05, "l2": 0.3, "l1": 1.0}


def losses(margins: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(worst_logits(margins, LABELS), LABELS, reduction="none")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_no_admissible_image_has_a_larger_loss_and_intervals_allow_no_smaller_one(norm: str, scale: float):
    network, threat = convolutional((1, 6, 6), 4).double(), ThreatModel(norm, RADII[norm] * scale)
    epsilon = torch.full((5,), threat.epsilon, dtype=torch.float64)
    intervals, found = interval_margins_and_loss(network, IMAGES, LABELS, norm, epsilon)
    assert torch.equal(intervals, margins_within(network, IMAGES, LABELS, norm, epsilon, "ibp"))
    generator, worst = torch.Generator().manual_seed(0), torch.full((5,), -torch.inf, dtype=torch.float64)
    for _ in range(50):
        noise = torch.randn(IMAGES.shape, generator=generator, dtype=torch.float64).sign()
        shown = threat.project(IMAGES + noise, IMAGES)
        worst = torch.maximum(worst, F.cross_entropy(network(shown), LABELS, reduction="none"))
    assert (worst <= found).all()
    assert (found <= losses(intervals) + 1e-12).all()
    assert (found < losses(intervals)).any()


def test_in_a_small_ball_it_is_tighter_than_linear_bounds_of_every_margin():
    """No image is the worst one for all classes at once; chords cost the square of the radius."""
    network, epsilon = convolutional((1, 6, 6), 4).double(), torch.full((5,), 1e-4, dtype=torch.float64)
    intervals, found = interval_margins_and_loss(network, IMAGES, LABELS, "linf", epsilon)
    lines = losses(margins_within(network, IMAGES, LABELS, "linf", epsilon, CrownIBP()))
    assert (F.cross_entropy(network(IMAGES), LABELS, reduction="none") < found).all()
    assert (found < lines).all()
    assert (lines < losses(intervals)).all()


def test_with_one_margin_of_a_linear_network_it_is_exact():
    network, labels = linear((1, 6, 6), 2).double(), torch.tensor([0, 1, 1, 0, 1])
    epsilon = torch.full((5,), 0.1, dtype=torch.float64)
    _, found = interval_margins_and_loss(network, IMAGES, labels, "linf", epsilon)
    margins = margins_within(network, IMAGES, labels, "linf", epsilon, "crown-ibp")
    torch.testing.assert_close(found, F.softplus(-margins[:, 0]))


def test_a_log_softmax_has_the_loss_of_the_logits_in_front_of_it():
    network, epsilon = convolutional((1, 6, 6), 4).double(), torch.full((5,), 0.02, dtype=torch.float64)
    found = [
        interval_margins_and_loss(each, IMAGES, LABELS, "linf", epsilon)
        for each in (network, torch.nn.Sequential(network, torch.nn.LogSoftmax(1)).eval())
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_by_hand():
    """m in [-1, 1]: exp(-m) lies under e - a (m + 1) with a = (e - 1/e) / 2; at m = 0 that is (e + 1/e) / 2."""
    fused = Fused(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    found = fused.loss(torch.zeros(1))
    assert found.item() == pytest.approx(torch.log(1 + torch.cosh(torch.tensor(1.0))).item(), rel=1e-6)


@pytest.mark.parametrize("low", [-1e4, -100.0, 0.0, 100.0])
@pytest.mark.parametrize("width", [0.0, 1e-6, 1.0, 1e4])
def test_it_is_finite_and_has_finite_gradients_however_large_the_margins_are(low: float, width: float):
    lower = torch.tensor([[low, low + 1.0]], requires_grad=True)
    fused = Fused(lower, lower + width)
    for share in (0.0, 0.5, 1.0):
        line = (fused.weights * (lower + share * width)).sum(1)
        (found,) = fused.loss(line)
        worst, best = (F.softplus(torch.logsumexp(-end, 0)).item() for end in (lower[0], lower[0] + width))
        assert best * (1 - 1e-5) - 1e-4 <= found.item() <= worst * (1 + 1e-5)
        (gradient,) = torch.autograd.grad(found, lower, retain_graph=True)
        assert gradient.isfinite().all()


def test_its_gradient_in_weights_is_that_of_its_values():
    network, epsilon = convolutional((1, 6, 6), 4).double(), torch.full((5,), 0.02, dtype=torch.float64)
    weight = network[0].weight

    def value() -> torch.Tensor:
        return interval_margins_and_loss(network, IMAGES, LABELS, "linf", epsilon)[1].sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-6 * direction
            ends.append(value().item())
            weight -= sign * 1e-6 * direction
    assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_bad_input_is_refused_as_for_margins():
    network, epsilon = convolutional((1, 6, 6), 4).double(), torch.full((5,), 0.1, dtype=torch.float64)
    with pytest.raises(InputError, match=r"reach from 0.* to 2"):
        interval_margins_and_loss(network, IMAGES * 2 / IMAGES.max(), LABELS, "linf", epsilon)
    with pytest.raises(InputError, match="label 4 for a network of 4 classes"):
        interval_margins_and_loss(network, IMAGES, LABELS + 1, "linf", epsilon)
