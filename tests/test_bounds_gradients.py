"""Gradients of the bounds against finite differences, in float64, away from places where a slope choice
flips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import margins
from robustnas.threat import ThreatModel


class Mixed(nn.Module):
    """A softmax-weighted sum of convolution, both poolings and skip, twice; alpha is (2, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alpha = nn.Parameter(torch.randn(2, 4))
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - 0.5) / 0.3)
        for row, conv, norm in zip(self.alpha.softmax(dim=1), self.convs, self.norms, strict=True):
            ops = (
                norm(conv(F.relu(x))),
                F.max_pool2d(x, 3, 1, 1),
                F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
                x,
            )
            x = sum(weight * op for weight, op in zip(row, ops, strict=True))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def setting() -> tuple[Mixed, Tensor, Tensor]:
    net = Mixed().eval().double()
    images = torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net, images, torch.tensor([0, 2])


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.1)])
@pytest.mark.parametrize("targets", ["all", "strongest"])
def test_gradient_agrees_with_finite_differences(method: str, norm: str, epsilon: float, targets: str):
    net, images, labels = setting()
    threat = ThreatModel(norm, epsilon)

    def bound() -> Tensor:
        return margins(net, images, labels, threat, method, targets).sum()

    parameters = [net.alpha, net.stem.weight, net.convs[0].weight, net.head.weight, net.norms[1].weight]
    gradients = torch.autograd.grad(bound(), parameters)
    checked, draw = 0, torch.Generator().manual_seed(2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert gradient.abs().max() > 1e-6
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
        values = []
        step = 1e-6
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(bound().item())
                parameter.sub_(sign * step * direction)
        difference = (values[0] - values[1]) / (2 * step)
        assert difference == pytest.approx((gradient * direction).sum().item(), rel=1e-4, abs=1e-7)
        checked += 1
    assert checked == len(parameters)


def test_gradient_reaches_mixing_weights_given_as_plain_tensors():
    net, images, labels = setting()
    weight = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        return weight[0] * net(x) + net(1.0 - x) * weight[1]

    margins(forward, images, labels, ThreatModel("linf", 0.01)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0


def test_no_graph_is_built_where_gradients_are_off():
    net, images, labels = setting()
    with torch.no_grad():
        for method in ("ibp", "crown-ibp", "crown"):
            assert not margins(net, images, labels, ThreatModel("linf", 0.01), method).requires_grad


def test_gradients_are_finite_where_intervals_are_points():
    net, images, labels = setting()
    for norm in ("linf", "l2"):
        gradients = torch.autograd.grad(
            margins(net, images.round(), labels, ThreatModel(norm, 0.0)).sum(), list(net.parameters())
        )
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_crown_s_gradient_holds_tightened_intervals_fixed_and_the_value_is_the_same_without_a_graph():
    net, images, labels = setting()
    threat = ThreatModel("linf", 0.02)
    with_graph = margins(net, images, labels, threat, "crown")
    with torch.no_grad():
        torch.testing.assert_close(with_graph.detach(), margins(net, images, labels, threat, "crown"))
    (gradient,) = torch.autograd.grad(with_graph.sum(), net.alpha)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
