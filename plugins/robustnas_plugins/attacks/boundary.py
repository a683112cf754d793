"""Boundary attack: a random walk along the boundary that comes nearer, by decisions alone.

A step goes sideways on the sphere around the clean image, then towards it.  Both lengths adapt to how often a step
still fools: sideways to about half of the looks (changed outside 0.2 to 0.5, and the step inwards with it), inwards to
about a quarter of the steps (outside 0.1 to 0.25).  Source: Brendel et al. 2018, arXiv:1712.04248, section 2.

Not foolbox's form: there the images of a batch share each step's random direction, and one image without a start ends
the attack for all.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt
from torch import Tensor

from robustnas.attack.foolbox_attack import NearestAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.options import option
from robustnas_plugins.attacks.starts import TRIES, starts, straight, towards

BLENDS = 10
"""Halvings of the way from the clean image to the start."""
LOOK = 10
"""Every so many steps the sideways part is judged alone."""
LOOKS, STEPS = 10, 30
"""So many looks, and steps, decide whether the lengths change."""
FACTOR = 1.5
"""By what a length is multiplied or divided when it changes."""
CONVERGED = 1e-7
"""An image whose step inwards is a smaller share of the distance leaves."""


@frozen
class Boundary(NearestAttack):
    """The boundary attack in l_2: sees the predicted class only."""

    name = "boundary"
    norms = ("l2",)
    instead = "hopskipjump knows linf and l2"
    access = "black-box"

    steps: int = option(5000, "steps of the walk; thousands are needed", at_least=1)
    sideways: float = option(
        0.01, "first length of the part on the sphere, as a share of the distance", gt(0.0), converter=float
    )
    inwards: float = option(
        0.01, "first length of the part towards the clean image, as a share of the distance", gt(0.0), converter=float
    )
    tries: int = option(50, TRIES, at_least=1)

    def evaluations(self, classes: int) -> float:
        """The start, its bisection, and one a step, with every tenth step also looked at before it goes inwards."""
        return float(self.tries + BLENDS + self.steps + self.steps // LOOK)

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """The nearest images found that fool; one without a start stays clean."""
        begun, has = starts(network, images, labels, draws, self.tries)
        if bool(has.any()):
            begun[has] = self._walked(network, images[has], begun[has], labels[has], draws.at(has))
        return begun

    def _walked(self, network: Network, clean: Tensor, start: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """Walk from images that fool to nearer ones, (n, C, H, W)."""
        shares = torch.ones(len(clean)).to(clean)
        best = towards(network, straight(clean, start), start, shares, labels, BLENDS).clone()
        places = torch.arange(len(clean), device=clean.device)
        sideways = torch.full((len(clean),), self.sideways).to(clean)
        inwards = torch.full((len(clean),), self.inwards).to(clean)
        looks, steps = _Rate(LOOKS, sideways), _Rate(STEPS, sideways)
        for step in range(1, self.steps + 1):
            going = inwards[places] >= CONVERGED
            places = places[going]
            if not len(places):
                break
            here, truth = clean[places], labels[places]
            normal = draws.at(places).of("step", step).normal(*clean.shape[1:])
            moved = _sideways(here, best[places], normal, sideways[places])
            distance = (best[places] - here).flatten(1).norm(dim=1)
            proposed = _inwards(here, moved, distance, inwards[places])
            with torch.no_grad():
                broken = fooled(network(proposed), truth)
                if step % LOOK == 0:
                    looks.add(places, fooled(network(moved), truth))
            nearer = (proposed - here).flatten(1).norm(dim=1) < distance
            best[places[broken & nearer]] = proposed[broken & nearer]
            steps.add(places, broken)
            factor = looks.factor(0.2, 0.5)
            sideways, inwards = sideways * factor, inwards * factor * steps.factor(0.1, 0.25)
        return best


class _Rate:
    """How often something fools, image by image, over windows of `window` times."""

    def __init__(self, window: int, like: Tensor):
        self.window = window
        self.times, self.fooling = torch.zeros_like(like), torch.zeros_like(like)

    def add(self, places: Tensor, broken: Tensor) -> None:
        """Count one more time for the images at `places`."""
        self.times[places] += 1
        self.fooling[places] += broken.to(self.fooling)

    def factor(self, low: float, high: float) -> Tensor:
        """The factors by which to change a length, (N,); where a window is full, it is emptied."""
        full, share = self.times >= self.window, self.fooling / self.window
        factor = torch.ones_like(share)
        factor[full & (share > high)] = FACTOR
        factor[full & (share < low)] = 1 / FACTOR
        self.times[full], self.fooling[full] = 0.0, 0.0
        return factor


def _sideways(clean: Tensor, current: Tensor, normal: Tensor, share: Tensor) -> Tensor:
    """Move `current` by `share` of its distance at a right angle to the way back, then onto the sphere, in the box."""
    way = (clean - current).flatten(1)
    distance = way.norm(dim=1, keepdim=True).clamp_min(1e-12)
    back = way / distance
    across = normal.flatten(1)
    across = across - (across * back).sum(dim=1, keepdim=True) * back
    across = across / across.norm(dim=1, keepdim=True).clamp_min(1e-12) * share[:, None] * distance
    onto = (across - way) / (1 + share[:, None].square()).sqrt()
    moved: Tensor = (clean.flatten(1) + onto).clamp(0.0, 1.0)
    return moved.view_as(clean)


def _inwards(clean: Tensor, moved: Tensor, distance: Tensor, share: Tensor) -> Tensor:
    """Move from `moved` towards the clean image, to `1 - share` of `distance` (n,) from it, unless it is there."""
    delta = moved - clean
    length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    scale = ((1 - share).clamp_min(0.0) * distance / length).clamp_max(1.0)
    nearer: Tensor = (clean + scale[:, None, None, None] * delta).clamp(0.0, 1.0)
    return nearer
