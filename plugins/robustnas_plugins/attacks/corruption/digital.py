"""What happens to an image in a camera and a file: light, contrast, colour, warping, coarse pixels, compression."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.errors import OptionError
from robustnas_plugins.attacks.corruption.fields import bell, filtered, shifted, unit

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Added to the value (the largest channel), pixel units."""
CONTRAST = (0.75, 0.55, 0.4, 0.27, 0.15)
"""Share of the contrast that is left."""
SATURATE = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Factor of the saturation."""
ELASTIC = ((0.6, 4.0), (0.9, 3.7), (1.2, 3.4), (1.6, 3.1), (2.1, 2.8))
"""Root mean square of the shifts, and the length over which they vary, pixels."""
PIXELATE = (0.75, 0.6, 0.5, 0.38, 0.28)
"""Coarse pixels along a side, as a share of the pixels."""
JPEG = (50, 30, 18, 11, 6)
"""Quality, as the Independent JPEG Group counts it."""


def brightness(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """More value in the colour space HSV, hue and saturation kept; black turns grey."""
    value = images.amax(dim=1, keepdim=True)
    more = (value + BRIGHTNESS[severity - 1]).clamp_max(1.0)
    return torch.where(value > 0, images * more / value.clamp_min(1e-12), more)


def contrast(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Move every pixel towards the mean of its channel."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + CONTRAST[severity - 1] * (images - mean)


def saturate(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """More saturation in HSV, hue and value kept.

    Raises:
        OptionError: images without colour.
    """
    if images.shape[1] != 3:
        raise OptionError(
            f"the corruption saturate needs images of three channels, found {images.shape[1]}: leave it out of families"
        )
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    saturation = (value - least) / value.clamp_min(1e-12)
    factor = torch.minimum(torch.full_like(saturation, SATURATE[severity - 1]), 1 / saturation.clamp_min(1e-12))
    return value - (value - images) * factor


def elastic(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Pixels from elsewhere, by a smooth random field of shifts."""
    size, length = (number * unit(images) for number in ELASTIC[severity - 1])
    field = filtered(draws.normal(2, *images.shape[2:]).to(images), bell(length, images.device))
    return shifted(images, size * field / field.flatten(1).square().mean(dim=1).sqrt()[:, None, None, None])


def pixelate(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Replace pixels by the means of fewer, larger ones."""
    share = PIXELATE[severity - 1]
    height, width = images.shape[2:]
    down, across = (_means(size, max(round(share * size), 1)).to(images) for size in (height, width))
    return down @ images @ across.T


def _means(size: int, cells: int) -> Tensor:
    """(size, size): times a column of pixels it is the mean of each pixel's cell, of `cells` about equal ones."""
    cell = torch.arange(size) * cells // size
    same = (cell[:, None] == cell).float()
    return same / same.sum(dim=1, keepdim=True)


LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of quantisation for the luminance: ITU-T T.81 (1992), annex K, table K.1."""
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Steps of quantisation for the chrominance: the same, table K.2."""


def jpeg(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """To luminance and chrominance, 8x8 cosine transform, quantisation, and back; chrominance is not made coarser.

    Sources: ITU-T T.81, annexes A.3.3 and K; JFIF 1.02 for the colours; the scale of the tables by quality is that of
    the Independent JPEG Group.  Entropy coding loses nothing and is left out.
    """
    quality = JPEG[severity - 1]
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    colour = images.shape[1] == 3
    bytes_ = (images * 255).round()
    planes = _planes(bytes_) if colour else bytes_ - 128
    tables = [LUMINANCE, CHROMINANCE, CHROMINANCE] if colour else [LUMINANCE] * images.shape[1]
    steps = torch.tensor(tables, device=images.device, dtype=images.dtype)
    steps = ((steps * scale + 50) / 100).floor().clamp(1, 255)
    lost = _quantised(planes, steps)
    found = _pixels(lost) if colour else lost + 128
    return found.round().clamp(0, 255) / 255


def _planes(images: Tensor) -> Tensor:
    """Red, green, blue in 0 to 255 -> luminance and chrominance around 0."""
    red, green, blue = images.unbind(dim=1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luminance - 128, (blue - luminance) / 1.772, (red - luminance) / 1.402], dim=1)


def _pixels(planes: Tensor) -> Tensor:
    """Luminance and chrominance -> red, green, blue: the way back from `_planes`."""
    luminance, to_blue, to_red = planes.unbind(dim=1)
    luminance = luminance + 128
    red, blue = luminance + 1.402 * to_red, luminance + 1.772 * to_blue
    return torch.stack([red, (luminance - 0.299 * red - 0.114 * blue) / 0.587, blue], dim=1)


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Blocks of 8x8, their coefficients rounded to multiples of `steps` (C, 8, 8): (N, C, H, W) -> the same shape."""
    count, channels, height, width = planes.shape
    padded = pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    place = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosine = 0.5 * torch.cos(math.pi * (2 * place[None] + 1) * place[:, None] / 16)
    cosine[0] /= math.sqrt(2)  # the transform is orthogonal, so its transpose leads back
    blocks = padded.view(count, channels, rows, 8, columns, 8).transpose(3, 4)
    steps = steps[:, None, None]
    coefficients = ((cosine @ blocks @ cosine.T) / steps).round() * steps
    back = (cosine.T @ coefficients @ cosine).transpose(3, 4)
    return back.reshape(padded.shape)[:, :, :height, :width]
