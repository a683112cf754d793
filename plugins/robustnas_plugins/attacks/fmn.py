"""FMN: gradient steps of the margin, projected into a ball whose radius is led to the distance of the boundary.

Until the image fools once, the radius is just beyond where the margin, made linear, would be 0; afterwards it shrinks
by a share gamma where the image fools and grows by it where not, with gamma falling to 0.001.
Source: Pintor et al. 2021, arXiv:2102.12827, algorithm 1.

Not foolbox's form (3.3.4): its `L2FMNAttack.project` scales by min(1, norm / norm), which is 1, so that an image never
comes back from the first that fools; and in every norm its radius leads to the boundary and not across, so that an
image whose margin is linear stops before it and is returned clean.

Unlike the paper's, the step leaves out pixels that are at the border of the box and would leave it.  In l_2 and l_1
they take their share of the radius and give none of the way: black and white images were often not fooled at all.
"""

from __future__ import annotations

import math

import torch
from attrs import frozen
from attrs.validators import gt, lt
from torch import Tensor

from robustnas.attack.foolbox_attack import NearestAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import per_image
from robustnas.nn.margin import margin_to_best_other
from robustnas.options import option
from robustnas.threat import DUAL_ORDER

ACROSS = 1.001
"""By what the radius that should reach the boundary is multiplied, so that it is crossed whatever rounding does."""
LAST_GAMMA = 0.001
"""Share by which the radius changes at the last step, as in the source."""
SHORTEST = 0.01
"""Last step as a share of the first, as in the source."""


@frozen
class FMN(NearestAttack):
    """Fast minimum norm, in l_inf, l_2 and l_1.  One evaluation a step."""

    steps: int = option(300, "gradient steps", at_least=1)
    step_size: float = option(
        1.0,
        "length of the first step, l2 whatever the norm, in pixel units; the last is a hundredth",
        gt(0.0),
        converter=float,
    )
    gamma: float = option(
        0.05,
        "share by which the radius changes at the first step; at the last 0.001",
        gt(LAST_GAMMA),
        lt(1.0),
        converter=float,
    )

    def evaluations(self, classes: int) -> float:
        """Each step costs one evaluation of the network."""
        return float(self.steps)

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """The nearest images found that fool; one that was never fooled stays clean."""
        delta, best_delta = torch.zeros_like(images), torch.zeros_like(images)
        best = torch.full((len(images),), math.inf).to(images)
        radius = best.clone()
        farthest = self.size(torch.maximum(images, 1 - images))
        for step in range(self.steps):
            slow = (1 + math.cos(math.pi * step / self.steps)) / 2
            gamma = LAST_GAMMA + (self.gamma - LAST_GAMMA) * slow
            length = self.step_size * (SHORTEST + (1 - SHORTEST) * slow)

            pixels = images + delta
            margin, broken, descent = _margins(network, pixels, labels)
            # a pixel at its border cannot follow, and would take its share of the step and of the radius
            stopped = ((pixels <= 0) & (descent < 0)) | ((pixels >= 1) & (descent > 0))
            descent = torch.where(stopped, 0.0, descent)
            size = self.size(delta)
            better = broken & (size < best)
            best = torch.where(better, size, best)
            best_delta = torch.where(better[:, None, None, None], delta, best_delta)

            steepness = descent.flatten(1).norm(p=DUAL_ORDER[self.norm], dim=1)
            reach = ACROSS * (size + margin.abs() / steepness.clamp_min(1e-12))
            apart = torch.where(best.isfinite(), radius * (1 + gamma), reach)
            radius = torch.where(broken, torch.minimum(radius * (1 - gamma), best), apart)
            radius = torch.minimum(radius, farthest)

            # where the margin is flat any direction is as good
            flat = (steepness == 0)[:, None, None, None]
            if bool(flat.any()):
                descent = torch.where(flat, draws.of("flat", step).normal(*images.shape[1:]).to(images), descent)
            way = descent / per_image(descent.flatten(1).norm(dim=1).clamp_min(1e-12), descent)
            delta = _within(delta + length * way, radius, self.norm)
            delta = (images + delta).clamp(0.0, 1.0) - images
        return (images + best_delta).clamp(0.0, 1.0)


def _margins(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f_y - max_{j != y} f_j (N,), whether images fool (N,) bool, and minus the gradient of the margin (N, C, H, W)."""
    pixels = images.detach().requires_grad_(True)
    logits = network(pixels)
    margin = margin_to_best_other(logits, labels)
    (slope,) = torch.autograd.grad(margin.sum(), pixels)
    return margin.detach(), fooled(logits, labels), -slope


def _within(delta: Tensor, radius: Tensor, norm: str) -> Tensor:
    """The nearest perturbations of at most `radius` (N,): (N, C, H, W) -> the same shape."""
    flat, limit = delta.flatten(1), radius[:, None]
    if norm == "linf":
        near = torch.maximum(torch.minimum(flat, limit), -limit)
    elif norm == "l2":
        near = flat * (limit / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    else:
        near = _within_l1(flat, limit)
    return near.view_as(delta)


def _within_l1(flat: Tensor, limit: Tensor) -> Tensor:
    """Shrink all by one threshold: Duchi et al. 2008, "Efficient projections onto the l1-ball" (ICML), figure 1."""
    size = flat.abs()
    falling = size.sort(dim=1, descending=True).values
    places = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    thresholds = (falling.cumsum(dim=1) - limit) / places
    # thresholds rise to the wanted one and fall behind it
    theta = thresholds.amax(dim=1, keepdim=True).clamp_min(0.0)
    return flat.sign() * (size - theta).clamp_min(0.0)
