"""Rows of coefficients behind a nonlinearity: they follow the line below where positive, the line above elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from attrs import evolve
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Rows, laid_out, with_rows_last
from robustnas.bounds.steps.local import Local


class Slopes(NamedTuple):
    """Lines of an activation, and how far they lie above the function at the clean images: (N, ...) each.

    Args:
        below: slope of the line below.
        turn: how much larger the slope above is.
        beneath: line below - function, at most 0.
        rise: line above - line below.
    """

    below: Tensor
    turn: Tensor
    beneath: Tensor
    rise: Tensor


class EntrywiseLines:
    """Lines of an activation, entry by entry."""

    mixes: ClassVar[int] = 2

    def __init__(self, drawn: Callable[[], Slopes], clean: Tensor, least: float | None = None):
        """Take what draws the lines at the clean input (N, ...); `least` is the smallest slope that the line below may
        be given, where that can be any ray up to the identity."""
        self._drawn, self.clean, self.least = drawn, clean, least

    @cached_property
    def slopes(self) -> Slopes:
        with torch.no_grad():
            return self._drawn()

    @cached_property
    def _beside(self) -> Tensor:
        """(N, 4, ...) all of `slopes`, with pixels as rows of memory: they are gathered for rows at once."""
        maps = torch.stack(tuple(self.slopes), 1)
        return maps.permute(0, 1, 3, 4, 2).contiguous() if maps.dim() == 5 else maps

    def _of_rows(self, rows: Rows, like: Tensor) -> tuple[Tensor, ...]:
        maps = self._beside
        if rows.alone is not None:
            maps = maps if len(maps) == 1 else maps[rows.alone : rows.alone + 1]
        else:
            maps = maps.index_select(0, rows.image)
        return (maps.permute(0, 1, 4, 2, 3) if like.dim() == 4 else maps).unbind(1)

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        rows.part()
        coefficients = rows.level(coefficients)
        crop = coefficients.crop
        if crop is None:
            below, turn, beneath, rise = self._of_rows(rows, coefficients.tensor)
        else:
            below, turn, beneath, rise = (rows.maps(each, crop) for each in self.slopes)
        each = rows.by_row(coefficients.tensor)
        if self.least is not None and rows.first is not None:
            rows.first[rows.place] = (
                laid_out(Coefficients(below.expand_as(each).flatten(0, 1), crop)).tensor,
                self.least,
            )
        if rows.place in rows.slopes:
            # beyond the map, too, lines are one and the same, and coefficients stay 0
            chosen = torch.where(turn != 0, rows.by_row(rows.slopes[rows.place]), below)
            lines = (chosen, below, turn, beneath, rise)
            through, gap = _Chosen.apply(each, *lines, rows.maps(self.clean, crop))  # type: ignore[no-untyped-call]
            rows.add_gap(gap)
            return [Coefficients(through.flatten(0, 1), crop)]
        negative = each.clamp_max(0.0)
        if each.requires_grad:
            rows.add_gap(torch.addcmul(each * beneath, negative, rise))
            return [Coefficients(torch.addcmul(each * below, negative, turn).flatten(0, 1), crop)]
        # in place where nothing else sees the tensor: of this size, new memory takes as long as the arithmetic
        if crop is None and rows.alone is not None and each.dim() == 5 and with_rows_last(each[0]):
            # one product for the gaps of all rows; entries come first, and each has one line
            flat, turned = (one.permute(2, 3, 4, 0, 1).flatten(3).flatten(0, 2) for one in (each, negative))
            gap = (beneath.reshape(1, -1) @ flat).addmm_(rise.reshape(1, -1), turned)
            rows.add_gap(gap.view(each.shape[:2]))
        else:
            rows.add_gap((each * beneath).addcmul_(negative, rise))
        return [Coefficients(negative.mul_(turn).addcmul_(each, below).flatten(0, 1), crop)]


class _Chosen(torch.autograd.Function):
    """Follow lines of which the one below is a ray of a slope of each row's own, where the kink is inside.

    The first output are the coefficients at the input, the second the gaps, both (1 or 2, R, ...).  A ray of slope s
    lies (s - s0) z above one of slope s0, with z the clean value.
    """

    @staticmethod
    def forward(ctx: Any, each: Tensor, chosen: Tensor, *lines: Tensor) -> tuple[Tensor, Tensor]:
        below, turn, beneath, rise, clean = lines
        positive, negative = each.clamp_min(0.0), each.clamp_max(0.0)
        turned = positive * (chosen - below)
        through = torch.addcmul(turned, each, below).addcmul_(negative, turn)
        gap = torch.addcmul(each * beneath, negative, rise).addcmul_(turned, clean)
        ctx.save_for_backward(each, chosen, *lines)
        return through, gap

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        by_through, by_gap = cotangents
        each, chosen, below, turn, beneath, rise, clean = ctx.saved_tensors
        by_turned = torch.addcmul(by_through, by_gap, clean)
        # where the lines are one and the same there is nothing to choose
        by_chosen = each.clamp_min(0.0).mul_(by_turned).mul_(turn != 0)
        upward = by_turned * (chosen - below)
        downward = torch.addcmul(by_through * turn, by_gap, rise)
        by_each = torch.addcmul(by_through * below, by_gap, beneath).add_(torch.where(each >= 0, upward, downward))
        return by_each, by_chosen, None, None, None, None, None


class Lines:
    """Lines of which only values at the clean images are known, and that autograd can tell their slopes."""

    mixes: ClassVar[int] = 2

    def __init__(self, output: Tensor, below: Tensor, above: Tensor, inputs: tuple[Tensor, ...]):
        self._lines = Local((below, above), inputs)
        with torch.no_grad():
            self._beneath, self._atop = below - output, above - output

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        rows.part()
        coefficients = rows.level(coefficients)
        if coefficients.crop is not None:
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        each = rows.by_row(coefficients.tensor)
        positive, negative = each.clamp_min(0.0), each.clamp_max(0.0)
        beneath, atop = rows.maps(self._beneath, None), rows.maps(self._atop, None)
        rows.add_gap(torch.addcmul(positive * beneath, negative, atop))
        parts = [evolve(coefficients, tensor=part.flatten(0, 1)) for part in (positive, negative)]
        return self._lines.pulled(rows, parts)
