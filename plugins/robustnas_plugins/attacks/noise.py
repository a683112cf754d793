"""Gaussian and uniform noise of the ball's size: what a network must stand before any attack is worth naming.

An attack that breaks fewer images than noise of the same size is no attack.  With n standard normal and u uniform in
[-1, 1], entry by entry, and epsilon the ball's radius:

              gaussian-noise                       uniform-noise
    l_inf     epsilon * clip(n, -1, 1)             epsilon * u
    l_2       epsilon * n / ||n||_2                epsilon * u / ||u||_2
    l_1       epsilon * n / ||n||_1                epsilon * u / ||u||_1

then clipped to the box, which only shortens it.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import per_image
from robustnas.options import option
from robustnas.threat import ORDER, ThreatModel


@frozen
class GaussianNoise(BallAttack):
    """Gaussian noise of the ball's size, in every norm; the worst of some draws."""

    access = "noise"

    draws: int = option(10, "draws an image; ends with the first that fools it", at_least=1)

    def evaluations(self, classes: int) -> float:
        """Each draw costs one evaluation of the network."""
        return float(self.draws)

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """The first draw that fools, else the last."""
        found = images.clone()
        standing = torch.arange(len(images), device=images.device)
        for time in range(self.draws):
            if not len(standing):
                break
            noise = self._noise(draws.at(standing).of("draw", time), images.shape[1:])
            clean = images[standing]
            found[standing] = threat.project(clean + threat.epsilon * _scaled(noise, threat.norm).to(clean), clean)
            with torch.no_grad():
                broken = fooled(network(found[standing]), labels[standing])
            standing = standing[~broken]
        return found

    def _noise(self, draws: PerImageRandom, shape: torch.Size) -> Tensor:
        """Draw (n, *shape) numbers in units of which 1 is the radius of an l_inf ball."""
        return draws.normal(*shape)


@frozen
class UniformNoise(GaussianNoise):
    """Uniform noise of the ball's size, in every norm; the worst of some draws."""

    def _noise(self, draws: PerImageRandom, shape: torch.Size) -> Tensor:
        return draws.uniform(*shape) * 2 - 1


def _scaled(noise: Tensor, norm: str) -> Tensor:
    """The noise in a ball of radius 1, (n, C, H, W): on its surface, but in l_inf."""
    if norm == "linf":
        return noise.clamp(-1.0, 1.0)
    return noise / per_image(noise.flatten(1).norm(p=ORDER[norm], dim=1).clamp_min(1e-12), noise)
