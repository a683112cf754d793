"""Finds where a function of a log radius crosses 0, by a bracketed search: one root an image, all images at once.

The function ("miss") is the log of a bound's width over the clean margin, at a log radius: below 0 where the radius is
certified.  It rises as fast as its argument at small radii, where widths are proportional to them, mostly faster
beyond, and may jump where the choice of a line flips.
"""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor

LEAST_SLOPE = 0.5
"""Steps assume that the function rises at least so fast, which fails only where the box of images ends its growth."""

FARTHEST = 6.0
"""The longest step along the secant through the last two points: a factor of 400 in the radius."""


@define(eq=False)
class Bracket:
    """Log radii between which each image's root lies, and by how much the width misses the margin there.

    Args:
        below, above: (N,) log radii between which every root lies.
        first: (N,) where to look first: the root of the function's continuation from small radii, where it is its
            argument plus a constant.
    """

    below: Tensor
    above: Tensor
    first: Tensor
    miss_below: Tensor = field(init=False)
    miss_above: Tensor = field(init=False)
    _last: tuple[Tensor, Tensor] | None = field(init=False, default=None)
    _slope: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.first = torch.minimum(torch.maximum(self.first, self.below), self.above)
        self.miss_below, self.miss_above = self.below - self.first, torch.full_like(self.below, torch.inf)
        self._slope = torch.full_like(self.below, torch.nan)

    def note(self, at: Tensor, miss: Tensor, low: Tensor | None = None) -> None:
        """Take in a log radius and its miss, (N,) both; a miss of NaN (an overflow) counts as above the root.

        Args:
            low: (N,) whether the radius lies below the root; by default the sign of the miss decides.
        """
        miss = torch.nan_to_num(miss, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        low = miss < 0 if low is None else low
        miss = torch.where(low, miss.clamp_max(0.0), miss.clamp_min(0.0))
        self.below, self.above = torch.where(low, at, self.below), torch.where(low, self.above, at)
        # an end that stays counts half (the Illinois rule), so that the secant of the ends gets past the root
        half = 1.0 if self._last is None else 0.5
        self.miss_below, self.miss_above = (
            torch.where(low, miss, self.miss_below * half),
            torch.where(low, self.miss_above * half, miss),
        )
        if self._last is not None:
            steep = (miss - self._last[1]) / (at - self._last[0])
            self._slope = torch.where(steep.isfinite(), steep.clamp_min(LEAST_SLOPE), self._slope)
        self._last = at, miss

    def guess(self, tolerance: float = 0.0) -> Tensor:
        """Choose where to look next, (N,), at least 0.6 of the tolerance inside the ends.

        It is where the secant through the last two points crosses 0; where that leaves the bracket, the secant of its
        ends, or its middle.
        """
        if self._last is None:
            return self.first
        at, miss = self._last
        root = at - (miss / self._slope).clamp(-FARTHEST, FARTHEST)
        gap, share = self.above - self.below, self.miss_below / (self.miss_below - self.miss_above)
        between = self.below + gap * torch.where(share.isfinite() & self.miss_above.isfinite(), share, 0.5)
        inside = (root > self.below) & (root < self.above) & miss.isfinite()
        root = torch.where(inside, root, between)
        step = torch.minimum(torch.full_like(gap, 0.6 * tolerance), gap / 2)
        return torch.minimum(torch.maximum(root, self.below + step), self.above - step)

    def part(self, kept: Tensor) -> Bracket:
        """Select the images at the indices (M,)."""
        part = Bracket(self.below[kept], self.above[kept], self.first[kept])
        part.miss_below, part.miss_above = self.miss_below[kept], self.miss_above[kept]
        part._slope = self._slope[kept]
        part._last = None if self._last is None else (self._last[0][kept], self._last[1][kept])
        return part
