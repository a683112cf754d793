"""What the tests against independent implementations share: a small network trained against attacks, and its images."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustnas.attack import predict
from robustnas.attack.pgd import pgd
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel
from robustnas_plugins.datasets.digits import Digits

IMAGES = 64


@frozen(eq=False)
class Subject:
    """A network that is looked at, and images that it is right on.

    Args:
        network: (N, 1, 8, 8) in [0, 1] -> (N, 10) logits; frozen, in eval mode.
        images: (N, 1, 8, 8).
        labels: (N,) int64.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def subject() -> Subject:
    """A CNN of 11,000 weights on digits: half of every batch is perturbed in l_inf, half in l_2."""
    torch.set_num_threads(1)
    train, test = Digits().split("train"), Digits().split("test")
    images, labels = train.take(torch.arange(1200)), train.labels[:1200]
    with seeded(0, "agreement"):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        threats = ThreatModel("linf", 0.15), ThreatModel("l2", 0.6)
        for step in range(400):
            chosen = torch.randint(0, len(images), (64,), generator=generator)
            batch, truth = images[chosen], labels[chosen]
            halves = []
            for threat, part, wanted in zip(threats, batch.chunk(2), truth.chunk(2), strict=True):
                loss = lambda logits, wanted=wanted: cross_entropy(logits, wanted, reduction="sum")  # noqa: E731
                halves.append(pgd(network, part, loss, threat, steps=3, generator=generator) if step > 50 else part)
            optimiser.zero_grad()
            cross_entropy(network(torch.cat(halves)), truth).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    shown, wanted = test.take(torch.arange(200)), test.labels[:200]
    right = (predict(network, shown) == wanted).nonzero().squeeze(1)[:IMAGES]
    assert len(right) == IMAGES
    return Subject(network, shown[right], wanted[right])
