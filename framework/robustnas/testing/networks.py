"""Small networks and images that the kit gives to metrics and attacks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SHAPE = (1, 6, 6)
CLASSES = 3


class TinySupernet(nn.Module):
    """Two edges in a row, four operations each; keeps the contract `robustnas.contracts.Supernet`.

    Alpha is a (2, 4) tensor: convolution with batch norm, average pooling, max pooling, nothing.
    """

    def __init__(self, channels: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(SHAPE[0], channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.head = nn.Linear(channels, CLASSES)
        self.edges = nn.Parameter(0.5 * torch.randn(2, 4))

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        return {"edges": self.edges}

    def mixing(self) -> dict[str, Tensor]:
        return {"edges": self.edges.softmax(dim=1)}

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        weights = (self.mixing() if mixing is None else mixing)["edges"]
        features = F.relu(self.norm(self.stem(images)))
        for edge, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            # the fourth operation is nothing: its weight is missing from the sum
            features = (
                weights[edge, 0] * F.relu(norm(convolution(features)))
                + weights[edge, 1] * F.avg_pool2d(features, 3, stride=1, padding=1)
                + weights[edge, 2] * F.max_pool2d(features, 3, stride=1, padding=1)
            )
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def tiny_network(channels: int = 4) -> nn.Module:
    """A discrete network with convolutions, batch norm and pooling."""
    return nn.Sequential(
        nn.Conv2d(SHAPE[0], channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, CLASSES),
    )


def tiny_images(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, *SHAPE) in [0, 1] whose brighter third tells the class, and labels (count,).

    Brighter by 0.25: classes are about 1.2 apart in l_2, so that radius 1 reaches across.
    """
    labels = torch.arange(count) % CLASSES
    images = 0.35 + 0.1 * torch.rand(count, *SHAPE)
    for third in range(CLASSES):
        images[labels == third, :, :, 2 * third : 2 * third + 2] += 0.25
    return images, labels


def settle(network: nn.Module, images: Tensor) -> None:
    """Make batch norm's running statistics those of these images; other modules are left in their modes.

    A few steps of a moving average would leave them near their start, where deep features shift and die.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    kept = [layer.momentum for layer in layers]
    modes = [(part, part.training) for part in network.modules()]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over passes, here one
    network.train()
    with torch.no_grad():
        network(images)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    for part, training in modes:
        part.training = training


def fit(network: nn.Module, images: Tensor, labels: Tensor, steps: int = 60) -> None:
    """Train until these classes are told apart; leaves no gradient, and the network in eval mode."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images), labels))
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    network.eval()
