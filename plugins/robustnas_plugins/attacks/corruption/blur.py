"""Blur: out of focus, through frosted glass, by motion, by zooming, by a soft filter.  Lengths: see the package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from robustnas.attack.per_image_random import PerImageRandom
from robustnas_plugins.attacks.corruption.fields import angles, bell, disc, filtered, line, shifted, unit

DEFOCUS = (0.6, 1.0, 1.5, 2.1, 2.8)
"""Radius of the disc, pixels."""
GLASS = ((0.5, 0.5), (0.8, 0.55), (1.2, 0.6), (1.7, 0.7), (2.4, 0.8))
"""Reach of the shifts and sigma of the blur before them, pixels."""
MOTION = (2.0, 3.5, 5.0, 7.0, 9.5)
"""Length of the way, pixels."""
ZOOM = (0.08, 0.14, 0.21, 0.29, 0.4)
"""By how much the image grows."""
ZOOMS = 10
"""Images along the zoom."""
GAUSSIAN = (0.5, 0.8, 1.1, 1.5, 2.1)
"""Sigma, pixels."""


def defocus_blur(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """The mean over a disc."""
    return filtered(images, disc(DEFOCUS[severity - 1] * unit(images), images.device))


def glass_blur(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """A slight gaussian blur, then each pixel from a random place nearby."""
    reach, sigma = GLASS[severity - 1]
    soft = filtered(images, bell(sigma * unit(images), images.device))
    shifts = reach * unit(images) * (2 * draws.uniform(2, *images.shape[2:]) - 1)
    return shifted(soft, shifts.to(images))


def motion_blur(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """The mean along a line of any direction."""
    return filtered(images, line(MOTION[severity - 1] * unit(images), angles(draws, 0, 180)))


def zoom_blur(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """The mean of the image and of its magnifications about the centre."""
    total = images.clone()
    for zoom in range(1, ZOOMS + 1):
        scale = 1 / (1 + ZOOM[severity - 1] * zoom / ZOOMS)
        matrix = scale * torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
        grid = affine_grid(matrix, list(images.shape), align_corners=False)
        total += grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / (ZOOMS + 1)


def gaussian_blur(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """The mean weighted by a gaussian."""
    return filtered(images, bell(GAUSSIAN[severity - 1] * unit(images), images.device))
