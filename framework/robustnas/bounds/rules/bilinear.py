"""Products of two values that both depend on the images: entry by entry, of matrices, in any sum of products.

With x in a +- r and y in b +- s, each of these planes lies below x y (the first two: McCormick 1976)

    l_b x + l_a y - l_a l_b        u_b x + u_a y - u_a u_b        b x + a y - a b - r s

and these above it

    u_b x + l_a y - l_a u_b        l_b x + u_a y - u_a l_b        b x + a y - a b + r s

where l = centre - radius, u = centre + radius.  The third is the mean of the other two, so all enclose the same volume
with the product.  The plane whose least (largest) value over the box is best is taken, or the third where the gain is
small.  Summed over the terms of an output, planes bound products of matrices (for attention: Shi et al. 2020,
arXiv:2002.06622).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.passes import tighten
from robustnas.bounds.relaxation import relax
from robustnas.bounds.steps.lines import Lines
from robustnas.bounds.steps.local import apart
from robustnas.bounds.value import Value

Product = Callable[[Tensor, Tensor], Tensor]
"""A bilinear function of two tensors whose coefficients are not negative."""

TIE = 2.0**-6
"""Where a factor has one sign, all planes have the same least value, and rounding would choose: the third plane is
given a bonus of this share of the radii's product."""


def bilinear(product: Product, left: Value, right: Value, *, entrywise: bool = False) -> Value:
    """Bound the `product` of two values with exponent 0.

    Args:
        entrywise: every output is a product of one entry of either, so that its interval follows from theirs exactly.
    """
    propagation = left.propagation
    tighten(left)
    tighten(right)
    with propagation.intervals():
        a, b = left.centre, right.centre
        first, last = (left.lower, right.lower), (left.upper, right.upper)
        spread = product(left.radius, right.radius)
        below = [_Plane(product, *first), _Plane(product, *last), _Plane(product, a, b, -spread)]
        above = [_Plane(product, first[0], last[1]), _Plane(product, last[0], first[1]), _Plane(product, a, b, spread)]
        lows = torch.stack([plane.least(*first, *last) for plane in below])
        highs = torch.stack([plane.least(*last, *first) for plane in above])
        lower, upper = lows.amax(0), highs.amin(0)
        if entrywise:
            corners = torch.stack([product(x, y) for x in (first[0], last[0]) for y in (first[1], last[1])])
            lower, upper = corners.amin(0), corners.amax(0)
        # where both are points, rounding may let the ends cross
        centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp_min(0.0)
    clean = None
    if left.clean is not None and right.clean is not None:
        x, y = left.clean, right.clean
        clean = product(x, y)
        if propagation.backward:
            own = apart((x, y))
            under, over = ([plane.at(*own) for plane in planes] for planes in (below, above))
            bonus, output = TIE * spread.detach(), clean
            lines = _chosen(under, lows, bonus), _chosen(over, -highs, bonus)
            clean = relax(propagation, clean, *lines, (x, y), lambda: Lines(output, *lines, own))
    return left.like(clean, centre, radius)


@frozen(eq=False)
class _Plane:
    """The plane b x + a y - a b + shift, where `product` stands for every multiplication."""

    product: Product
    a: Tensor
    b: Tensor
    shift: Tensor | None = None

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        plane = self.product(x, self.b) + self.product(self.a, y) - self.product(self.a, self.b)
        return plane if self.shift is None else plane + self.shift

    def least(self, x_low: Tensor, y_low: Tensor, x_high: Tensor, y_high: Tensor) -> Tensor:
        """Give the least value over a box; with the box's ends exchanged, the largest."""
        product, a, b = self.product, self.a, self.b
        value = product(x_low, b.clamp_min(0.0)) + product(x_high, b.clamp_max(0.0)) - product(a, b)
        value = value + product(a.clamp_min(0.0), y_low) + product(a.clamp_max(0.0), y_high)
        return value if self.shift is None else value + self.shift


def _chosen(planes: list[Tensor], ends: Tensor, bonus: Tensor) -> Tensor:
    """Choose the plane of the largest end, after the third plane was given a bonus."""
    which = torch.stack([ends[0], ends[1], ends[2] + bonus]).argmax(0)
    return torch.where(which == 0, planes[0], torch.where(which == 1, planes[1], planes[2]))
