"""Small networks and images that attacks are tried on, the images' draws, and what an attack proposes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.attack import predict
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.runner import runners
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel


class Linear(nn.Module):
    """Logits linear in nine pixels; `least` keeps the gradients of all entries away from 0."""

    def __init__(self, classes: int = 2, seed: int = 0, least: float = 0.2):
        super().__init__()
        with seeded(seed, "linear"):
            weight = torch.randn(classes, 9)
        self.weight = nn.Parameter((weight + least * weight.sign()) / 5)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weight.T


class Flat(nn.Module):
    """The same logits everywhere, class 0 by far: gradients are 0."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.logits = torch.tensor([1.0, *[0.0] * (classes - 1)])

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images.flatten(1).sum(dim=1, keepdim=True)


def around_grey(count: int = 40, spread: float = 0.1) -> Tensor:
    """Images near grey, (count, 1, 3, 3): with the usual spread no small perturbation meets the border of the box."""
    generator = torch.Generator().manual_seed(2)
    return 0.5 + spread * (2 * torch.rand(count, 1, 3, 3, generator=generator) - 1)


def wavy(
    classes: int = 5, count: int = 60, shape: tuple[int, int, int] = (1, 4, 4), gain: float = 4.0
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with several wrong ways up the loss, images near and far from its boundaries, and its own answers.

    The first third of the images is on the border of the box.
    """
    with seeded(3, "wavy"):
        values = shape[0] * shape[1] * shape[2]
        network = nn.Sequential(nn.Flatten(), nn.Linear(values, 40), nn.Tanh(), nn.Linear(40, classes))
        with torch.no_grad():
            network[1].weight.mul_(gain)
        images = torch.rand(count, *shape)
        images[: count // 3] = images[: count // 3].round()
    network.requires_grad_(False)
    return network, images, predict(network, images)


def draws_of(count: int | Tensor, seed: int = 0) -> PerImageRandom:
    """The draws of so many images, or of those at some places."""
    return PerImageRandom.of_images(seed, "test", torch.arange(count) if isinstance(count, int) else count)


def proposed(
    plugin: Any,
    threat: ThreatModel,
    network: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """What an attack that is not composed proposes for some of the images, run as the harness runs it."""
    foolbox = load_foolbox()
    rows = torch.arange(len(images)) if rows is None else rows
    (runner,) = runners(plugin.build(threat), threat, "attack")
    if isinstance(network, nn.Module):
        network = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels[rows])
    found: Tensor = runner.call(network, images[rows], criterion, draws_of(rows)).detach()
    return found
