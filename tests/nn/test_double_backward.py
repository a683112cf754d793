"""The double backward context: torch's derivatives, without the passes that move zeros."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.bounds import margins
from robustnas.nn.fast.convolution import Conv2d, kernels
from robustnas.nn.fast.double_backward import INSTEAD, double_backward
from robustnas.threat import ThreatModel


class Net(nn.Module):
    """All that `double_backward` replaces, spelled in every way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm, self.bare = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.pools = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False))
        with torch.no_grad():
            for norm in (self.norm, self.bare):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.relu(x)))
        x = F.relu(self.pools(x).sin(), inplace=True) + self.bare(torch.relu(F.avg_pool2d(x, 2)))
        x = F.max_pool2d(input=x, kernel_size=2, return_indices=False) + F.conv2d(
            input=x, weight=self.conv.weight, stride=2, groups=2, padding=1
        )
        return torch.max_pool2d(x.relu().exp(), 2).flatten(1)


def second_derivatives(net: nn.Module, x: Tensor, inside: bool) -> list[Tensor]:
    """Output, gradient in x, derivatives of the gradient's square in x and in the parameters."""
    x = x.clone().requires_grad_()
    context = double_backward() if inside else torch.enable_grad()
    with context:
        y = net(x)
    (slopes,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    found = torch.autograd.grad(slopes.square().sum(), [x, *net.parameters()], allow_unused=True)
    return [y, slopes, *(one for one in found if one is not None)]


@pytest.mark.parametrize("training", [False, True])
def test_changes_no_derivative(training: bool):
    net, x = Net().double().train(training), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = second_derivatives(copy.deepcopy(net), x, inside=False)
    size = max(map(torch.Tensor.max, expected)).item()
    torch.testing.assert_close(second_derivatives(net, x, inside=True), expected, rtol=1e-9, atol=1e-12 * size)
    assert len(expected) >= 5


def test_sees_every_function_it_replaces():
    seen = set()
    before = dict(INSTEAD)
    try:
        for name, instead in before.items():
            INSTEAD[name] = lambda function, *some, name=name, instead=instead, **more: (
                seen.add(name) or instead(function, *some, **more)
            )
        second_derivatives(Net().double().eval(), torch.randn(2, 4, 8, 8, dtype=torch.float64), inside=True)
    finally:
        INSTEAD.update(before)
    assert seen == set(before)


def test_no_zeros_are_sent_back(monkeypatch):
    """A network of rectifiers, poolings and convolutions: its second derivative needs one pass, not two."""
    computed: list[str] = []
    for name in ("convolve", "image_gradient", "weight_gradient"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *some, name=name, kernel=kernel: computed.append(name) or kernel(*some)
        )
    front = nn.Sequential(nn.ReLU(), Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()).double()
    back = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.BatchNorm2d(4)).double().eval()
    alpha = torch.ones((), dtype=torch.float64, requires_grad=True)
    passes = []
    for inside in (True, False):
        x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
        with double_backward() if inside else torch.enable_grad():
            y = back(front(x * alpha) * alpha)
        (slopes,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        computed.clear()
        torch.autograd.grad(slopes.square().sum(), alpha)
        passes.append(list(computed))
    assert passes[0] == ["convolve"]
    assert len(passes[1]) > 1  # torch's own zeros, or this test says nothing


def test_leaves_what_is_no_plain_tensor_alone():
    images, labels = torch.rand(1, 2, 4, 4, dtype=torch.float64), torch.tensor([1])
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    expected = margins(net, images, labels, ThreatModel("linf", 0.1))
    with double_backward():
        torch.testing.assert_close(margins(net, images, labels, ThreatModel("linf", 0.1)), expected)
        assert torch.equal(F.relu(torch.tensor([-1, 2])), torch.tensor([0, 2]))
        torch.testing.assert_close(torch.func.grad(lambda x: net(x).sum())(images), torch.func.grad(
            lambda x: net(x).sum())(images))  # fmt: skip
