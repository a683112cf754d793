"""The small networks, spaces and datasets that tests share; none needs a plugin.

convolutional, linear      a network for images of any shape
normed                     one with both kinds of batch norm, in float64
TinySupernet, CellSupernet the smallest supernets: two edges, bare or as cells
TinyNetwork                a discrete network with drop-path, dropout and an auxiliary head
TinySpace                  the search space of both
TinyDataset, Bars          images to search on (without a test split) and to train on
batch, parts, whole        images and labels as a step is given them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.data.batches import Part
from robustnas.data.images import InMemory
from robustnas.runtime.seeding import seeded


def convolutional(shape=(1, 8, 8), classes=10, channels=4, seed=0):
    """Convolution, ReLU and a linear head, untrained, in eval mode: (N, *shape) -> (N, classes)."""
    with seeded(seed, "tests", "convolutional"):
        body = nn.Sequential(nn.Conv2d(shape[0], channels, 3, padding=1), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*body, nn.Linear(channels * shape[1] * shape[2], classes)).eval()


def linear(shape=(1, 8, 8), classes=10, seed=0):
    """A linear classifier, in eval mode: (N, *shape) -> (N, classes); its margins and distances are known exactly."""
    with seeded(seed, "tests", "linear"):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)).eval()


NORMS = {
    "tracking": {},
    "no affine": {"affine": False},
    "cumulative": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "untracked, no affine": {"track_running_stats": False, "affine": False},
}


def normed(**options):
    """A float64 network whose two batch norms have these options; for images of `NORMED_IMAGES`."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU(), nn.Flatten())
    return nn.Sequential(net, nn.Linear(4 * 4 * 4, 6), nn.BatchNorm1d(6)).double()


NORMED_IMAGES = torch.rand(5, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


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
    """Search space of `TinySupernet`: a genotype is the best operation of each edge; networks are `TinyNetwork`."""

    def supernet(self, shape, classes):
        return TinySupernet(shape, classes)

    def genotype(self, supernet):
        return {"edges": supernet.mixing()["normal"].argmax(dim=-1).tolist()}

    def network(self, genotype, shape, classes, auxiliary=False):
        return TinyNetwork(genotype.get("width", 4), classes, auxiliary)


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


class TinyNetwork(nn.Module):
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
