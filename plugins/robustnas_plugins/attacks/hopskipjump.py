"""HopSkipJump: the gradient at the boundary estimated from decisions alone, a jump along it, and back to the boundary.

Source: Chen et al. 2020, arXiv:1904.02144, algorithm 2.

Not foolbox's form: there the estimated gradient is divided by one norm over the whole batch (3.3.4,
`approximate_gradients`), so that an image jumps less far the more images it is attacked with; and one image without a
start ends the attack for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen
from attrs.validators import gt
from torch import Tensor

from robustnas.attack.foolbox_attack import NearestAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import along
from robustnas.options import option
from robustnas_plugins.attacks.starts import TRIES, starts, straight, towards

MOST_HALVINGS = 24
"""Halvings of a bisection at most: below, float32 shows no difference."""
SHORTER = 20
"""Halvings of a jump at most; an image that still does not fool then stays for this jump."""
TOGETHER = 512
"""Images put through the network at once when a gradient is estimated, or one of each where there are more."""


@frozen
class HopSkipJump(NearestAttack):
    """HopSkipJump in l_inf and l_2: sees the predicted class only."""

    name = "hopskipjump"
    norms = ("linf", "l2")
    instead = "in l1 a gradient attack would do, or give it a threat of its own, threat: {norm: l2, epsilon: 0.5}"
    access = "black-box"

    steps: int = option(32, "jumps", at_least=1)
    samples: int = option(100, "evaluations of the first gradient; the t-th takes sqrt(t) times as many", at_least=1)
    most_samples: int = option(10000, "evaluations of a gradient at most", at_least=1)
    gamma: float = option(
        1.0,
        "bisection stops at gamma / d^1.5 (l2) or gamma / d^2 (linf) of the way, d pixel values",
        gt(0.0),
        converter=float,
    )
    tries: int = option(50, TRIES, at_least=1)

    def evaluations(self, classes: int) -> float:
        """The start, and for every jump its gradient, the search for its length and the bisection."""
        gradients = sum(self._samples_of(jump) for jump in range(1, self.steps + 1))
        return float(self.tries + MOST_HALVINGS + gradients + self.steps * (SHORTER + MOST_HALVINGS))

    def _samples_of(self, jump: int) -> int:
        """Evaluations of the gradient of the `jump`-th jump, from 1 on: section III-C of the paper."""
        return min(int(self.samples * math.sqrt(jump)), self.most_samples)

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """The nearest images found that fool; one without a start stays clean."""
        begun, has = starts(network, images, labels, draws, self.tries)
        if bool(has.any()):
            begun[has] = self._jumped(network, images[has], begun[has], labels[has], draws.at(has))
        return begun

    def _jumped(self, network: Network, clean: Tensor, start: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """Jump from images that fool to nearer ones, (n, C, H, W)."""
        current = self._back(network, clean, start, labels)
        best, closest = current, self.size(current - clean)
        for jump in range(1, self.steps + 1):
            distance = self.size(current - clean)
            radius = torch.full_like(distance, 0.1) if jump == 1 else self._radius(distance, clean[0].numel())
            count = self._samples_of(jump)
            direction = self._direction(network, current, labels, radius, count, draws.of("jump", jump))
            landed = _jump(network, current, direction, distance / math.sqrt(jump), labels)
            current = self._back(network, clean, landed, labels)
            distance = self.size(current - clean)
            nearer = distance < closest
            best = torch.where(nearer[:, None, None, None], current, best)
            closest = torch.minimum(distance, closest)
        return best

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
            shares, blend = self.size(far - clean), _clipped(clean, far)
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
        return gradient.sign() if self.norm == "linf" else along(gradient)

    def _noise(self, draws: PerImageRandom, shape: torch.Size) -> Tensor:
        """(n, *shape) of length 1 in l_2: normal (l_2), uniform (l_inf)."""
        noise = draws.uniform(*shape) * 2 - 1 if self.norm == "linf" else draws.normal(*shape)
        return along(noise)


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
