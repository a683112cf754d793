"""Augmentation of a batch on the device it lives on, drawn for each image on its own.

    random_resized_crop    a random rectangle, resized: `robustnas.data.augment.resized_crop`
    crop                   padded with zeros on every side, then cut back to size at a random place
    flip                   mirrored left to right, for half of the images
    colour_jitter          brightness, contrast, saturation and hue: `robustnas.data.augment.colour_jitter`
    cutout                 a square is blanked out (DeVries and Taylor 2017, arXiv:1708.04552)

`Augmentation.plan` decides what happens to each image of a batch, a few numbers an image on the CPU; `apply` does it in
the order above, on any device.  So processes that share a batch draw for all of it alike and apply their own part, and
the same seed gives the same images however a batch is shared, and on every device: to the bit where pixels only move,
up to the rounding of float32 where they are resized or change colour.
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
class Augmentation:
    """What may happen to an image; by itself, nothing does.

    Args:
        crop: pixels of padding before the random crop; the padding is black, as in DARTS.
        flip: each image is mirrored with probability 1/2.
        cutout: side of the blanked square, in pixels.  Its centre is any pixel, so it may reach over the border and
            blank less; at most the whole image.
        fill: value of a blanked pixel, one a channel; none is black.  DARTS blanks after normalisation, which here is
            the mean of the training images: pass the dataset's mean for the same.
        random_resized_crop: smallest and largest share of an image's area.
        colour_jitter: strengths of brightness, contrast, saturation and hue.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    fill: Sequence[float] = ()
    random_resized_crop: Sequence[float] | None = None
    colour_jitter: Sequence[float] | None = None

    def plan(
        self, count: int, size: tuple[int, int], generator: torch.Generator, read: tuple[int, int] | None = None
    ) -> AugmentationPlan:
        """What happens to each of `count` images.

        Args:
            count: images in the batch.
            size: rows and columns of an image, augmented.
            generator: source of every draw.  Two calls with generators in the same state draw the same.
            read: rows and columns of the images that random resized crops are cut from; default those of the result.
        """

        def uniform(below: int) -> Tensor:
            """(N,) int64 in 0 to below - 1."""
            return torch.randint(below, (count,), generator=generator, device=generator.device).cpu()

        table = torch.zeros((count, 5), dtype=torch.int64)
        if self.crop:
            table[:, 0], table[:, 1] = uniform(2 * self.crop + 1), uniform(2 * self.crop + 1)
        if self.flip:
            table[:, 2] = uniform(2)
        if self.cutout:
            table[:, 3], table[:, 4] = uniform(size[0]), uniform(size[1])
        boxes = jitter = None
        if self.random_resized_crop is not None:
            boxes = resized_crop.boxes(count, *(read or size), self.random_resized_crop, generator)
        if self.colour_jitter is not None:
            jitter = colours.draw(count, self.colour_jitter, generator)
        return AugmentationPlan(self, size, table, boxes, jitter)


@frozen(eq=False)
class AugmentationPlan:
    """What happens to each image of a batch.  `plan[some]` is what happens to some of them, a slice or indices.

    Args:
        augmentation: what may happen.
        size: rows and columns of an image, augmented.
        table: (N, 5) int64, on the CPU: rows down and columns to the right at which the crop starts in the padded
            image; 1 where the image is mirrored; row and column of the blanked square's centre.
        boxes: (N, 4) int64, on the CPU: the rectangles that are resized; None resizes nothing.
        jitter: what happens to colours; None is nothing.
    """

    augmentation: Augmentation
    size: tuple[int, int]
    table: Tensor
    boxes: Tensor | None
    jitter: colours.Jitter | None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, some: slice | Tensor, /) -> AugmentationPlan:
        boxes = None if self.boxes is None else self.boxes[some]
        jitter = None if self.jitter is None else self.jitter[some]
        return evolve(self, table=self.table[some], boxes=boxes, jitter=jitter)


def apply(images: Tensor, plan: AugmentationPlan) -> Tensor:
    """Augmented images: (N, C, H, W), uint8 or in [0, 1] -> the same, in new memory where anything changed.

    Bytes stay bytes where pixels only move; otherwise they become float32 in [0, 1].  Applied to bytes or to the same
    images as floats, the result is the same to the bit.

    Args:
        images: a batch on any device; of any size where it is cropped and resized.
        plan: for as many as there are images.
    """
    rows, columns = plan.size
    fits = plan.boxes is not None or images.shape[2:] == plan.size
    if images.shape[0] != len(plan) or not fits:
        raise ValueError(
            f"draws for {len(plan)} images of {rows}x{columns} do not fit images of shape {tuple(images.shape)}"
        )
    augmentation = plan.augmentation
    if plan.boxes is not None:
        images = resized_crop.resized(unit(images), plan.boxes, rows, columns)
    if augmentation.crop or augmentation.flip or augmentation.cutout:
        numbers = sent(plan.table, images.device)
    if augmentation.crop or augmentation.flip:
        images = _placed(images, augmentation.crop, numbers)
    if plan.jitter is not None:
        images = colours.apply(unit(images), plan.jitter)
    return _blanked(unit(images), augmentation, numbers) if augmentation.cutout else images


def _placed(images: Tensor, crop: int, numbers: Tensor) -> Tensor:
    """Images cropped and mirrored at once: each pixel is looked up in the padded image.

    One look-up by flat place took a quarter of the time of indexing by image, channel, row and column (32x32x3 and
    224x224x3, one CPU thread); windows cut by strides, or rows and then columns, took 1.3 to 2 times the look-up.
    """
    down, right, mirrored = numbers[:, 0, None], numbers[:, 1, None], numbers[:, 2, None].bool()
    padded = F.pad(images, (crop,) * 4) if crop else images
    rows = torch.arange(images.shape[2], device=images.device) + down
    columns = torch.arange(images.shape[3], device=images.device)
    columns = torch.where(mirrored, columns.flip(0), columns) + right
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    places = places.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, places).view(images.shape)


def _blanked(images: Tensor, augmentation: Augmentation, numbers: Tensor) -> Tensor:
    """One square of each image replaced by the fill."""
    side = augmentation.cutout
    # the square covers [centre - side // 2, centre - side // 2 + side)
    top, left = numbers[:, 3, None] - side // 2, numbers[:, 4, None] - side // 2
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    blanked = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    fill = sent(torch.tensor(augmentation.fill or (0.0,), dtype=images.dtype), images.device)
    return torch.where(blanked, fill.view(1, -1, 1, 1), images)
