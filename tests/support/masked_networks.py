"""Networks whose gradients are masked on purpose, one for each way, around a sound one; and how to train that.

All are for the digits, (1, 8, 8) and ten classes.  What masks which how: Athalye, Carlini and Wagner 2018,
arXiv:1802.00420, section 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.attack.pgd import pgd
from robustnas.runtime.seeding import generator, seeded
from robustnas.threat import ThreatModel


def trained(images: Tensor, labels: Tensor, threat: ThreatModel | None = None, epochs: int = 12) -> nn.Module:
    """A small convolutional network, sound: trained on clean images, or on those of PGD within a threat."""
    with seeded(0, "masked", "initial"):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )
    random = generator(0, "masked", "order")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=random).split(100):
            shown, truth = images[part], labels[part]
            if threat is not None:
                shown = pgd(
                    network,
                    shown,
                    lambda logits, y=truth: F.cross_entropy(logits, y),
                    threat,
                    steps=5,
                    generator=random,
                )
            optimizer.zero_grad()
            F.cross_entropy(network(shown), truth).backward()
            optimizer.step()
    optimizer.zero_grad()  # no gradient of the last step stays behind
    return network.eval()


class Around(nn.Module):
    """A network that changes what another is shown; this one changes nothing."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def shown(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.shown(images))
        return logits


class Quantised(Around):
    """Pixels rounded to multiples of 1/8: differentiable almost everywhere, with derivative 0."""

    def shown(self, images):
        return (8 * images).round() / 8


class Thermometer(Around):
    """Pixels as how many of eight thresholds they exceed: not differentiable at all."""

    def shown(self, images):
        thresholds = (torch.arange(8).to(images) + 0.5) / 8
        return (images[..., None] > thresholds).to(images).mean(dim=-1)


class Compressed(Around):
    """The cosine transform of the image with rounded coefficients, as JPEG has it."""

    def shown(self, images):
        places = torch.arange(8).to(images)
        basis = (math.pi / 8 * places[:, None] * (places + 0.5)).cos() / 2
        basis[0] /= math.sqrt(2)
        coefficients = (10 * (basis @ images @ basis.T)).round() / 10
        return basis.T @ coefficients @ basis


class Saturated(Around):
    """Pixels through a sigmoid so steep that it is flat at most of them."""

    def shown(self, images):
        return torch.sigmoid(2000 * (images - 0.47))


class Shattered(Around):
    """A ripple on the pixels that changes no answer and rules every gradient."""

    def shown(self, images):
        return images + 0.02 * torch.sin(2000 * images)


class Rooted(Around):
    """Pixels as their square roots, whose derivative at black is infinite."""

    def shown(self, images):
        return images.sqrt()


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Backwards(Around):
    """Gradients that point away from what fools the network."""

    def shown(self, images):
        return _Turned.apply(images)


class Noisy(Around):
    """Other noise each time."""

    def shown(self, images):
        return images + 0.05 * torch.randn_like(images)


class Purified(Around):
    """Pixels moved to where the network is surer, by gradient steps; `how` says by which function of torch."""

    def __init__(self, network, how):
        super().__init__(network)
        self.how = how

    def shown(self, images):
        with torch.enable_grad():
            at = images.detach().clone().requires_grad_()
            gradient = self.how(lambda x: self.network(x).logsumexp(dim=1).sum(), at)
        return images + 0.01 * gradient.sign()


class Overconfident(Around):
    """Logits so large that the softmax in float32 is exactly 0 and 1."""

    def forward(self, images):
        return 1e4 * super().forward(images)


class Probabilities(Around):
    """A softmax at the end."""

    def forward(self, images):
        return super().forward(images).softmax(dim=1)
