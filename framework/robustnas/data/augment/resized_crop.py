"""Random resized crops: a rectangle of random area and aspect of each image, resized to the size of the network.

The augmentation of ImageNet training since Szegedy et al. 2015, arXiv:1409.4842, section 6: the area is uniform between
shares of the image's own, the aspect (width over height) log-uniform in [3/4, 4/3], the place uniform.  Ten times it is
tried to fit such a rectangle into the image; one that never fits is the largest from the centre whose aspect is within
the range.  So torchvision's `RandomResizedCrop` has it, too.

Resizing is bilinear and antialiased: a pixel of the result weighs the pixels of the crop by a triangle around its own
place, as wide as the crop's pixels, or the result's where these are wider.  Rows and columns are two small matrices an
image, so crops of all sizes are resized at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustnas.data.pixels import sent
from robustnas.runtime.precision import policy, single

ASPECTS = (3 / 4, 4 / 3)
"""Smallest and largest width over height of a crop."""

TRIES = 10
"""How often it is tried to fit a rectangle into an image."""


def boxes(count: int, height: int, width: int, shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Random crops of `count` images of `height` x `width`: (N, 4) int64, first row and column, rows and columns.

    Args:
        count: images.
        height: their rows.
        width: their columns.
        shares: smallest and largest area of a crop over that of the image, within (0, 1].
        generator: source of every draw.
    """

    def uniform(*shape: int) -> Tensor:
        """float64 in [0, 1), on the CPU."""
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()

    area = height * width * (shares[0] + (shares[1] - shares[0]) * uniform(count, TRIES))
    low, high = (math.log(aspect) for aspect in ASPECTS)
    aspect = (low + (high - low) * uniform(count, TRIES)).exp()
    tried = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=2).long()
    whole = torch.tensor([height, width])
    fits = ((tried > 0) & (tried <= whole)).all(2)
    # the first that fits: argmax gives the first of equal ones
    sizes = tried[torch.arange(count), fits.int().argmax(1)]
    sizes = torch.where(fits.any(1)[:, None], sizes, torch.tensor(_largest(height, width)))
    places = torch.where(fits.any(1)[:, None], (uniform(count, 2) * (whole - sizes + 1)).long(), (whole - sizes) // 2)
    return torch.cat([places, sizes], dim=1)


def _largest(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the largest rectangle in an image whose aspect is within the range."""
    low, high = ASPECTS
    return min(height, round(width / low)), min(width, round(height * high))


def resized(images: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The crop of each image, resized: (N, C, H, W) float in [0, 1] -> (N, C, height, width) float32 in [0, 1].

    Args:
        images: on any device.
        boxes: (N, 4), as `boxes` draws them.
        height: rows of the result.
        width: its columns.
    """
    count, channels = images.shape[:2]
    down, right, rows, columns = sent(boxes.float(), images.device).unbind(1)
    vertical = _weights(down, rows, images.shape[2], height)
    horizontal = _weights(right, columns, images.shape[3], width)
    # one product an image for rows and one for columns: channels lie beside the other of the two
    with policy("float32"), single(images.device):
        lower = vertical @ images.float().transpose(1, 2).flatten(2)
        both = lower.view(count, height * channels, images.shape[3]) @ horizontal.mT
    # beyond the range by rounding alone
    return both.clamp_(0, 1).view(count, height, channels, width).transpose(1, 2)


def _weights(first: Tensor, length: Tensor, size: int, wanted: int) -> Tensor:
    """What each pixel of a line of `size` counts in each of the `wanted` ones of a crop: (N, wanted, size) float32.

    Args:
        first: (N,) where the crop of each image begins.
        length: (N,) its pixels.
        size: pixels of the line.
        wanted: pixels of the result.
    """
    first, length = first[:, None, None], length[:, None, None]
    scale = length / wanted
    centre = first + (torch.arange(wanted, device=first.device)[:, None] + 0.5) * scale
    pixel = torch.arange(size, device=first.device) + 0.5
    weights = (1 - (pixel - centre).abs() / scale.clamp_min(1.0)).clamp_min(0.0)
    weights = weights * ((pixel > first) & (pixel < first + length))
    return weights / weights.sum(2, keepdim=True)
