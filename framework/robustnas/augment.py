"""Augmentation of a batch on the device it lives on, drawn for each image on its own.

    crop      padded with zeros on every side, then cut back to size at a random place
    flip      mirrored left to right, for half of the images
    cutout    a square is blanked out (DeVries and Taylor 2017, arXiv:1708.04552)

The draws are made on the generator's device and moved, a few integers an image: with a generator on the CPU
the same seed gives the same images on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    images: Tensor,
    generator: torch.Generator,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    fill: Tensor | None = None,
) -> Tensor:
    """Augmented images: (N, C, H, W) in [0, 1] -> the same, in new memory where anything changed.

    Args:
        images: a batch on any device.
        generator: source of every draw.  Two calls with generators in the same state give the same images.
        crop: pixels of padding before the random crop; padding is 0 (black), as in DARTS.
        flip: mirror each image with probability 1/2.
        cutout: side of the blanked square, in pixels.  Its centre is any pixel, so it may reach over the
            border and blank less; at most the whole image.
        fill: (C,) value of blanked pixels; None is 0.  DARTS blanks after normalisation, which here is the
            mean of the training images: pass the dataset's mean for the same.
    """
    count, _, height, width = images.shape

    def draw(below: int) -> Tensor:
        """(N,) int64, uniform in 0 to below - 1."""
        values = torch.randint(below, (count,), generator=generator, device=generator.device)
        return values.to(images.device)

    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    if crop:
        down, right = draw(2 * crop + 1), draw(2 * crop + 1)
        padded = F.pad(images, (crop, crop, crop, crop))
        from_rows = (down[:, None] + rows)[:, None, :, None]
        from_columns = (right[:, None] + columns)[:, None, None, :]
        each = torch.arange(count, device=images.device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        images = padded[each, channels, from_rows, from_columns]
    if flip:
        mirrored = draw(2).bool()[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
    if cutout:
        # the square covers [centre - cutout // 2, centre - cutout // 2 + cutout)
        top, left = draw(height) - cutout // 2, draw(width) - cutout // 2
        in_rows = (rows >= top[:, None]) & (rows < top[:, None] + cutout)
        in_columns = (columns >= left[:, None]) & (columns < left[:, None] + cutout)
        blanked = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        value = images.new_zeros(()) if fill is None else fill.to(images).view(1, -1, 1, 1)
        images = torch.where(blanked, value, images)
    return images
