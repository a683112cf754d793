"""The curvature of the loss against the exact Hessian, and when in a search it counts."""

import pytest
import torch
import torch.nn.functional as F

from robustnas.nn.batch_statistics import frozen_statistics
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.loss_curvature import LossCurvature
from support.networks import TinySupernet, batch

THREAT = ThreatModel("linf", "8/255")


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = TinySupernet(activation=torch.tanh).double()
    with torch.no_grad():
        net(batch(8, 9, torch.float64)[0])
    return net.eval()


@pytest.mark.parametrize("direction", ["sign", "gradient"])
def test_it_is_the_length_of_the_hessian_times_the_direction(net, direction):
    images, labels = batch(4, dtype=torch.float64)
    found = LossCurvature(step=1e-5, direction=direction).score(net, images, labels, THREAT).detach()
    for image, label, one in zip(images, labels, found, strict=True):

        def loss(x, label=label):
            return F.cross_entropy(net(x.view(1, 2, 6, 6)), label.view(1))

        x = image.flatten().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x), x)
        hessian = torch.autograd.functional.hessian(loss, x.detach())
        along = slope.sign() if direction == "sign" else slope
        expected = (hessian @ (along / along.norm())).norm()
        assert -one.item() == pytest.approx(expected.item(), rel=1e-4)
        assert expected <= torch.linalg.matrix_norm(hessian, ord=2) * (1 + 1e-9)  # no more than the largest eigenvalue


def test_it_is_differentiable_in_alpha(net):
    images, labels = batch(4, dtype=torch.float64)

    def value():
        return LossCurvature().score(net, images, labels, THREAT).mean()

    (gradient,) = torch.autograd.grad(value(), net.table)
    with torch.no_grad():
        net.table[1, 0] += 1e-6
        above = value().item()
        net.table[1, 0] -= 2e-6
        below = value().item()
    # the direction is a constant to the gradient, and that of the sign does not move
    assert float(gradient[1, 0]) == pytest.approx((above - below) / 2e-6, rel=1e-5)


def test_a_linear_loss_surface_has_no_curvature_and_a_finite_gradient():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(72, 3)).double()
    images, labels = batch(4, dtype=torch.float64)
    with torch.no_grad():
        net[1].weight.zero_()
    score = LossCurvature().score(net, images, labels, THREAT)
    assert score.abs().max() == 0
    (gradient,) = torch.autograd.grad(score.sum(), net[1].weight)
    assert gradient.isfinite().all()


def test_it_counts_after_the_warm_up_and_its_difference_grows_over_the_ramp(net):
    images, labels = batch(4, dtype=torch.float64)
    metric = LossCurvature(step=0.4, warm_up=0.5, ramp=0.25)

    def at(progress):
        with frozen_statistics(net):
            return metric.at(progress).score(net, images, labels, THREAT)

    for progress in (0.0, 0.5):
        early = at(progress)
        assert early.shape == (4,)
        assert early.abs().max() == 0
        (gradient,) = torch.autograd.grad(early.sum(), net.table)
        assert gradient.abs().max() == 0
    halfway = LossCurvature(step=0.2).score(net, images, labels, THREAT)
    torch.testing.assert_close(at(0.625), halfway)
    whole = metric.score(net, images, labels, THREAT)
    assert not torch.allclose(halfway, whole)
    for progress in (0.75, 1.0):
        torch.testing.assert_close(at(progress), whole)
    assert LossCurvature().at(49 / 60).score(net, images, labels, THREAT).abs().max() == 0
    assert LossCurvature().at(50 / 60).score(net, images, labels, THREAT).max() < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step"),
        ({"direction": "random"}, "direction"),
        ({"warm_up": 1.5}, "warm_up"),
        ({"warm_up": 0.9, "ramp": 0.2}, "ramp must end with the search"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossCurvature(**options)
