"""Noise of the ball's size, drawn until an image is fooled; the formulas are in `noise`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel

Kind = Callable[[PerImageRandom, "tuple[int, ...]"], Tensor]
"""PerImageRandom and the shape of an image -> (N, *shape) in units of which 1 is the radius of an l_inf ball."""


def gaussian(draws: PerImageRandom, shape: tuple[int, ...]) -> Tensor:
    """Standard normal."""
    return draws.normal(*shape)


def uniform(draws: PerImageRandom, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [-1, 1]."""
    return draws.uniform(*shape) * 2 - 1


class Drawn(BallAttack):
    """Noise of one kind.

    Args:
        norm: of the ball.
        times: draws an image.
        kind: of noise.
    """

    access = "noise"

    def __init__(self, norm: str, times: int, kind: Kind):
        super().__init__(norm)
        self.times = times
        self.kind = kind

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """See `BallAttack.perturbed`: the first draw that fools, else the last."""
        found = images.clone()
        standing = torch.arange(len(images), device=images.device)
        for time in range(self.times):
            if not len(standing):
                break
            noise = self.kind(draws.at(standing).of("draw", time), tuple(images.shape[1:]))
            clean = images[standing]
            found[standing] = threat.project(clean + threat.epsilon * self._scaled(noise).to(clean), clean)
            with torch.no_grad():
                broken = fooled(network(found[standing]), labels[standing])
            standing = standing[~broken]
        return found

    def _scaled(self, noise: Tensor) -> Tensor:
        """The noise in a ball of radius 1, (n, C, H, W): on its surface, but in l_inf."""
        if self.norm == "linf":
            return noise.clamp(-1.0, 1.0)
        length = noise.flatten(1).norm(p=2 if self.norm == "l2" else 1, dim=1).clamp_min(1e-12)
        scaled: Tensor = noise / length[:, None, None, None]
        return scaled
