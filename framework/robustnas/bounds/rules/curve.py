"""Lines around functions of one entry that are concave, then convex, then concave: by chord or tangent.

S-shaped functions (no first piece), GELU and its kin (all three), convex functions (one piece) and clamps (three
straight pieces) are all of this shape; any piece may be missing.

The best line above a function on [l, u], by area, is the one that supports its concave envelope at the middle m:
its mean over the interval is its height at m.  Outside the convex piece the envelope is the function itself up to the
point where a line from the far end touches it, and that line from there on; CROWN (arXiv:1811.00866) draws the same
lines for sigmoid and tanh, with other points for the tangents.  Below, likewise, with a line from each end.

Soundness does not rest on finding those points.  For any slope s let g = f - s x.  On a concave piece g is least at
the ends, on a convex one it lies above its tangent, g(x) >= g(t) + g'(t)(x - t) for every t in it.  So

    s x + min( g(l), g(u), g(t) + min over the convex piece's ends e of g'(t)(e - t) )  <=  f(x)    on [l, u]

for every s and every t, and the same above with concave pieces, maxima and >=.  The last term is 0 where s is
the tangent's slope at t, and of the order of the search's error where s is that of the line from an end to t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.streams import Entrywise, Lines, enclose
from robustnas.bounds.value import Value

STEPS, HALVING = 36, 6
"""The search for a tangent from an end takes at most so many steps, of which each sixth halves the bracket."""

ULPS = 4.0
"""Lines are moved outward by so many units of rounding of the largest number that they are made of."""


@frozen(eq=False)
class Curve:
    """A function that is concave up to `left`, convex up to `right` and concave beyond, and continuous.

    Args:
        value: the function.
        slope: its derivative on the convex piece.
        outer: its derivative on the concave pieces; they differ at kinks, which may be at `left` and `right`.
        left, right: ends of the convex piece, infinite ones included.
        straight: all pieces are straight, so that tangents need no search.
        valley: where the function is least, if it falls before and rises behind; None: it never falls.
        noise: by how many units of rounding of its argument, up to 8, torch's function may be wrong; 0 where it is
            right to a few units of rounding of its value.
        deficit: (lower, upper) -> how far the function as computed may lie below `value`.
    """

    value: Entrywise
    slope: Entrywise
    outer: Entrywise
    left: float = -torch.inf
    right: float = torch.inf
    straight: bool = False
    valley: float | None = None
    noise: float = 0.0
    deficit: Callable[[Tensor, Tensor], Tensor] | None = None

    def derivative(self, x: Tensor) -> Tensor:
        """The derivative; at kinks, that of one of the sides."""
        if self.slope is self.outer:
            return self.slope(x)
        return torch.where((x >= self.left) & (x <= self.right), self.slope(x), self.outer(x))

    def computed_within(self, size: Tensor) -> Tensor:
        """How far torch's function may be wrong for arguments up to this size."""
        return self.noise * torch.finfo(size.dtype).eps * size.detach().clamp_max(8.0)

    def matters(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether the lines of an entry lie beside the function, so that a tighter interval would move them."""
        if not self.straight:
            return torch.ones_like(lower, dtype=torch.bool)
        return ((lower < self.left) & (upper > self.left)) | ((lower < self.right) & (upper > self.right))


def enclose_curve(curve: Curve, function: Entrywise, value: Value) -> Value:
    """Bound `function`, which computes the curve, of a value."""
    result = enclose(
        value,
        function,
        lambda lower, upper, _: lines(curve, lower, upper),
        curve.matters,
        lambda lower, upper, _: span(curve, lower, upper),
    )
    thin = value.radius <= 16 * torch.finfo(value.radius.dtype).eps * value.centre.abs()
    if not bool(thin.any()):
        return result
    with value.propagation.intervals():
        # the ends lose a radius that is below the rounding of its centre
        radius = value.radius * curve.derivative(value.centre).abs()
        result.radius = torch.where(thin, torch.maximum(radius, result.radius), result.radius)
    return result


def span(curve: Curve, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Find the least and largest value on [lower, upper]; NaN where an end, or the function at an end, is NaN."""
    if curve.valley is None:
        lowest, highest = curve.value(lower), curve.value(upper)
    else:
        # at -inf torch computes some of these functions as -inf * 0, which is NaN
        bottom = lower.clamp_min(torch.finfo(lower.dtype).min)
        ends = curve.value(bottom), curve.value(upper)
        lowest = torch.minimum(torch.minimum(*ends), curve.value(upper.clamp_max(curve.valley).maximum(bottom)))
        highest = torch.maximum(*ends)
    if curve.deficit is not None:
        lowest = lowest - curve.deficit(lower, upper)
    if curve.noise:
        noise = curve.computed_within(torch.maximum(lower.abs(), upper.abs()))
        lowest, highest = lowest - noise, highest + noise
    return lowest, highest


def lines(curve: Curve, lower: Tensor, upper: Tensor) -> Lines:
    """Draw the lines below and above a curve on [lower, upper].

    Where the interval is too wide to compute with, they are level lines through the function's extremes, and their
    offset is infinite or NaN where those are.  First derivatives in the interval's ends are those of the ideal lines:
    the slope of a tangent from an end does not change with the touching point to first order, so the touching point
    may be held constant.
    """
    largest = torch.finfo(lower.dtype).max / 8
    usable = (lower.abs() <= largest) & (upper.abs() <= largest)
    piece = _Interval(curve, torch.where(usable, lower, 0.0), torch.where(usable, upper, 0.0))
    (below, beneath), (above, atop) = piece.below(), piece.above()
    if curve.deficit is not None:
        beneath = beneath - curve.deficit(piece.low, piece.high)
    if bool(usable.all()):
        return Lines(below, beneath, above, atop)
    lowest, highest = span(curve, lower, upper)
    return Lines(
        torch.where(usable, below, 0.0),
        torch.where(usable, beneath, lowest),
        torch.where(usable, above, 0.0),
        torch.where(usable, atop, highest),
    )


class _Interval:
    """A curve on finite intervals [low, high], (N, ...)."""

    def __init__(self, curve: Curve, low: Tensor, high: Tensor):
        self.curve, self.low, self.high = curve, low, high
        self.at_low, self.at_high = curve.value(low), curve.value(high)
        self.middle = (low + high) / 2
        self.at_middle = curve.derivative(self.middle)
        with torch.no_grad():
            self.size = torch.maximum(low.abs(), high.abs())
            unit = torch.finfo(low.dtype).eps
            # between ends so close, the slope of a chord would be made of rounding
            self.narrow = high - low <= (16 * unit if curve.straight else unit**0.5) * self.size
            self.left, self.right = (self._cut(place) for place in (curve.left, curve.right))

    def below(self) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line below: the tangent at the middle where that lies between the points at which the
        tangents from the ends touch the convex piece, else the nearer of these tangents."""
        curve, middle = self.curve, self.middle
        with torch.no_grad():
            first, last = self.left, self.right
            if curve.left > -torch.inf:
                first = _touching(curve, curve.slope, self.low, self.left, self.right, 1.0)
            if curve.right < torch.inf:
                last = _touching(curve, curve.slope, self.high, self.right, self.left, 1.0)
            from_low, from_high = (middle < first) & ~self.narrow, (middle > last) & ~self.narrow
            inside = middle.clamp(self.left, self.right)
        touch = torch.where(from_low, self._live(first), torch.where(from_high, self._live(last), self._live(inside)))
        end = torch.where(from_low, self.low, self.high)
        at_end = torch.where(from_low, self.at_low, self.at_high)
        at_touch = curve.value(touch)
        slope = self._slope(touch - end, at_touch - at_end, from_low | from_high)
        with torch.no_grad():
            pull = curve.slope(touch) - slope
            slack = torch.minimum(pull * (self.left - touch), pull * (self.right - touch))
            slack = slack - self._rounding(slope, at_touch)
        ends = torch.minimum(self.at_low - slope * self.low, self.at_high - slope * self.high)
        return slope, torch.minimum(ends, at_touch - slope * touch) + slack

    def above(self) -> tuple[Tensor, Tensor]:
        """Slope and offset of the line above.  It runs from the far end to the point where it touches the last concave
        piece (without one, the first; without both, to the other end).  Where the middle lies behind that point, it is
        the tangent at the middle."""
        curve, middle = self.curve, self.middle
        with torch.no_grad():
            behind = self.high > curve.right
            before = ~behind & (self.low < curve.left)
            near = torch.where(behind, self.right, torch.where(before, self.left, self.high))
            away = torch.where(before, self.low, self.high)
            end = torch.where(before, self.high, self.low)
            touching = near
            if curve.left > -torch.inf or curve.right < torch.inf:
                touching = _touching(curve, curve.outer, end, near, away, -1.0)
            tangent = torch.where(before, middle < touching, middle > touching) | self.narrow
            inside = middle.clamp(torch.minimum(near, away), torch.maximum(near, away))
        touch = torch.where(tangent, self._live(inside), self._live(touching))
        at_touch = curve.value(touch)
        end = torch.where(before, self.high, self.low)
        at_end = torch.where(before, self.at_high, self.at_low)
        slope = self._slope(touch - end, at_touch - at_end, ~tangent)
        with torch.no_grad():
            pull = curve.outer(touch) - slope
            slack = torch.maximum(pull * (near - touch), pull * (away - touch)) + self._rounding(slope, at_touch)
            # with both concave pieces inside, the first is bounded by its tangent at the interval's lower end
            rise = (curve.outer(self.low) - slope) * (self.left - self.low)
            rise = torch.where(behind, rise.clamp_min(0.0), 0.0)
        ends = torch.maximum(self.at_low - slope * self.low + rise, self.at_high - slope * self.high)
        return slope, torch.maximum(ends, at_touch - slope * touch) + slack

    def _slope(self, run: Tensor, rise: Tensor, bridges: Tensor) -> Tensor:
        """The slope from the end to the touching point where the line bridges, else the slope at the middle."""
        return torch.where(bridges, rise / torch.where(bridges, run, 1.0), self.at_middle)

    def _cut(self, place: float) -> Tensor:
        return torch.full_like(self.low, place).clamp(self.low, self.high)

    def _live(self, place: Tensor) -> Tensor:
        """Give a place that was computed without a graph the graph of the end or middle with which it coincides."""
        place = torch.where(place == self.middle, self.middle, place)
        return torch.where(place >= self.high, self.high, torch.where(place <= self.low, self.low, place))

    def _rounding(self, slope: Tensor, at_touch: Tensor) -> Tensor:
        unit = torch.finfo(slope.dtype).eps
        values = torch.maximum(torch.maximum(self.at_low.abs(), self.at_high.abs()), at_touch.abs())
        # a number below the smallest normal one has fewer digits, so its rounding is absolute
        subnormal = 64 * torch.finfo(slope.dtype).tiny
        return ULPS * unit * (values + slope.abs() * self.size) + self.curve.computed_within(self.size) + subnormal


def _touching(curve: Curve, derivative: Entrywise, end: Tensor, near: Tensor, away: Tensor, sign: float) -> Tensor:
    """Find the place between `near` and `away`, on one piece, whose tangent meets the curve at `end`.

    It is where h(x) = f(x) - f(end) - f'(x)(x - end) crosses 0; from `near` on, h falls where the piece is convex
    (sign 1) and rises where it is concave (-1).  The result is `near` if h has changed its sign there already, and
    `away` if it never does.
    """
    at_end = curve.value(end)
    at_near = _height(curve, derivative, sign, near, end, at_end)[0]
    place = torch.where(at_near > 0, away, near)
    if curve.straight:
        return place
    # farther out exponentials have underflowed, and no tangent touches
    reach = 128.0 if near.dtype == torch.float32 else 1024.0
    within = away.clamp(near.clamp_max(-reach), near.clamp_min(reach))
    at_within = _height(curve, derivative, sign, within, end, at_end)[0]
    between = (at_near > 0) & (at_within <= 0)
    ends = [each[between] for each in (near, within, at_near, at_within, end, at_end)]
    return place.masked_scatter(between, _root(curve, derivative, sign, *ends))


def _height(
    curve: Curve, derivative: Entrywise, sign: float, x: Tensor, end: Tensor, at_end: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute sign * h(x) of `_touching`, and how much of it may be rounding."""
    at_x, rise = curve.value(x), derivative(x) * (x - end)
    unit = ULPS * torch.finfo(x.dtype).eps
    return sign * (at_x - at_end - rise), unit * (at_x.abs() + at_end.abs() + rise.abs())


def _root(
    curve: Curve,
    derivative: Entrywise,
    sign: float,
    first: Tensor,
    last: Tensor,
    at_first: Tensor,
    at_last: Tensor,
    end: Tensor,
    at_end: Tensor,
) -> Tensor:
    """Find zeros (P,) of heights that are positive at `first` and not at `last`, by Illinois steps and halvings."""
    roots, places = first.clone(), torch.arange(len(first), device=first.device)
    was = torch.zeros_like(first)
    for step in range(STEPS):
        if len(places) == 0:
            break
        share = at_first / (at_first - at_last)
        place = (first + last) / 2 if step % HALVING == 0 else first + (last - first) * share
        at_place, rounding = _height(curve, derivative, sign, place, end, at_end)
        roots[places] = place
        positive = at_place > 0
        # Illinois: an end that stays a second time counts half, else the steps would creep up from one side
        at_first, at_last = (
            torch.where(positive, at_place, torch.where(was < 0, at_first / 2, at_first)),
            torch.where(positive, torch.where(was > 0, at_last / 2, at_last), at_place),
        )
        first, last = torch.where(positive, place, first), torch.where(positive, last, place)
        was = torch.where(positive, 1.0, -1.0).to(first)
        if step % 3 == 2:
            going = at_place.abs() > rounding
            first, last, at_first, at_last, end, at_end, was, places = (
                each[going] for each in (first, last, at_first, at_last, end, at_end, was, places)
            )
    return roots
