"""A search space: a few places in a row, each a convolution or a pooling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import Genotype, Shape, Supernet
from robustnas.errors import InputError
from robustnas.options import option

OPS = ("conv", "pool")


class Mixed(nn.Module):
    """Keeps `robustnas.contracts.Supernet`: every operation at every place, mixed by alpha (places, operations)."""

    def __init__(self, in_channels: int, classes: int, channels: int, length: int):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.convs = nn.ModuleList(_conv(channels) for _ in range(length))
        self.head = nn.Linear(channels, classes)
        self.places = nn.Parameter(1e-3 * torch.randn(length, len(OPS)))

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        """Architecture parameters by name."""
        return {"places": self.places}

    def mixing(self) -> dict[str, Tensor]:
        """The weights that the forward pass mixes with."""
        return {"places": self.places.softmax(dim=1)}

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K); with `mixing`, these weights stand in for softmax(alpha)."""
        weights = (self.mixing() if mixing is None else mixing)["places"]
        features = F.relu(self.stem(images))
        for conv, (of_conv, of_pool) in zip(self.convs, weights, strict=True):
            features = features + of_conv * conv(features) + of_pool * F.avg_pool2d(features, 3, stride=1, padding=1)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class Discrete(nn.Module):
    """The chosen operation at each place."""

    def __init__(self, ops: list[str], in_channels: int, classes: int, channels: int):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.places = nn.ModuleList(
            _conv(channels) if op == "conv" else nn.AvgPool2d(3, stride=1, padding=1) for op in ops
        )
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        features = F.relu(self.stem(images))
        for place in self.places:
            features = features + place(features)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _conv(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


@frozen
class Example:
    """Genotype: `{"ops": ["conv", "pool", ...]}`; name the paper and its arXiv number here."""

    length: int = option(3, "places in the chain", at_least=1)
    channels: int = option(8, "channels of the supernet", at_least=1)
    network_channels: int = option(16, "channels of the discrete network", at_least=1, stage="train")

    contract = 1

    def supernet(self, shape: Shape, classes: int) -> Supernet:
        """A new supernet for images of `shape` (C, H, W)."""
        return Mixed(shape[0], classes, self.channels, self.length)

    def genotype(self, supernet: Supernet) -> Genotype:
        """The likeliest operation at each place; reads `mixing()` alone, because the framework wraps supernets."""
        return {"ops": [OPS[index] for index in supernet.mixing()["places"].argmax(dim=1).tolist()]}

    def network(self, genotype: Genotype, shape: Shape, classes: int, auxiliary: bool = False) -> nn.Module:
        """A new network of a genotype."""
        ops = genotype.get("ops")
        if not isinstance(ops, list) or not set(ops) <= set(OPS):
            raise InputError(f"example: found {genotype}; {{'ops': [...]}} of {', '.join(OPS)} would do")
        if auxiliary:
            raise InputError("example has no auxiliary head; train: {auxiliary: 0} would do")
        return Discrete(ops, shape[0], classes, self.network_channels)

    def sample(self, generator: torch.Generator) -> Genotype:
        """A genotype drawn uniformly: random search needs it; leave it out where it is of no use."""
        return {"ops": [OPS[index] for index in torch.randint(len(OPS), (self.length,), generator=generator).tolist()]}
