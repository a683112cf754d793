"""Rows of coefficients behind functions that move, select, copy, join or pad entries."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Crop, Rows


@frozen(eq=False)
class Reshape:
    """Entries keep their order, and the shape was another."""

    mixes: ClassVar[int] = 0
    shape: torch.Size

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        if coefficients.crop is not None:
            if self.shape == output.shape:
                return [coefficients]
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        return [Coefficients(coefficients.tensor.reshape(-1, *self.shape[1:]))]


@frozen(eq=False)
class Join:
    """Entries of several values stand side by side along a dimension."""

    mixes: ClassVar[int] = 2
    sizes: tuple[int, ...]
    dim: int

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        if self.dim != 1 and coefficients.crop is not None:
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        parts = coefficients.tensor.split(self.sizes, self.dim)
        return [Coefficients(part, coefficients.crop, coefficients.sticks) for part in parts]


@frozen(eq=False)
class Pad:
    """Constants stand around the entries: (left, right, above, below, ...) of them, as torch counts."""

    mixes: ClassVar[int] = 0
    amounts: tuple[int, ...]

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        crop = coefficients.crop
        if crop is not None and len(self.amounts) <= 4 and min(self.amounts) >= 0:
            left, above = self.amounts[0], self.amounts[2] if len(self.amounts) > 2 else 0
            moved = Crop(crop.scale, (crop.start[0] - above, crop.start[1] - left), crop.size)
            return [Coefficients(coefficients.tensor, moved, sticks=True)]
        if crop is not None:
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        return [Coefficients(F.pad(coefficients.tensor, [-amount for amount in self.amounts]))]


class Move:
    """Every entry of the output is an entry of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor], clean: Tensor):
        self._function, self._shape, self._device = function, clean.shape, clean.device

    @property
    def mixes(self) -> int:
        return 2 if self.box is None else 0

    @cached_property
    def places(self) -> Tensor:
        """(N, ...) which entry of its image each one of the output is; (1, ...) where images are treated alike."""
        count = self._shape[1:].numel()
        numbers = torch.arange(count, device=self._device).repeat(self._shape[0]).view(self._shape)
        places = self._function(numbers)
        return places[:1] if bool((places == places[:1]).all()) else places

    @cached_property
    def box(self) -> tuple[slice, ...] | None:
        """The slices that the function takes of an image, where it does just that."""
        places, shape = self.places, self._shape[1:]
        if len(places) > 1 or places.dim() != len(shape) + 1 or places.numel() == 0:
            return None
        first = torch.unravel_index(places.flatten()[0], shape)
        slices = []
        for axis, start in enumerate(first):
            along = places[0].select(axis, 1).flatten()[0] if places.shape[axis + 1] > 1 else None
            apart = shape[axis + 1 :].numel()
            step = 1 if along is None else int(along - places.flatten()[0]) // apart
            if step < 1:
                return None
            slices.append(slice(int(start), int(start) + step * (places.shape[axis + 1] - 1) + 1, step))
        numbers = torch.arange(shape.numel(), device=self._device).view(shape)[tuple(slices)]
        return tuple(slices) if numbers.shape == places.shape[1:] and torch.equal(numbers, places[0]) else None

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        crop, box = coefficients.crop, self.box
        if crop is not None and box is not None and len(self._shape) == 4:
            channels, down, across = box
            kept = rows.inside(coefficients, (output.shape[2], output.shape[3])).tensor
            start = crop.start[0] * down.step + down.start, crop.start[1] * across.step + across.start
            scale = crop.scale[0] * down.step, crop.scale[1] * across.step
            size = (crop.size[0] - 1) * down.step + 1, (crop.size[1] - 1) * across.step + 1
            if (down.step, across.step) != (1, 1) or kept.shape[1] != self._shape[1]:
                apart = kept.new_zeros(len(kept), self._shape[1], *size)
                apart[:, channels, :: down.step, :: across.step] = kept
                kept = apart
            return [Coefficients(kept, Crop(scale, start, size))]
        if crop is not None:
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        tensor = coefficients.tensor
        if box is not None:
            whole = tensor.new_zeros(len(tensor), *self._shape[1:])
            whole[(slice(None), *box)] = tensor
            return [Coefficients(whole)]
        flat, places = tensor.flatten(1), self.places.flatten(1)
        whole = flat.new_zeros(len(flat), self._shape[1:].numel())
        if len(places) == 1:
            whole = whole.index_add(1, places[0], flat)
        else:
            places = places.index_select(0, rows.image).repeat(len(flat) // len(rows.image), 1)
            whole = whole.scatter_add(1, places, flat)
        return [Coefficients(whole.view(-1, *self._shape[1:]))]
