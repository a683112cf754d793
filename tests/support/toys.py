"""A toy dataset and a toy search space for tests of the framework alone: no plugin is needed to use them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.data.images import InMemory


@frozen
class Bars:
    """Grey 6x6 images with a bright bar at the left, in the middle or at the right: three classes."""

    count: int = 48
    noise: float = 0.3

    shape = (1, 6, 6)
    classes = 3
    mean = (0.35,)
    std = (0.25,)

    def split(self, name: str) -> InMemory:
        generator = torch.Generator().manual_seed({"train": 1, "test": 2}[name])
        labels = torch.arange(self.count) % 3
        images = self.noise * torch.rand(self.count, 1, 6, 6, generator=generator)
        for label in range(3):
            images[labels == label, :, :, 2 * label : 2 * label + 2] += 0.5
        return InMemory(images.clamp(0, 1), labels)


class ToyNetwork(nn.Module):
    """A convolutional network with drop-path, dropout and an auxiliary head, so that all of training is used."""

    def __init__(self, width: int, classes: int, auxiliary: bool):
        super().__init__()
        self.drop_path = 0.0
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(width * 36, classes)
        self.auxiliary = nn.Linear(width * 36, classes) if auxiliary else None

    def _features(self, images: Tensor) -> Tensor:
        features = self.body(images)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            features = features * torch.bernoulli(torch.full((len(images), 1, 1, 1), keep)) / keep
        return F.relu(features).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self._features(images))
        return logits

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self._features(images)
        assert self.auxiliary is not None
        return self.head(features), self.auxiliary(features)


@frozen
class ToySpace:
    """Genotypes are `{"width": n}`."""

    def supernet(self, shape: tuple[int, int, int], classes: int) -> Any:
        raise AssertionError("no test searches this space")

    def genotype(self, supernet: Any) -> dict[str, Any]:
        return {"width": 4}

    def network(
        self, genotype: dict[str, Any], shape: tuple[int, int, int], classes: int, auxiliary: bool = False
    ) -> nn.Module:
        return ToyNetwork(genotype["width"], classes, auxiliary)
