"""Colour jitter: brightness, contrast, saturation and hue of each image changed at random, in random order.

With grey(x) = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), and everything cut to [0, 1],

    brightness   f x
    contrast     f x + (1 - f) mean of grey(x)
    saturation   f x + (1 - f) grey(x)
    hue          turned by h on the circle of colours, value and chroma as they are (HSV)

f is uniform in [1 - strength, 1 + strength] and not negative, h in [-strength, strength] turns.  Source of the four:
Howard 2013, arXiv:1312.5402, and torchvision's `ColorJitter`, which is what networks for ImageNet are trained with.
Grey images have no saturation and no hue.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from robustnas.data.pixels import sent

GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue count in grey."""

CHANGES = 4
"""Brightness, contrast, saturation and hue, in this order wherever there is one number for each."""


@frozen(eq=False)
class Jitter:
    """What happens to the colours of each image.

    Args:
        order: (N, 4) int64 on the CPU; which of the changes comes first, second, third and last.
        amounts: (N, 4) float32 on the CPU; a factor for each change, turns for hue.
    """

    order: Tensor
    amounts: Tensor

    def __getitem__(self, some: slice | Tensor, /) -> Jitter:
        return Jitter(self.order[some], self.amounts[some])


def draw(count: int, strengths: Sequence[float], generator: torch.Generator) -> Jitter:
    """Changes of `count` images.

    Args:
        count: images.
        strengths: of brightness, contrast, saturation and hue; 0 changes nothing, hue is at most 0.5.
        generator: source of every draw.
    """

    def uniform() -> Tensor:
        """(N, 4) in [0, 1), on the CPU."""
        return torch.rand((count, CHANGES), generator=generator, device=generator.device).cpu()

    middle, strength = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor(strengths)
    low = middle - strength
    low[:3] = low[:3].clamp_min(0.0)
    # uniform numbers sorted are places in random order
    return Jitter(uniform().argsort(1), low + (middle + strength - low) * uniform())


def apply(images: Tensor, jitter: Jitter) -> Tensor:
    """Images with other colours: (N, C, H, W) float32 in [0, 1], C 1 or 3 -> the same, in new memory."""
    images = images.clone()
    amounts = sent(jitter.amounts, images.device)
    for turn in range(CHANGES):
        for change, function in enumerate((_brightness, _contrast, _saturation, _hue)):
            # which images: found on the CPU, where asking how many there are waits for nothing
            some = (jitter.order[:, turn] == change).nonzero().flatten()
            if len(some) == 0 or (images.shape[1] == 1 and function in (_saturation, _hue)):
                continue
            at = sent(some, images.device)
            images[at] = function(images[at], amounts[at, change].view(-1, 1, 1, 1)).clamp_(0, 1)
    return images


def _grey(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images + (1 - factor) * _grey(images).mean((2, 3), keepdim=True)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images + (1 - factor) * _grey(images)


def _hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turned on the circle of colours: red at 0, green at 2, blue at 4 sixths of it.

    A channel at the sixth `s` of a colour of hue h is value - chroma * clip(min(k, 4 - k), 0, 1), k = s + h modulo 6.
    """
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    apart = chroma.clamp_min(torch.finfo(images.dtype).tiny)
    hue = torch.where(
        value == red,
        (green - blue) / apart,
        torch.where(value == green, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    sixths = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (sixths + hue + 6 * turns).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
