"""Augmentation of a batch on the device it lives on, drawn for each image on its own.

    random_resized_crop    a random rectangle, resized: `robustnas.data.augment.resized_crop`
    crop                   padded with zeros on every side, then cut back to size at a random place
    flip                   mirrored left to right, for half of the images
    colour_jitter          brightness, contrast, saturation and hue: `robustnas.data.augment.colour_jitter`
    cutout                 a square is blanked out (DeVries and Taylor 2017, arXiv:1708.04552)

`draw` decides what happens to each image of a batch, a few numbers an image on the CPU; `apply` does it in the order
above, on any device.  So processes that share a batch draw for all of it alike and apply their own part, and the same
seed gives the same images however a batch is shared, and on every device: to the bit where pixels only move, up to the
rounding of float32 where they are resized or change colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor

from robustnas.data.augment import colour_jitter as colours
from robustnas.data.augment import resized_crop
from robustnas.data.pixels import sent, unit


@frozen(eq=False)
class AugmentationPlan:
    """What happens to each image of a batch.  `draws[some]` is what happens to some of them, a slice or indices.

    Args:
        table: (N, 5) int64, on the CPU: rows down and columns to the right at which the crop starts in the padded
            image; 1 where the image is mirrored; row and column of the blanked square's centre.
        height: rows of an image.
        width: columns of an image.
        crop: pixels of padding; 0 crops nothing.
        flip: whether images are mirrored at all.
        cutout: side of the blanked square in pixels; 0 blanks nothing.
        boxes: (N, 4) int64, on the CPU: the rectangles that are resized to height and width; None resizes nothing.
        jitter: what happens to colours; None is nothing.
    """

    table: Tensor
    height: int
    width: int
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    boxes: Tensor | None = None
    jitter: colours.Jitter | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, some: slice | Tensor, /) -> AugmentationPlan:
        boxes = None if self.boxes is None else self.boxes[some]
        jitter = None if self.jitter is None else self.jitter[some]
        return evolve(self, table=self.table[some], boxes=boxes, jitter=jitter)


def draw(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    random_resized_crop: Sequence[float] | None = None,
    colour_jitter: Sequence[float] | None = None,
    read: tuple[int, int] | None = None,
) -> AugmentationPlan:
    """Draws for a batch of `count` images.

    Args:
        count: images in the batch.
        height: rows of an image, augmented.
        width: columns of an image, augmented.
        generator: source of every draw.  Two calls with generators in the same state draw the same.
        crop: pixels of padding before the random crop.
        flip: mirror each image with probability 1/2.
        cutout: side of the blanked square, in pixels.  Its centre is any pixel, so it may reach over the
            border and blank less; at most the whole image.
        random_resized_crop: smallest and largest share of an image's area.
        colour_jitter: strengths of brightness, contrast, saturation and hue.
        read: rows and columns of the images that random resized crops are cut from; default those of the result.
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
    boxes = jitter = None
    if random_resized_crop is not None:
        boxes = resized_crop.boxes(count, *(read or (height, width)), random_resized_crop, generator)
    if colour_jitter is not None:
        jitter = colours.draw(count, colour_jitter, generator)
    return AugmentationPlan(table, height, width, crop, flip, cutout, boxes, jitter)


def apply(images: Tensor, draws: AugmentationPlan, fill: Tensor | None = None) -> Tensor:
    """Augmented images: (N, C, H, W), uint8 or in [0, 1] -> the same, in new memory where anything changed.

    Bytes stay bytes where pixels only move; otherwise they become float32 in [0, 1].  Applied to bytes or to the same
    images as floats, the result is the same to the bit.

    Args:
        images: a batch on any device; of any size where it is cropped and resized.
        draws: as many as there are images.
        fill: (C,) value of blanked pixels; None is 0.  DARTS blanks after normalisation, which here is the
            mean of the training images: pass the dataset's mean for the same.  Padding is 0 (black), as in DARTS.
    """
    fits = draws.boxes is not None or images.shape[2:] == (draws.height, draws.width)
    if images.shape[0] != len(draws) or not fits:
        raise ValueError(
            f"draws for {len(draws)} images of {draws.height}x{draws.width} do not fit images of "
            f"shape {tuple(images.shape)}"
        )
    if draws.boxes is not None:
        images = resized_crop.resized(unit(images), draws.boxes, draws.height, draws.width)
    if draws.crop or draws.flip or draws.cutout:
        numbers = sent(draws.table, images.device)
    if draws.crop or draws.flip:
        images = _placed(images, draws, numbers)
    if draws.jitter is not None:
        images = colours.apply(unit(images), draws.jitter)
    return _blanked(unit(images), draws, numbers, fill) if draws.cutout else images


def _placed(images: Tensor, draws: AugmentationPlan, numbers: Tensor) -> Tensor:
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


def _blanked(images: Tensor, draws: AugmentationPlan, numbers: Tensor, fill: Tensor | None) -> Tensor:
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
