"""Rows of coefficients behind a nonlinearity: they follow the line below where positive, the line above elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from attrs import evolve
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.steps.local import Local


class Slopes(NamedTuple):
    """Lines of an activation, and how far they lie above the function at the clean images: (N, ...) each.

    Args:
        below, above: slopes; without `below` it is the slope above, rounded.
        beneath, atop: line - function of the two; `beneath` is at most 0 and `atop` at least 0.
    """

    below: Tensor | None
    above: Tensor
    beneath: Tensor
    atop: Tensor


class EntrywiseLines:
    """Lines of an activation, entry by entry."""

    mixes: ClassVar[int] = 2

    def __init__(self, drawn: Callable[[], Slopes], clean: Tensor):
        self._drawn, self._clean = drawn, clean

    @cached_property
    def slopes(self) -> Slopes:
        with torch.no_grad():
            return self._drawn()

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        rows.part()
        coefficients = rows.level(coefficients)
        crop, chosen = coefficients.crop, rows.slopes.get(rows.place)
        above, beneath, atop = (rows.maps(each, crop) for each in self.slopes[1:])
        if chosen is not None:
            below, fixed = rows.by_row(chosen), None
            # line - function at the clean value, for a line through 0
            clean = rows.maps(self._clean, crop)
            beneath = below * clean - rows.maps(output, crop)
        else:
            fixed = self.slopes.below
            below = above.round() if fixed is None else rows.maps(fixed, crop)
        each = rows.by_row(coefficients.tensor)
        positive, negative = each.clamp_min(0.0), each.clamp_max(0.0)
        gap = torch.addcmul(positive * beneath, negative, atop)
        rows.add_gap(gap.sum(tuple(range(2, gap.dim()))).flatten() if gap.dim() > 2 else gap.flatten())
        through = torch.addcmul(positive * below, negative, above).flatten(0, 1)
        return [Coefficients(through, crop)]


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
        gap = torch.addcmul(positive * beneath, negative, atop)
        rows.add_gap(gap.sum(tuple(range(2, gap.dim()))).flatten() if gap.dim() > 2 else gap.flatten())
        parts = [evolve(coefficients, tensor=part.flatten(0, 1)) for part in (positive, negative)]
        return self._lines.pulled(rows, parts)
