"""Noise of sensors: too little light, counted photons, dead pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustnas.attack.per_image_random import PerImageRandom

GAUSSIAN = (0.04, 0.07, 0.11, 0.16, 0.23)
"""Standard deviation, pixel units."""
PHOTONS = (60.0, 30.0, 15.0, 8.0, 4.0)
"""Photons that a white pixel counts on average."""
IMPULSE = (0.01, 0.03, 0.06, 0.11, 0.18)
"""Share of pixel values that turn 0 or 1."""
SPECKLE = (0.12, 0.2, 0.3, 0.42, 0.6)
"""Standard deviation as a share of the pixel."""


def gaussian_noise(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Add normal noise: x + sigma n."""
    return images + GAUSSIAN[severity - 1] * draws.normal(*images.shape[1:]).to(images)


def shot_noise(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Poisson(photons x) / photons: counts up while the distribution function is below a uniform number."""
    photons = PHOTONS[severity - 1]
    mean = images * photons  # at most 60, so that exp(-mean) is a float32
    uniform = draws.uniform(*images.shape[1:]).to(mean)
    term = torch.exp(-mean)
    below, counted = term.clone(), torch.zeros_like(mean)
    # ten standard deviations beyond the largest mean
    for count in range(1, math.ceil(photons + 10 * math.sqrt(photons)) + 1):
        counted += uniform >= below
        term = term * mean / count
        below = below + term
    return counted / photons


def impulse_noise(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Salt and pepper, each channel of a pixel on its own."""
    share = IMPULSE[severity - 1]
    uniform = draws.uniform(*images.shape[1:]).to(images)
    salted = torch.where(uniform > 1 - share / 2, torch.ones_like(images), images)
    return torch.where(uniform < share / 2, torch.zeros_like(images), salted)


def speckle_noise(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Add normal noise in proportion to the pixel: x (1 + sigma n)."""
    return images * (1 + SPECKLE[severity - 1] * draws.normal(*images.shape[1:]).to(images))
