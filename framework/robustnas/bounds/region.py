"""The images an adversary may show, and the least value a linear function takes on them.

The region of one image is its l_inf, l_2 or l_1 ball cut with the box of images, pixels in [0, 1].
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.threat import largest_radius

DUAL_STEPS = 24
"""Bisection steps for the multiplier of an l_2 ball; every multiplier gives a sound value, more steps a larger one."""


@frozen(eq=False)
class Region:
    """All admissible images around `images`.

    Args:
        images: (N, ...) clean images in [0, 1].
        norm: `linf`, `l2` or `l1`.
        epsilon: (N,) radius of each image's ball, pixel units.
    """

    images: Tensor
    norm: str
    epsilon: Tensor
    below: Tensor = field(init=False)
    """(N, ...) at most 0: how far each pixel may fall."""
    above: Tensor = field(init=False)
    """(N, ...) at least 0: how far each pixel may rise."""
    centre: Tensor = field(init=False)
    """(N, ...) centre of the smallest box that holds the region."""
    radius: Tensor = field(init=False)
    """(N, ...) half width of that box, and as much more as rounding may have moved its centre."""

    def __attrs_post_init__(self) -> None:
        # balls beyond this radius hold no more images
        reach = largest_radius(self.norm, self.images[0].numel())
        object.__setattr__(self, "epsilon", self.epsilon.clamp_max(reach))
        # from the distances to the faces, not from the ends: x - epsilon is x where epsilon is below x's rounding
        epsilon = self.per_image(self.epsilon)
        below, above = -torch.minimum(epsilon, self.images), torch.minimum(epsilon, 1.0 - self.images)
        middle, half = (above + below) / 2, (above - below) / 2
        centre = self.images + middle
        moved = ((centre - self.images) - middle).abs().detach()
        object.__setattr__(self, "below", below)
        object.__setattr__(self, "above", above)
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "radius", half + moved)

    def per_image(self, values: Tensor) -> Tensor:
        """Reshape (..., N) to (..., N, 1, ..., 1), so that it broadcasts over images."""
        return values.reshape(*values.shape, *[1] * (self.images.dim() - 1))

    def minimum(self, slopes: Tensor) -> Tensor:
        """Least value of <slopes, x - images> over the region: (S, N, ...) -> (S, N).

        l_inf: the region is a box, so the minimum has a closed form.  The other balls: for every multiplier t >= 0
        of the constraint |d| <= epsilon the dual function

            l_2    g(t) = min over the box of  <A, d> + t/2 (|d|_2^2 - epsilon^2),   d = clip(-A / t, box)
            l_1    g(t) = min over the box of  <A, d> + t (|d|_1 - epsilon)
                        = -t epsilon - sum_i reach_i max(|A_i| - t, 0),   reach_i how far pixel i may go against A_i

        lies below the minimum, and the largest g(t) equals it.  Without the box the best t gives -epsilon |A|_2 and
        -epsilon max |A_i|, the dual norms; the box shortens d, so the best t is smaller.
        """
        return self.least(slopes, self.below, self.above, self.epsilon)

    def lowest(self, slopes: Tensor) -> Tensor:
        """The images over which <slopes, x - images> is least: (N, ...) -> (N, ...), without a graph.

        The minimum's own gradient in the slopes is x - images (envelope theorem).
        """
        with torch.enable_grad():
            leaf = slopes.detach()[None].requires_grad_()
            (moved,) = torch.autograd.grad(self.minimum(leaf).sum(), leaf)
        return self.images + torch.clamp(moved[0], self.below, self.above)

    def least(self, slopes: Tensor, below: Tensor, above: Tensor, epsilon: Tensor) -> Tensor:
        """As `minimum`, over regions of which are given `below`, `above` (R, ...) and `epsilon` (R,): slopes
        (S, R, ...) of the images, or of the only pixels that have any."""
        if self.norm == "linf":
            return _inner(slopes, (above + below) / 2) - _inner(slopes.abs(), (above - below) / 2)
        return (_in_l2 if self.norm == "l2" else _in_l1)(slopes, below, above, epsilon)


def _in_l2(slopes: Tensor, below: Tensor, above: Tensor, epsilon: Tensor) -> Tensor:
    """Minimise over l_2 balls, with the best multiplier by bisection."""
    tiny = torch.finfo(slopes.dtype).tiny ** 0.5
    with torch.no_grad():
        free = slopes.flatten(2).norm(dim=2) / epsilon.clamp_min(tiny)
        high = free.clamp_min(tiny).log()
        low = high - 12.0
        start = high
        for _ in range(DUAL_STEPS):
            middle = (low + high) / 2
            step = torch.clamp(-slopes / _beside(middle.exp(), slopes), below, above)
            long = step.flatten(2).norm(dim=2) > epsilon
            low, high = torch.where(long, middle, low), torch.where(long, high, middle)
        # no pixel of the box binds: the multiplier of the ball alone, without bisection error
        step = torch.clamp(-slopes / _beside(start.exp(), slopes), below, above)
        unbound = step.flatten(2).norm(dim=2) >= epsilon * (1 - 1e-6)
        best = torch.where(unbound, start, high).exp()
    step = torch.clamp(-slopes / _beside(best, slopes), below, above).detach()
    # d is the minimiser, so its own derivative does not change g (envelope theorem) and it may stay fixed
    excess = step.flatten(2).square().sum(2) - epsilon.square()
    return _inner(slopes, step) + best / 2 * excess


def _in_l1(slopes: Tensor, below: Tensor, above: Tensor, epsilon: Tensor) -> Tensor:
    """Minimise over l_1 balls: the pixels of the largest slopes move as far as the box allows, until epsilon is
    spent, and the last of these slopes is the best multiplier t."""
    size = slopes.abs().flatten(2)
    reach = torch.where(slopes > 0, -below, above).flatten(2)
    order = size.detach().argsort(dim=2, descending=True)
    spent = reach.detach().gather(2, order).cumsum(2)
    enough = spent >= epsilon.detach()[:, None]
    # the index is 0 where moving every pixel to its end does not spend epsilon: there the ball does not bind
    last = enough.to(torch.uint8).argmax(dim=2, keepdim=True)
    multiplier = size.gather(2, order.gather(2, last)).squeeze(2)
    multiplier = torch.where(enough.any(dim=2), multiplier, 0.0)
    rest = torch.relu(size - multiplier[..., None])
    return -multiplier * epsilon - (reach * rest).sum(2)


def _beside(values: Tensor, slopes: Tensor) -> Tensor:
    return values.view(*values.shape, *[1] * (slopes.dim() - values.dim()))


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(2).sum(2)
