"""Smooth random fields, kernels and warps: what several families are made of.

Nothing here looks at other images of the batch.  Borders are replicated: reflecting would need images larger than the
kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from robustnas.attack.per_image_random import PerImageRandom

LEAST, USUAL = 16, 32
"""Pixels: images are treated as if their shorter side were at least the first; lengths are given for the second."""


def unit(images: Tensor) -> float:
    """The factor by which lengths in pixels are multiplied for images of this size."""
    return max(min(images.shape[2:]), LEAST) / USUAL


def spread(values: Tensor) -> Tensor:
    """Stretch each image's values (N, ...) to 0 to 1; a constant image becomes 0."""
    flat = values.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-12)).view_as(values)


def smooth(draws: PerImageRandom, height: int, width: int, cell: float) -> Tensor:
    """(N, 1, H, W) normal numbers on a grid of `cell` pixels, joined smoothly; about as large as they are."""
    rows, columns = max(math.ceil(height / cell), 1) + 1, max(math.ceil(width / cell), 1) + 1
    coarse = draws.normal(1, rows, columns)
    return interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)


def clouds(draws: PerImageRandom, height: int, width: int, decay: float) -> Tensor:
    """(N, 1, H, W) in [0, 1]: smooth fields of cells from the whole image down to a pixel, each `decay` as strong."""
    side = max(height, width)
    total: Tensor | float = 0.0
    for octave in range(math.ceil(math.log2(side)) + 1):
        total = total + decay**octave * smooth(draws.of("octave", octave), height, width, side / 2**octave)
    assert isinstance(total, Tensor)
    return spread(total)


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image with a kernel of its own: (N, C, H, W), (N or 1, k, k) with k odd -> (N, C, H, W)."""
    count, channels, height, width = images.shape
    kernels = kernels / kernels.sum(dim=(1, 2), keepdim=True)
    side = kernels.shape[-1]
    weight = kernels.expand(count, side, side).repeat_interleave(channels, dim=0)[:, None]
    padded = pad(images, (side // 2,) * 4, mode="replicate")
    planes = padded.view(1, count * channels, height + side - 1, width + side - 1)
    return conv2d(planes, weight.to(images), groups=count * channels).view(images.shape)


def _offsets(reach: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns, (k, k), of a kernel that reaches so many pixels from its centre."""
    steps = torch.arange(-math.ceil(reach), math.ceil(reach) + 1, device=device).float()
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return rows, columns


def bell(sigma: float, device: torch.device) -> Tensor:
    """(1, k, k): a gaussian of `sigma` pixels, cut at 3 sigma."""
    rows, columns = _offsets(max(3 * sigma, 1.0), device)
    return torch.exp(-(rows.square() + columns.square()) / (2 * sigma**2))[None]


def disc(radius: float, device: torch.device) -> Tensor:
    """(1, k, k): a disc of `radius` pixels whose edge fades over one pixel."""
    rows, columns = _offsets(radius + 1, device)
    return (radius + 1 - (rows.square() + columns.square()).sqrt()).clamp(0.0, 1.0)[None]


def line(length: float, angles: Tensor) -> Tensor:
    """(N, k, k): a line of `length` pixels through the centre at each of the angles (N,), radians, one pixel wide."""
    rows, columns = _offsets(length / 2 + 1, angles.device)
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    along, beside = columns * cosine + rows * sine, rows * cosine - columns * sine
    return (length / 2 + 1 - along.abs()).clamp(0.0, 1.0) * (1 - beside.abs()).clamp_min(0.0)


def angles(draws: PerImageRandom, low: float, high: float) -> Tensor:
    """(N,) radians, uniform in [low, high), given in degrees."""
    return torch.deg2rad(low + (high - low) * draws.uniform())


def shifted(images: Tensor, shifts: Tensor) -> Tensor:
    """Each pixel taken from elsewhere: shifts (N, 2, H, W) pixels, to the right and down; between pixels linear."""
    count, _, height, width = images.shape
    identity = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(count, 2, 3)
    grid = affine_grid(identity, [count, 1, height, width], align_corners=False)
    scale = torch.tensor([2 / width, 2 / height], device=images.device, dtype=images.dtype)
    return grid_sample(images, grid + shifts.permute(0, 2, 3, 1) * scale, padding_mode="border", align_corners=False)


def grey(images: Tensor) -> Tensor:
    """(N, 1, H, W) luminance: weights of ITU-R BT.601 for three channels, the mean otherwise."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def tint(images: Tensor, red: float, green: float, blue: float) -> Tensor:
    """A colour as (1, C, 1, 1); for other than three channels its mean in each."""
    colour = torch.tensor([red, green, blue], device=images.device, dtype=images.dtype)
    if images.shape[1] != 3:
        colour = colour.mean().expand(images.shape[1])
    return colour.view(1, -1, 1, 1)
