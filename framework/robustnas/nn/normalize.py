"""Normalisation as the first layer of every network: outside it, images are pixels in [0, 1].

Attacks, metrics and bounds measure perturbations in pixel units because they see the wrapped network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from robustnas.contracts import Dataset, SearchSpace


class Normalize(nn.Module):
    """(images - mean) / std, a channel at a time: (N, C, H, W) in [0, 1] -> (N, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class PixelNetwork(nn.Module):
    """A discrete network that takes pixels: (N, C, H, W) in [0, 1] -> (N, K) logits."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the network and of its auxiliary head, (N, K) both."""
        network: Any = self.network
        logits, auxiliary = network.with_auxiliary(self.normalize(images))
        return logits, auxiliary


class PixelSupernet(nn.Module):
    """A supernet that takes pixels; keeps the contract `robustnas.contracts.Supernet`."""

    def __init__(self, supernet: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.supernet = supernet

    @classmethod
    def of(cls, space: SearchSpace, dataset: Dataset) -> Self:
        """Build a space's supernet for a dataset's images, on the CPU, with weights from torch's global generator."""
        supernet: Any = space.supernet(dataset.shape, dataset.classes)
        return cls(supernet, dataset.mean, dataset.std)

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        supernet: Any = self.supernet
        alpha: Mapping[str, nn.Parameter] = supernet.alpha
        return alpha

    def mixing(self) -> dict[str, Tensor]:
        supernet: Any = self.supernet
        mixing: dict[str, Tensor] = supernet.mixing()
        return mixing

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        logits: Tensor = self.supernet(self.normalize(images), mixing)
        return logits
