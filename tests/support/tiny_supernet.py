"""The smallest search there is: a supernet of two edges, its space, and a dataset without test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.data.batches import Part
from robustnas.data.images import InMemory

OPS = 3


class Edge(nn.Module):
    """convolution with batch norm, average pooling, skip."""

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.activation = activation

    def forward(self, x: Tensor, p: Tensor) -> Tensor:
        return p[0] * self.norm(self.convolution(self.activation(x))) + p[1] * self.pool(x) + p[2] * x


class TinySupernet(nn.Module):
    """Stem, two edges, linear head; keeps `robustnas.contracts.Supernet`."""

    def __init__(self, shape=(2, 6, 6), classes=3, channels=3, activation=torch.relu):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(shape[0], channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.edges = nn.ModuleList(Edge(channels, activation) for _ in range(2))
        self.head = nn.Linear(channels, classes)
        self.table = nn.Parameter(0.5 * torch.randn(2, OPS))

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        return {"normal": self.table}

    def mixing(self) -> dict[str, Tensor]:
        return {"normal": self.table.softmax(dim=-1)}

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        p = (self.mixing() if mixing is None else mixing)["normal"]
        x = self.stem(images)
        for edge, row in zip(self.edges, p, strict=True):
            x = edge(x, row)
        return self.head(x.square().mean(dim=(2, 3)))


@frozen
class TinySpace:
    """Search space of `TinySupernet`; its genotype is the best op of each edge."""

    def supernet(self, shape, classes):
        return TinySupernet(shape, classes)

    def genotype(self, supernet):
        return {"edges": supernet.mixing()["normal"].argmax(dim=-1).tolist()}


@frozen
class TinyDataset:
    """Noise with a class-dependent brightness; asking for test images fails."""

    count: int = 26
    shape = (2, 6, 6)
    classes = 3
    mean = (0.4, 0.4)
    std = (0.3, 0.3)

    def split(self, name):
        if name != "train":
            raise AssertionError(f"split {name!r} was asked for during a search")
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.count) % self.classes
        noise = torch.rand(self.count, *self.shape, generator=generator)
        return InMemory(0.6 * noise + 0.2 * labels.view(-1, 1, 1, 1), labels)


def batch(count=8, seed=0, dtype=torch.float32):
    """Images (count, 2, 6, 6) in [0, 1] and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, 6, 6, generator=generator, dtype=dtype)
    return images, torch.arange(count) % 3


def parts(images, labels, cuts=1):
    """A batch cut into parts, as one process is given it."""
    return tuple(
        Part(some, truth, len(truth) / len(labels))
        for some, truth in zip(images.tensor_split(cuts), labels.tensor_split(cuts), strict=True)
    )


def whole(batch):
    """Images and labels of a batch of one part."""
    (part,) = batch
    return part.images, part.labels


class CellSupernet(TinySupernet):
    """`TinySupernet` with its edges as cells."""

    def __init__(self, *rest, **options):
        super().__init__(*rest, **options)
        self.cells = self.edges
        del self.edges

    def forward(self, images, mixing=None):
        p = (self.mixing() if mixing is None else mixing)["normal"]
        x = self.stem(images)
        for cell, row in zip(self.cells, p, strict=True):
            x = cell(x, row)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
