"""Augmentation of a batch on the device it lives on, drawn for each image on its own.

    crop      padded with zeros on every side, then cut back to size at a random place
    flip      mirrored left to right, for half of the images
    cutout    a square is blanked out (DeVries and Taylor 2017, arXiv:1708.04552)

`draw` decides what happens to each image of a batch, a few integers an image on the CPU; `apply` does it, on any
device.  So processes that share a batch draw for all of it alike and apply their own part, and the same seed gives
the same images however a batch is shared, and on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas.pixels import sent, unit


@frozen(eq=False)
class Draws:
    """What happens to each image of a batch.  `draws[some]` is what happens to some of them, a slice or indices.

    Args:
        table: (N, 5) int64, on the CPU: rows down and columns to the right at which the crop starts in the padded
            image; 1 where the image is mirrored; row and column of the blanked square's centre.
        height: rows of an image.
        width: columns of an image.
        crop: pixels of padding; 0 crops nothing.
        flip: whether images are mirrored at all.
        cutout: side of the blanked square in pixels; 0 blanks nothing.
    """

    table: Tensor
    height: int
    width: int
    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, some: slice | Tensor, /) -> Draws:
        return Draws(self.table[some], self.height, self.width, self.crop, self.flip, self.cutout)


def draw(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
) -> Draws:
    """Draws for a batch of `count` images.

    Args:
        count: images in the batch.
        height: rows of an image.
        width: columns of an image.
        generator: source of every draw.  Two calls with generators in the same state draw the same.
        crop: pixels of padding before the random crop.
        flip: mirror each image with probability 1/2.
        cutout: side of the blanked square, in pixels.  Its centre is any pixel, so it may reach over the
            border and blank less; at most the whole image.
    """

    def uniform(below: int) -> Tensor:
        """(N,) int64 in 0 to below - 1."""
        return torch.randint(below, (count,), generator=generator, device=generator.device).cpu()

    table = torch.zeros((count, 5), dtype=torch.int64)
    if crop:
        table[:, 0], table[:, 1] = uniform(2 * crop + 1), uniform(2 * crop + 1)
    if flip:
        table[:, 2] = uniform(2)
    if cutout:
        table[:, 3], table[:, 4] = uniform(height), uniform(width)
    return Draws(table, height, width, crop, flip, cutout)


def apply(images: Tensor, draws: Draws, fill: Tensor | None = None) -> Tensor:
    """Augmented images: (N, C, H, W), uint8 or in [0, 1] -> the same, in new memory where anything changed.

    Bytes stay bytes unless there is a cutout, whose value is none: they become float32 in [0, 1] then.  Applied to
    bytes or to the same images as floats, the result is the same to the bit.

    Args:
        images: a batch on any device.
        draws: as many as there are images.
        fill: (C,) value of blanked pixels; None is 0.  DARTS blanks after normalisation, which here is the
            mean of the training images: pass the dataset's mean for the same.  Padding is 0 (black), as in DARTS.
    """
    if images.shape[0] != len(draws) or images.shape[2:] != (draws.height, draws.width):
        raise ValueError(
            f"draws for {len(draws)} images of {draws.height}x{draws.width} do not fit images of "
            f"shape {tuple(images.shape)}"
        )
    if not (draws.crop or draws.flip or draws.cutout):
        return images
    numbers = sent(draws.table, images.device)
    if draws.crop or draws.flip:
        images = _placed(images, draws, numbers)
    return _blanked(unit(images), draws, numbers, fill) if draws.cutout else images


def _placed(images: Tensor, draws: Draws, numbers: Tensor) -> Tensor:
    """Cropped and mirrored at once: each pixel is looked up in the padded image.

    One look-up by flat place took a quarter of the time of indexing by image, channel, row and column (32x32x3 and
    224x224x3, one CPU thread); windows cut by strides, or rows and then columns, took 1.3 to 2 times the look-up.
    """
    down, right, mirrored = numbers[:, 0, None], numbers[:, 1, None], numbers[:, 2, None].bool()
    padded = F.pad(images, (draws.crop,) * 4) if draws.crop else images
    rows = torch.arange(draws.height, device=images.device) + down
    columns = torch.arange(draws.width, device=images.device)
    columns = torch.where(mirrored, columns.flip(0), columns) + right
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    places = places.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, places).view(images.shape)


def _blanked(images: Tensor, draws: Draws, numbers: Tensor, fill: Tensor | None) -> Tensor:
    """One square of each image replaced by the fill."""
    # the square covers [centre - cutout // 2, centre - cutout // 2 + cutout)
    top, left = numbers[:, 3, None] - draws.cutout // 2, numbers[:, 4, None] - draws.cutout // 2
    rows = torch.arange(draws.height, device=images.device)
    columns = torch.arange(draws.width, device=images.device)
    in_rows = (rows >= top) & (rows < top + draws.cutout)
    in_columns = (columns >= left) & (columns < left + draws.cutout)
    blanked = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    value = images.new_zeros(()) if fill is None else sent(fill.to(images.dtype), images.device).view(1, -1, 1, 1)
    return torch.where(blanked, value, images)


def augment(
    images: Tensor,
    generator: torch.Generator,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    fill: Tensor | None = None,
) -> Tensor:
    """`draw` and `apply` for a whole batch at once."""
    draws = draw(images.shape[0], images.shape[2], images.shape[3], generator, crop=crop, flip=flip, cutout=cutout)
    return apply(images, draws, fill)
