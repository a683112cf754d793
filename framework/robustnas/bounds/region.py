"""The images an adversary may show, and the least value a linear function takes on them.

The region of one image is its l_inf or l_2 ball cut with the box of images, pixels in [0, 1].
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from torch import Tensor

DUAL_STEPS = 24
"""Bisection steps for the multiplier of the ball; every multiplier gives a sound value, more steps a larger
one."""


@frozen(eq=False)
class Region:
    """All admissible images around `images`.

    Args:
        images: (N, ...) clean images in [0, 1].
        norm: `linf` or `l2`.
        epsilon: (N,) radius of each image's ball, pixel units.
    """

    images: Tensor
    norm: str
    epsilon: Tensor
    centre: Tensor = field(init=False)
    """(N, ...) centre of the smallest box that holds the region."""
    radius: Tensor = field(init=False)
    """(N, ...) half width of that box."""

    def __attrs_post_init__(self) -> None:
        epsilon = self.per_image(self.epsilon)
        lower = (self.images - epsilon).clamp_min(0.0)
        upper = (self.images + epsilon).clamp_max(1.0)
        object.__setattr__(self, "centre", (lower + upper) / 2)
        object.__setattr__(self, "radius", (upper - lower) / 2)

    def per_image(self, values: Tensor) -> Tensor:
        """(..., N) -> (..., N, 1, ..., 1), to stand beside images."""
        return values.reshape(*values.shape, *[1] * (self.images.dim() - 1))

    def minimum(self, slopes: Tensor) -> Tensor:
        """Least value of <slopes, x - images> over the region: (S, N, ...) -> (S, N).

        l_inf: the region is a box, so the minimum has a closed form.  l_2: for every multiplier t >= 0 of the
        constraint |d| <= epsilon the dual function

            g(t) = min over the box of  <A, d> + t/2 (|d|^2 - epsilon^2),   d = clip(-A / t, box)

        lies below the minimum, and the largest g(t) equals it.  Without the box the best t is |A| / epsilon,
        which gives -epsilon |A|; the box shortens d, so the best t is smaller.
        """
        if self.norm == "linf":
            return _inner(slopes, self.centre - self.images) - _inner(slopes.abs(), self.radius)
        lower, upper = self.centre - self.radius - self.images, self.centre + self.radius - self.images
        lower, upper = lower.clamp_max(0.0), upper.clamp_min(0.0)
        tiny = torch.finfo(slopes.dtype).tiny ** 0.5
        with torch.no_grad():
            free = slopes.flatten(2).norm(dim=2) / self.epsilon.clamp_min(tiny)
            high = free.clamp_min(tiny).log()
            low = high - 12.0
            start = high
            for _ in range(DUAL_STEPS):
                middle = (low + high) / 2
                step = torch.clamp(-slopes / self.per_image(middle.exp()), lower, upper)
                long = step.flatten(2).norm(dim=2) > self.epsilon
                low, high = torch.where(long, middle, low), torch.where(long, high, middle)
            # no pixel of the box binds: the multiplier of the ball alone, without bisection error
            step = torch.clamp(-slopes / self.per_image(start.exp()), lower, upper)
            unbound = step.flatten(2).norm(dim=2) >= self.epsilon * (1 - 1e-6)
            best = torch.where(unbound, start, high).exp()
        step = torch.clamp(-slopes / self.per_image(best), lower, upper).detach()
        # d is the minimiser, so its own derivative does not change g (envelope theorem) and it may stay fixed
        excess = step.flatten(2).square().sum(2) - self.epsilon.square()
        return _inner(slopes, step) + best / 2 * excess


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(2).sum(2)
