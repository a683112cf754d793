"""Plugins that keep their promises: the wrong ones of the kit's tests are these with one thing changed."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import nn

from robustnas.errors import DataError, InputError


def wrong(kept, **parts):
    """A plugin class like one that keeps its promises, with other methods or attributes."""
    return type("Wrong", (kept,), parts)


@frozen
class Slope:
    """Minus the l_1 norm of the loss gradient, as a share of the largest perturbation's effect."""

    def score(self, network, images, labels, threat):
        with torch.enable_grad():
            pixels = images.detach().clone().requires_grad_(True)
            loss = F.cross_entropy(network(pixels), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, pixels, create_graph=True)
        return -threat.epsilon * slope.flatten(1).abs().sum(dim=1)


@frozen
class Noisy:
    """Gaussian noise on the images of the inner level."""

    sigma: float = 0.1

    def inner_loss(self, supernet, images, labels, threat, context):
        noise = torch.randn(images.shape, generator=context.generator)
        return context.loss(supernet(images + self.sigma * context.progress * noise), labels)


@frozen
class Doubled:
    """An outer loss of its own."""

    def outer_loss(self, supernet, images, labels, threat, context):
        return 2 * context.loss(supernet(images), labels)


class Held:
    """Images in memory."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def take(self, indices):
        return self.images[indices]


@frozen
class Stripes:
    """Sixty drawn images, three classes."""

    shape = (1, 6, 6)
    classes = 3
    mean = (0.5,)
    std = (0.2,)

    def split(self, name):
        if name not in ("train", "test"):
            raise DataError(f"no split {name!r}; there are train and test")
        draw = torch.Generator().manual_seed(len(name))
        return Held(torch.rand(30, *self.shape, generator=draw), torch.arange(30) % 3)


class TinyDiscrete(nn.Module):
    """The network of one choice an edge."""

    drop_path = 0.0

    def __init__(self, ops, channels, classes, width=4):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in ops)
        self.ops = ops
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        features = self.stem(images).relu()
        for op, convolution in zip(self.ops, self.convolutions, strict=True):
            path = convolution(features).relu() if op == "conv" else F.avg_pool2d(features, 3, 1, 1)
            if self.training and self.drop_path > 0:
                path = path * (torch.rand(len(images), 1, 1, 1) > self.drop_path) / (1 - self.drop_path)
            features = features + path
        return self.head(features.mean(dim=(2, 3)))


class TinyMixed(nn.Module):
    """Both choices of each of three edges, mixed."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, classes)
        self.edges = nn.Parameter(0.1 * torch.randn(3, 2))

    @property
    def alpha(self):
        return {"edges": self.edges}

    def mixing(self):
        return {name: one.softmax(dim=1) for name, one in self.alpha.items()}

    def forward(self, images, mixing=None):
        weights = (self.mixing() if mixing is None else mixing)["edges"]
        features = self.stem(images).relu()
        for edge, convolution in enumerate(self.convolutions):
            features = (
                features
                + weights[edge, 0] * convolution(features).relu()
                + weights[edge, 1] * F.avg_pool2d(features, 3, 1, 1)
            )
        return self.head(features.mean(dim=(2, 3)))


@frozen
class Chain:
    """Three edges in a row: convolution or pooling."""

    published = {"all-conv": {"ops": ["conv", "conv", "conv"]}}  # noqa: RUF012

    def supernet(self, shape, classes):
        return TinyMixed(shape[0], classes)

    def genotype(self, supernet):
        return {"ops": [["conv", "pool"][i] for i in supernet.mixing()["edges"].argmax(dim=1).tolist()]}

    def network(self, genotype, shape, classes, auxiliary=False, width=4):
        if genotype.keys() != {"ops"}:
            raise InputError(f"not a chain: {genotype}")
        if auxiliary:
            raise InputError("a chain has no auxiliary head")
        return TinyDiscrete(genotype["ops"], shape[0], classes, width)

    def sample(self, generator):
        return {"ops": [["conv", "pool"][i] for i in torch.randint(2, (3,), generator=generator).tolist()]}

    def genotypes(self):
        return ({"ops": list(ops)} for ops in product(["conv", "pool"], repeat=3))

    def path(self, genotype):
        return {"edges": torch.eye(2)[[["conv", "pool"].index(op) for op in genotype["ops"]]]}
