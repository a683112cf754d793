"""The jumps of HopSkipJump, image by image.

Not foolbox's form: there the estimated gradient is divided by one norm over the whole batch (3.3.4,
`approximate_gradients`), so that an image jumps less far the more images it is attacked with; and one image without a
start ends the attack for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustnas.attack.foolbox_attack import NearestAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas_plugins.attacks.hopskipjump import MOST_HALVINGS, SHORTER, samples_of
from robustnas_plugins.attacks.starts import starts, straight, towards

TOGETHER = 512
"""Images put through the network at once when a gradient is estimated, or one of each where there are more."""


class Jump(NearestAttack):
    """HopSkipJump.

    Args:
        norm: `linf` or `l2`.
        steps: jumps.
        samples: evaluations of the first gradient.
        most_samples: of any gradient.
        gamma: scale of the bisection's end, gamma / d^1.5 of the way in l_2 and gamma / d^2 in l_inf.
        tries: evaluations that look for a start.
    """

    access = "black-box"

    def __init__(self, norm: str, steps: int, samples: int, most_samples: int, gamma: float, tries: int):
        super().__init__(norm)
        self.steps = steps
        self.samples = samples
        self.most_samples = most_samples
        self.gamma = gamma
        self.tries = tries

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """See `NearestAttack.nearest`; an image without a start stays clean."""
        begun, has = starts(network, images, labels, draws, self.tries)
        standing = has.nonzero().squeeze(1)
        if len(standing):
            begun[standing] = self._jumped(
                network, images[standing], begun[standing], labels[standing], draws.at(standing)
            )
        return begun

    def _jumped(self, network: Network, clean: Tensor, start: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """From images that fool to nearer ones, (n, C, H, W)."""
        current = self._back(network, clean, start, labels)
        best, closest = current, self._distance(current, clean)
        for jump in range(1, self.steps + 1):
            distance = self._distance(current, clean)
            radius = torch.full_like(distance, 0.1) if jump == 1 else self._radius(distance, clean[0].numel())
            count = samples_of(jump, self.samples, self.most_samples)
            direction = self._direction(network, current, labels, radius, count, draws.of("jump", jump))
            landed = _jump(network, current, direction, distance / math.sqrt(jump), labels)
            current = self._back(network, clean, landed, labels)
            distance = self._distance(current, clean)
            nearer = distance < closest
            best = torch.where(nearer[:, None, None, None], current, best)
            closest = torch.minimum(distance, closest)
        return best

    def _distance(self, one: Tensor, other: Tensor) -> Tensor:
        """(n,) in the attack's norm."""
        distance: Tensor = (one - other).flatten(1).norm(p=math.inf if self.norm == "linf" else 2, dim=1)
        return distance

    def _share(self, values: int) -> float:
        """Theta of the paper: the share of the way at which bisection stops, for so many pixel values."""
        return self.gamma * math.pow(values, -2.0 if self.norm == "linf" else -1.5)

    def _radius(self, distance: Tensor, values: int) -> Tensor:
        """How far around the boundary the gradient is estimated, (n,): delta of section III-C."""
        return (values if self.norm == "linf" else math.sqrt(values)) * self._share(values) * distance

    def _back(self, network: Network, clean: Tensor, far: Tensor, labels: Tensor) -> Tensor:
        """To the boundary between the clean images and images that fool: straight (l_2), by clipping (l_inf)."""
        halvings = min(max(math.ceil(-math.log2(self._share(clean[0].numel()))), 1), MOST_HALVINGS)
        if self.norm == "l2":
            shares, blend = torch.ones(len(clean)).to(clean), straight(clean, far)
        else:
            shares, blend = self._distance(far, clean), _clipped(clean, far)
        return towards(network, blend, far, shares, labels, halvings)

    def _direction(
        self, network: Network, current: Tensor, labels: Tensor, radius: Tensor, count: int, draws: PerImageRandom
    ) -> Tensor:
        """The gradient of the boundary, estimated (equations 9 and 16), of length 1 in l_2; its signs in l_inf."""
        total, plain, votes = torch.zeros_like(current), torch.zeros_like(current), torch.zeros_like(radius)
        block = max(TOGETHER // len(current), 1)
        shape = current.shape[1:]
        for first in range(0, count, block):
            number = min(block, count - first)
            # a sample has draws of its own, because how many go together depends on the batch
            around = torch.stack([self._noise(draws.of("around", first + i), shape) for i in range(number)])
            moved = (current + radius[None, :, None, None, None] * around).clamp(0.0, 1.0)
            around = (moved - current) / radius.clamp_min(1e-12)[None, :, None, None, None]
            with torch.no_grad():
                broken = fooled(network(moved.flatten(0, 1)), labels.repeat(number)).view(number, -1)
            vote = broken.to(current) * 2 - 1
            total += (vote[:, :, None, None, None] * around).sum(dim=0)
            plain += around.sum(dim=0)
            votes += vote.sum(dim=0)
        mean = votes / count
        # less the mean vote, for a smaller variance; where all agree that would leave nothing
        baseline = torch.where(mean.abs() == 1, 0.0, mean)
        gradient = (total - baseline[:, None, None, None] * plain) / count
        if self.norm == "linf":
            return gradient.sign()
        return _normalised(gradient)

    def _noise(self, draws: PerImageRandom, shape: torch.Size) -> Tensor:
        """(n, *shape) of length 1 in l_2: normal (l_2), uniform (l_inf)."""
        noise = draws.uniform(*shape) * 2 - 1 if self.norm == "linf" else draws.normal(*shape)
        return _normalised(noise)


def _normalised(images: Tensor) -> Tensor:
    """(n, C, H, W) to length 1 in l_2."""
    scaled: Tensor = images / images.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return scaled


def _jump(network: Network, current: Tensor, direction: Tensor, length: Tensor, labels: Tensor) -> Tensor:
    """Along `direction`, by `length` (n,) or the first of its halves that still fools; else nowhere."""
    landed = current.clone()
    places = torch.arange(len(current), device=current.device)
    for _ in range(SHORTER):
        if not len(places):
            break
        proposed = (current[places] + length[places, None, None, None] * direction[places]).clamp(0.0, 1.0)
        with torch.no_grad():
            broken = fooled(network(proposed), labels[places])
        landed[places[broken]] = proposed[broken]
        length = length / 2
        places = places[~broken]
    return landed


def _clipped(clean: Tensor, far: Tensor) -> Callable[[Tensor], Tensor]:
    """`far` with each pixel clipped to so much (N,) from the clean one, as `towards` walks it."""

    def blend(radius: Tensor) -> Tensor:
        within = radius[:, None, None, None]
        return torch.maximum(torch.minimum(far, clean + within), clean - within).clamp(0.0, 1.0)

    return blend
