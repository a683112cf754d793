"""Where a function of a logarithm crosses 0: a bracketed search, one root an image, all images at once.

The function ("miss") is the log of a bound's width over the clean margin, at a log radius: below 0 where the radius is
certified.  It rises as fast as its argument at small radii, where widths are proportional to them, mostly faster
beyond, and may jump where the choice of a line flips.
"""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor

LEAST_SLOPE = 0.5
"""The function is believed to rise at least so fast; it does not where the box of images ends its growth."""

FARTHEST = 6.0
"""Length of the longest step by the last two: a factor of 400 in the radius."""


@define(eq=False)
class Bracket:
    """Log radii between which each image's root lies, and by how much the width misses the margin there.

    Args:
        below, above: (N,) the least and the most there is.
        first: (N,) where the root would be, were the function its argument plus a constant, as at small radii: where
            to look first.
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
        """A log radius and its miss, (N,) both; a miss of NaN (an overflow) lies above.

        Args:
            low: (N,) whether it lies below the root, where something besides the sign of the miss decides.
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
        """Where to look next, (N,), at least 0.6 of the tolerance inside the ends.

        The secant through the last two; where that leaves the bracket, the secant of its ends, or its middle.
        """
        if self._last is None:
            return self.first
        at, miss = self._last
        found = at - (miss / self._slope).clamp(-FARTHEST, FARTHEST)
        gap, share = self.above - self.below, self.miss_below / (self.miss_below - self.miss_above)
        between = self.below + gap * torch.where(share.isfinite() & self.miss_above.isfinite(), share, 0.5)
        inside = (found > self.below) & (found < self.above) & miss.isfinite()
        found = torch.where(inside, found, between)
        step = torch.minimum(torch.full_like(gap, 0.6 * tolerance), gap / 2)
        return torch.minimum(torch.maximum(found, self.below + step), self.above - step)

    def part(self, kept: Tensor) -> Bracket:
        """The bracket of some of its images, (M,) indices."""
        part = Bracket(self.below[kept], self.above[kept], self.first[kept])
        part.miss_below, part.miss_above = self.miss_below[kept], self.miss_above[kept]
        part._slope = self._slope[kept]
        part._last = None if self._last is None else (self._last[0][kept], self._last[1][kept])
        return part
