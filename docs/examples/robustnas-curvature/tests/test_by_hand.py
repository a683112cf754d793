"""The curvature of logistic regression, whose loss has the gradient (p - y) w, is |p' - p| |w| / h."""

import torch
from torch import nn

from robustnas.threat import ThreatModel
from robustnas_curvature.curvature import Curvature


def test_logistic_regression():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images, labels = torch.rand(6, 1, 2, 2), torch.arange(6) % 2
    w, b = network[1].weight.diff(dim=0)[0], network[1].bias.diff()
    p = torch.sigmoid(images.flatten(1) @ w + b)
    direction = ((p - labels)[:, None] * w).sign() / 2  # four pixels, of length 1 together
    moved = torch.sigmoid((images.flatten(1) + 0.3 * direction) @ w + b)
    expected = -(moved - p).abs() * w.norm() / 0.3
    found = Curvature(step=0.3).score(network, images, labels, ThreatModel("linf", 8 / 255))
    torch.testing.assert_close(found, expected)
