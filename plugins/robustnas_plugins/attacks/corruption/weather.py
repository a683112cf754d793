"""Weather: falling snow, frost on the lens, fog, drops on the lens.  Lengths: see the package."""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.attack.per_image_random import PerImageRandom
from robustnas_plugins.attacks.corruption.fields import (
    angles,
    bell,
    clouds,
    filtered,
    grey,
    line,
    smooth,
    spread,
    tint,
    unit,
)

SNOW = ((0.01, 0.1), (0.019, 0.18), (0.03, 0.27), (0.043, 0.36), (0.06, 0.46))
"""Share of pixels where a flake begins, and weight of the pale scene."""
FLAKE = 3.0
"""Length of a flake's trace, pixels."""
FROST = (0.25, 0.38, 0.5, 0.62, 0.74)
"""Weight of the frost."""
FOG = ((0.3, 0.5), (0.45, 0.52), (0.6, 0.54), (0.75, 0.56), (0.9, 0.58))
"""Weight of the fog where it is thickest, and how strong each finer detail is beside the coarser one."""
SPATTER = ((0.1, 0.45), (0.17, 0.5), (0.24, 0.55), (0.31, 0.62), (0.4, 0.7))
"""Share of the image under the drops, and how much they hide."""


def snow(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """A paler scene, and flakes that fall in one direction, blurred along it."""
    share, pale = SNOW[severity - 1]
    lit = torch.maximum(images, 0.5 + 0.5 * grey(images))
    scene = (1 - pale) * images + pale * lit
    shape = (1, *images.shape[2:])
    begins = (draws.of("place").uniform(*shape) < share) * (0.5 + 0.5 * draws.of("size").uniform(*shape))
    length = FLAKE * unit(images)
    traces = filtered(begins.to(images), line(length, angles(draws.of("wind"), 45, 135)))
    # the line spreads a flake over its length: given back, so that a trace is about as bright as a flake
    return scene + (traces * (length + 1)).clamp_max(1.0)


def frost(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Ridges of smooth noise, thin and branching, laid over the image; whiter than what they cover.

    The families' authors lay photographs of frost over the image; this texture is computed.
    """
    height, width = images.shape[2:]
    ridges: Tensor | float = 0.0
    for octave, cell in enumerate((8.0, 4.0, 2.0)):
        field = smooth(draws.of("ridge", octave), height, width, max(cell * unit(images), 1.0))
        ridges = ridges + 0.7**octave * (1 - field.abs()).clamp_min(0.0).square()
    assert isinstance(ridges, Tensor)
    crystals = 0.35 + 0.65 * spread(ridges.to(images))
    cover = FROST[severity - 1] * crystals
    return images * (1 - cover) + tint(images, 0.85, 0.93, 1.0) * cover


def fog(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Light grey in clouds of every size, over the whole image and thinner in places."""
    thick, decay = FOG[severity - 1]
    height, width = images.shape[2:]
    veil = clouds(draws, height, width, decay).to(images)
    cover = thick * (0.4 + 0.6 * veil)
    return images * (1 - cover) + tint(images, 0.8, 0.8, 0.82) * cover


def spatter(images: Tensor, severity: int, draws: PerImageRandom) -> Tensor:
    """Drops of water with soft edges, paler than most scenes."""
    share, hides = SPATTER[severity - 1]
    height, width = images.shape[2:]
    field = smooth(draws, height, width, max(4.0 * unit(images), 1.0))
    wanted = max(round(share * height * width), 1)
    edge = field.flatten(1).topk(wanted, dim=1).values[:, -1]
    drops = (field >= edge.view(-1, 1, 1, 1)).to(images)
    cover = hides * filtered(drops, bell(0.6 * unit(images), images.device))
    return images * (1 - cover) + tint(images, 0.78, 0.92, 0.95) * cover
