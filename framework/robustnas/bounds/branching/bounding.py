"""Bounds of many parts of regions at once, by ascent on the slopes of lower lines and on the multipliers of splits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.ascent import descended
from robustnas.bounds.branching.problem import Part, Problem
from robustnas.bounds.passes import bounded_logits, drop_below_clean, pulled_back
from robustnas.bounds.propagation import Ascent, FreeSlopes, Pass, Propagation
from robustnas.bounds.settled import Interval, Settled
from robustnas.bounds.value import Value
from robustnas.errors import UnsupportedOpError


@frozen(eq=False)
class Bounded:
    """What a pass over parts found.

    Args:
        bounds: (D,) lower bounds of the margins over the parts.
        images: (D, ...) where each part's linear bound is least over the region.
        parts: the same parts, with the bounds, slopes and multipliers that were best, and where to split them.
    """

    bounds: Tensor
    images: Tensor
    parts: list[Part]


@frozen(eq=False)
class _Splits:
    """The splits of all parts at one place.

    Args:
        place: which.
        row, entry: (B,) part and entry of each.
        sign: (B,) the s of s * z <= 0.
        owner: for each, its part and its number among the part's splits.
    """

    place: int
    row: Tensor
    entry: Tensor
    sign: Tensor
    owner: tuple[tuple[int, int], ...]

    def spread(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Put one value a split (B,) at its entry, 0 elsewhere: (1, D, ...)."""
        flat = values.new_zeros(shape[0], shape[1:].numel())
        return flat.index_put((self.row, self.entry), values).view(1, *shape)


def bound(problem: Problem, parts: Sequence[Part], ascent: Ascent, enough: Tensor) -> Bounded:
    """Bound parts of regions, in the number format of the images; without a graph.

    Args:
        enough: (D,) the bound at which a part is proved; the ascent ends when all are.

    Raises:
        UnsupportedOpError: the network ends in a softmax.
    """
    intervals = problem.intervals(parts)
    settled = Settled(intervals)
    # thousands of parts: what is not settled is bounded along the lines of `crown`
    kind = Pass(backward=True, tightens=True, ascent=ascent)
    with torch.no_grad():
        logits = in_front(bounded_logits(Propagation(problem.network, problem.region(parts), kind, settled=settled)))
        return _Ascending(problem, parts, intervals, settled, logits).run(ascent, enough)


def in_front(logits: Value) -> Value:
    """The logits in front of a logarithm of the softmax, whose margins are the same."""
    if logits.softmaxed is None:
        return logits
    if not logits.softmaxed.logarithm:
        raise UnsupportedOpError(
            "the network ends in a softmax, and method `bab` splits margins of logits; take the softmax out of its "
            "forward pass, which changes no decision, or use `alpha-crown`"
        )
    return logits.softmaxed.value


class _Ascending:
    """One pass over parts, and the ascent on what it leaves free."""

    def __init__(
        self,
        problem: Problem,
        parts: Sequence[Part],
        intervals: Sequence[Interval],
        settled: Settled,
        logits: Value,
    ):
        self.parts, self.intervals, self.settled, self.logits = parts, intervals, settled, logits
        self.propagation = logits.propagation
        self.rows = problem.margins(parts).transpose(0, 1)  # (1, D, K)
        assert logits.clean is not None
        self.clean = (self.rows[0] * logits.clean.detach()).sum(1)
        self.free: list[FreeSlopes] = self.propagation.free_slopes
        self.splits = self._gathered()

    def run(self, ascent: Ascent, enough: Tensor) -> Bounded:
        """Climb until all parts have enough, or the steps are over, and keep the best of each part."""
        slopes, factors = self._started()
        first = [torch.zeros_like(each) for each in (*slopes, *factors)]
        second = [torch.zeros_like(each) for each in first]
        best = self.clean.new_full(self.clean.shape, -torch.inf)
        kept = [each.clone() for each in (*slopes, *factors)]
        for step in range(ascent.steps + 1):
            leaves = [each.requires_grad_() for each in (*slopes, *factors)]
            found = self._bounds(leaves)
            better = found.detach() > best
            best = torch.where(better, found.detach(), best)
            kept = [
                self._chosen(better, at, new.detach(), old)
                for at, (new, old) in enumerate(zip(leaves, kept, strict=True))
            ]
            if step == ascent.steps or not found.requires_grad or bool((best > enough).all()):
                break
            with torch.enable_grad():
                total = -found.sum()
            gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
            rate = ascent.rate * 0.1 ** (step / ascent.steps)
            moved = [
                descended(leaf.detach(), gradient, m, v, rate, step + 1)
                for leaf, gradient, m, v in zip(leaves, gradients, first, second, strict=True)
            ]
            slopes = [each.clamp_(free.least, 1.0) for each, free in zip(moved, self.free, strict=False)]
            factors = [each.clamp_(min=0.0) for each in moved[len(self.free) :]]
        return self._told(best, kept)

    def _gathered(self) -> list[_Splits]:
        """The splits of all parts, by place."""
        found = []
        for place in sorted({split.place for part in self.parts for split in part.splits}):
            owner = tuple(
                (row, at)
                for row, part in enumerate(self.parts)
                for at, split in enumerate(part.splits)
                if split.place == place
            )
            device = self.clean.device
            splits = [self.parts[row].splits[at] for row, at in owner]
            row = torch.tensor([row for row, _ in owner], device=device)
            entry = torch.tensor([split.entry for split in splits], device=device)
            sign = torch.tensor([split.sign for split in splits], dtype=self.clean.dtype, device=device)
            found.append(_Splits(place, row, entry, sign, owner))
        return found

    def _started(self) -> tuple[list[Tensor], list[Tensor]]:
        """Slopes (1, D, ...) and multipliers (B,) where the parts' parents left off; the scale of multipliers.

        A multiplier moves in units of the largest coefficient that reaches its value: what a margin loses a unit there.
        """
        slopes = []
        for free in self.free:
            rows = free.slopes[None].clone()
            for row, part in enumerate(self.parts):
                if free.number in part.slopes:
                    rows[0, row] = part.slopes[free.number][0].to(rows.dtype)
            if free.place is not None:  # what is stable by now has one line, whatever the parent chose
                lower, upper = self.intervals[free.place]
                rows = torch.where((lower < 0) & (upper > 0), rows, free.slopes)
            slopes.append(rows)
        places = [self.settled.clean[each.place] for each in self.splits]
        reached = pulled_back(self.logits, self.rows, slopes, also=places)[2:]
        self.scales = [
            coefficients[0].flatten(1).abs().amax(1)[each.row]
            for each, coefficients in zip(self.splits, reached, strict=True)
        ]
        factors = [
            self.clean.new_tensor([self.parts[row].multipliers[at] for row, at in each.owner]) for each in self.splits
        ]
        return slopes, factors

    def _multipliers(self, factors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The clean values at the splits' places, and by what they are added to the margins, (1, D, ...)."""
        found = []
        for each, scale, factor in zip(self.splits, self.scales, factors, strict=True):
            clean = self.settled.clean[each.place]
            with torch.set_grad_enabled(factor.requires_grad):
                found.append((clean, each.spread(factor * scale * each.sign, clean.shape)))
        return found

    def _bounds(self, leaves: Sequence[Tensor]) -> Tensor:
        """(D,) bounds for slopes and multipliers; differentiable in those that require it."""
        slopes, factors = leaves[: len(self.free)], leaves[len(self.free) :]
        multipliers = self._multipliers(factors)
        drop = drop_below_clean(self.logits, self.rows, differentiable=False, slopes=slopes, multipliers=multipliers)
        with torch.set_grad_enabled(drop.requires_grad):
            bound = self.clean - drop[0]
            for clean, factor in multipliers:
                bound = bound + (factor[0] * clean.detach()).flatten(1).sum(1)
        return bound

    def _chosen(self, better: Tensor, at: int, new: Tensor, old: Tensor) -> Tensor:
        """Take the new slopes or multipliers of the parts that they are better for."""
        if at < len(self.free):
            return torch.where(better.view(1, -1, *[1] * (new.dim() - 2)), new, old)
        return torch.where(better[self.splits[at - len(self.free)].row], new, old)

    def _told(self, best: Tensor, kept: Sequence[Tensor]) -> Bounded:
        """The images where the best linear bounds are least, and where each part is split next."""
        slopes, factors = kept[: len(self.free)], kept[len(self.free) :]
        also = [free.output for free in self.free]
        pulled = pulled_back(self.logits, self.rows, slopes, self._multipliers(factors), also)
        images = self.propagation.region.lowest(pulled[0][0])
        choices = self._choices([each[0] for each in pulled[2:]])
        multipliers = [list(part.multipliers) for part in self.parts]
        for each, factor in zip(self.splits, factors, strict=True):
            for (row, at), value in zip(each.owner, factor.tolist(), strict=True):
                multipliers[row][at] = value
        parts = [
            Part(
                part.image,
                part.column,
                part.splits,
                tuple(multipliers[row]),
                # any slope is sound, so half precision does, and many parts wait
                {free.number: rows[:, row].half() for free, rows in zip(self.free, slopes, strict=True)},
                max(part.bound, float(best[row])),
                choices[row],
                part.tries + 1,
            )
            for row, part in enumerate(self.parts)
        ]
        return Bounded(best, images, parts)

    def _choices(self, coefficients: Sequence[Tensor]) -> list[tuple[int, int] | None]:
        """Where each part is split: at the entry whose lines cost most, by |coefficient| u (-l) / (u - l).

        That is what the chord lies above the rectifier at 0; the sum over the rectifiers that share the entry counts.
        """
        losses: dict[int, Tensor] = {}
        for free, coefficient in zip(self.free, coefficients, strict=True):
            if free.place is None:
                continue
            lower, upper = self.intervals[free.place]
            kinked = (lower < 0) & (upper > 0)
            height = torch.where(kinked, -lower * upper / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny), 0.0)
            loss = ((1 - free.least) * height * coefficient.abs()).flatten(1)
            losses[free.place] = losses.get(free.place, 0) + loss
        for each in self.splits:
            if each.place in losses:
                losses[each.place][each.row, each.entry] = 0.0  # rounding may leave a sliver on the other side of 0
        best: list[tuple[float, int, int]] = [(0.0, -1, -1)] * len(self.parts)
        for place, loss in losses.items():
            most, entry = loss.max(dim=1)
            for row, (value, at) in enumerate(zip(most.tolist(), entry.tolist(), strict=True)):
                best[row] = max(best[row], (value, place, at))
        return [None if value == 0 else (place, at) for value, place, at in best]
