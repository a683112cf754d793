"""Linear functions of single images, many at once, whose coefficients are held on crops of maps.

A unit of a convolutional layer looks at a patch of every earlier map.  Its coefficients there are held as a crop,
(rows, C, h, w), whose first entry stands at anchor * scale + start, row by row of the map and column by column, with an
anchor for each function and the rest for all of them.  Crops may reach beyond the map, as padding does.  Coefficients
of anything else, and those whose crop would be as large as the map, are held whole: (rows, ...).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import define, evolve, field, frozen
from torch import Tensor

Pair = tuple[int, int]

SMALL = 64
"""Whole maps of so many places, and smaller ones, lie in memory with the rows last."""

LARGE = 0.75
"""Crops of this share of the map's entries, and larger ones, are not worth their bookkeeping."""

LARGE_OF_SMALL = 0.1
"""The same share of small maps, whose rows are last in memory, where every layer is cheap in this form."""


@frozen
class Crop:
    """Where the entries of a crop stand: rows, then columns."""

    scale: Pair
    start: Pair
    size: Pair

    def through(self, stride: Pair, before: Pair, reach: Pair) -> Crop:
        """The crop of the input that windows look at: `reach` from a window's first entry to its last, `before` rows
        and columns in front of the map."""
        return Crop(
            (self.scale[0] * stride[0], self.scale[1] * stride[1]),
            (self.start[0] * stride[0] - before[0], self.start[1] * stride[1] - before[1]),
            ((self.size[0] - 1) * stride[0] + reach[0] + 1, (self.size[1] - 1) * stride[1] + reach[1] + 1),
        )


@frozen(eq=False)
class Coefficients:
    """Coefficients (B, ...) of one value.

    Args:
        tensor: (B, C, h, w) with a crop, else (B, ...).  B is the number of rows, or twice that: first those of the
            functions, then those of their negatives.
        crop: where the entries stand; None: they are whole.
        sticks: the crop may have coefficients beyond the map, which count nothing.
    """

    tensor: Tensor
    crop: Crop | None = None
    sticks: bool = False


@define(eq=False)
class Rows:
    """The rows of one backward pass.

    Args:
        image: (R,) whose function each row is.
        anchor: (R,) twice, row and column of the map's entry that each function started from; None without crops.
        signs: 1: lower bounds of the functions; 2: of the functions and of their negatives.
        wholly: all layers are cheap for whole small maps: smaller crops than usual are held whole there.
        slopes: (B, ...) slopes of the lower lines that are chosen, by the place of their step on the tape.
        first: where it is a dictionary, the pass writes into it the slopes from which a choice may start, and the
            smallest that may be chosen.

    Attributes:
        parted: coefficients of negatives are no longer the negatives of coefficients.
        gap: (B,) sums of <A_i, line_i(z_i) - f_i(z_i)> so far.
        widest: most coefficients of one row at any step so far.
        alone: the image that all rows are of; None where there are several.
    """

    image: Tensor
    anchor: tuple[Tensor, Tensor] | None
    signs: int
    images: int
    wholly: bool = False
    slopes: dict[int, Tensor] = field(factory=dict)
    first: dict[int, tuple[Tensor, float]] | None = None
    parted: bool = False
    place: int = -1
    gap: Tensor | None = None
    widest: int = 1
    alone: int | None = field(init=False)
    _places: dict[tuple[Crop, Pair], Tensor] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        least, most = (int(end) for end in self.image.aminmax())
        self.alone = least if least == most else None

    def anew(self) -> Rows:
        """The same rows for another backward pass; places of crops in maps are found once."""
        rows = Rows(self.image, self.anchor, self.signs, self.images, self.wholly)
        rows._places = self._places
        return rows

    def part(self) -> None:
        """Let functions and their negatives go separate ways from here on: lines treat them unequally."""
        self.parted = self.parted or self.signs == 2

    def level(self, coefficients: Coefficients) -> Coefficients:
        """Write the coefficients of negatives out, where they have parted."""
        if not self.parted or coefficients.tensor.shape[0] != self.image.shape[0]:
            return coefficients
        return evolve(coefficients, tensor=torch.cat([coefficients.tensor, -coefficients.tensor]))

    def by_row(self, tensor: Tensor) -> Tensor:
        """View (B, ...) as (1 or 2, R, ...), which broadcasts with (R, ...)."""
        return tensor.view(-1, self.image.shape[0], *tensor.shape[1:])

    def add_gap(self, gap: Tensor) -> None:
        """Add the gaps of entries, (1 or 2, R, ...), to those of their rows; not in place, as a graph may need them."""
        total = gap.sum(tuple(range(2, gap.dim()))).flatten() if gap.dim() > 2 else gap.flatten()
        self.gap = total if self.gap is None else self.gap + total

    def maps(self, tensor: Tensor, crop: Crop | None) -> Tensor:
        """Give what a tensor (N, ...) or (1, ...) has for each row, 0 beyond the map: (R, ...) or (1, ...)."""
        if crop is None:
            if len(tensor) == 1:
                return tensor
            if self.alone is not None:
                return tensor[self.alone : self.alone + 1]
            if tensor.dim() != 4:
                return tensor.index_select(0, self.image)
            pixels = tensor.permute(0, 2, 3, 1).contiguous()
            return pixels.index_select(0, self.image).permute(0, 3, 1, 2)
        if tensor.shape[2:] == (1, 1) and len(tensor) == 1:
            return tensor
        channels, height, width = tensor.shape[1:]
        (above, below), (left, right) = self._margins(crop, (height, width))
        padded = F.pad(tensor, (left, right, above, below)).permute(0, 2, 3, 1).reshape(-1, channels)
        found = padded.index_select(0, self._at(crop, (height, width)))
        return found.view(len(self.image), *crop.size, channels).permute(0, 3, 1, 2)

    def inside(self, coefficients: Coefficients, size: Pair) -> Coefficients:
        """Drop what lies beyond a map of this many rows and columns."""
        if coefficients.crop is None or not coefficients.sticks:
            return coefficients
        mask = self.mask(coefficients.crop, size).to(coefficients.tensor.dtype)
        kept = (self.by_row(coefficients.tensor) * mask).flatten(0, 1)
        return evolve(coefficients, tensor=kept, sticks=False)

    def mask(self, crop: Crop, size: Pair) -> Tensor:
        """(R, 1, h, w) where the entries of a crop lie on the map."""
        rows, columns = self.begin(crop)
        down = rows[:, None] + torch.arange(crop.size[0], device=rows.device)
        across = columns[:, None] + torch.arange(crop.size[1], device=rows.device)
        down, across = (down >= 0) & (down < size[0]), (across >= 0) & (across < size[1])
        return (down[:, :, None] & across[:, None, :])[:, None]

    def begin(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """(R,) twice: row and column of the map at which each crop begins."""
        assert self.anchor is not None
        rows, columns = self.anchor
        return rows * crop.scale[0] + crop.start[0], columns * crop.scale[1] + crop.start[1]

    def whole(self, coefficients: Coefficients, size: Pair) -> Coefficients:
        """Write a crop into maps of zeros."""
        crop = coefficients.crop
        if crop is None:
            return coefficients
        rows, columns = self.begin(crop)
        across = torch.arange(size[1], device=rows.device) - columns[:, None]
        down = torch.arange(size[0], device=rows.device) - rows[:, None]
        # one row and column of zeros stand behind the crop, for all that lies outside
        down = torch.where((down < 0) | (down >= crop.size[0]), crop.size[0], down)
        across = torch.where((across < 0) | (across >= crop.size[1]), crop.size[1], across)
        places = down[:, :, None] * (crop.size[1] + 1) + across[:, None, :]
        tensor = F.pad(coefficients.tensor, (0, 1, 0, 1)).permute(0, 2, 3, 1).flatten(1, 2)
        entries, channels = tensor.shape[1:]
        shift = torch.arange(len(tensor), device=rows.device) * entries
        places = places.flatten(1).repeat(len(tensor) // len(rows), 1) + shift[:, None]
        found = tensor.reshape(-1, channels).index_select(0, places.flatten())
        return Coefficients(found.view(len(tensor), *size, channels).permute(0, 3, 1, 2))

    def fitting(self, coefficients: Coefficients, shape: torch.Size) -> Coefficients:
        """Write a crop out where it is as large as its map (N, C, H, W)."""
        crop = coefficients.crop
        if crop is None:
            return coefficients
        share = LARGE_OF_SMALL if self.wholly and with_rows_last(coefficients.tensor, shape) else LARGE
        if crop.size[0] * crop.size[1] < share * shape[2] * shape[3]:
            return coefficients
        return self.whole(coefficients, (shape[2], shape[3]))

    def sum(self, first: Coefficients, second: Coefficients, shape: torch.Size) -> Coefficients:
        """Add coefficients of the value (N, ...) that came by two ways."""
        first, second = self.level(first), self.level(second)
        one, other = first.crop, second.crop
        if one != other and (one is None or other is None or one.scale != other.scale):
            size = (shape[-2], shape[-1])
            first, second = self.whole(first, size), self.whole(second, size)
            one = other = None
        if one is None or other is None or one == other:
            return Coefficients(first.tensor + second.tensor, one, first.sticks or second.sticks)
        start = min(one.start[0], other.start[0]), min(one.start[1], other.start[1])
        ends = [max(each.start[axis] + each.size[axis] for each in (one, other)) for axis in (0, 1)]
        crop = Crop(one.scale, start, (ends[0] - start[0], ends[1] - start[1]))
        total = _within(first, crop) + _within(second, crop)
        return Coefficients(total, crop, first.sticks or second.sticks)

    def _margins(self, crop: Crop, size: Pair) -> tuple[Pair, Pair]:
        """How many rows and columns crops reach beyond a map, at its beginning and its end."""
        margins = []
        for each, length, number in zip(self.begin(crop), size, crop.size, strict=True):
            first, last = int(each.min()), int(each.max()) + number
            margins.append((max(0, -first), max(0, last - length)))
        return margins[0], margins[1]

    def _at(self, crop: Crop, size: Pair) -> Tensor:
        """Places (R * h * w,) of the crops' entries in padded maps, image after image."""
        if (crop, size) not in self._places:
            (above, below), (left, right) = self._margins(crop, size)
            rows, columns = self.begin(crop)
            height, width = size[0] + above + below, size[1] + left + right
            first = (self.image * height + rows + above) * width + columns + left
            down = torch.arange(crop.size[0], device=first.device)[:, None] * width
            inner = (down + torch.arange(crop.size[1], device=first.device)).flatten()
            self._places[crop, size] = (first[:, None] + inner).flatten()
        return self._places[crop, size]


def with_rows_last(tensor: Tensor, shape: torch.Size | None = None) -> bool:
    """Whether coefficients of whole maps (B, C, H, W) lie in memory as (C, H, W, B): so convolutions of small maps are
    products with few, large matrices, and lines of an image's entries are numbers for all of its rows.

    Args:
        shape: of the map, where the tensor is a crop.
    """
    height, width = (tensor.shape if shape is None else shape)[2:]
    return tensor.device.type == "cpu" and height * width <= SMALL


def laid_out(coefficients: Coefficients) -> Coefficients:
    """Lay coefficients out in memory as steps expect them: those that meet maps of unlike order take several times as
    long."""
    tensor, crop = coefficients.tensor, coefficients.crop
    if tensor.dim() != 4:
        return coefficients
    if crop is None and with_rows_last(tensor):
        rows = tensor.permute(1, 2, 3, 0)
        if rows.is_contiguous():
            return coefficients
        return Coefficients(rows.contiguous().permute(3, 0, 1, 2))
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return coefficients
    return Coefficients(tensor.contiguous(memory_format=torch.channels_last), crop, coefficients.sticks)


def _within(coefficients: Coefficients, crop: Crop) -> Tensor:
    """Pad coefficients to a larger crop."""
    own = coefficients.crop
    assert own is not None
    above, left = own.start[0] - crop.start[0], own.start[1] - crop.start[1]
    below, right = crop.size[0] - own.size[0] - above, crop.size[1] - own.size[1] - left
    return F.pad(coefficients.tensor, (left, right, above, below))
