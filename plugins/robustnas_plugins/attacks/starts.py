"""Where attacks that see only decisions begin: an image that fools, however far, and the way from it to the boundary.

Foolbox raises for the whole batch where one image has no start (foolbox#541), and takes uniform noise alone, which many
networks put into one class.  Here each image has its own search, and one without a start is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robustnas.attack.foolbox_attack import Network, fooled
from robustnas.attack.per_image_random import PerImageRandom

TRIES = "images tried as a start; an image without one is left clean"
"""Help of the option `tries`."""


def starts(
    network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom, tries: int
) -> tuple[Tensor, Tensor]:
    """Images that fool, anywhere in the box: at most `tries` evaluations an image.

    By turns: the negative, uniform noise of every pixel, uniform noise of coarser and coarser squares (down to one grey
    or colour).  Of a few pixels, where so many tries are enough, all that are black or white: what is fooled near one
    corner of the box alone is not met by chance.  An image whose start is found leaves.

    Returns:
        The starts (N, C, H, W), where none was found the clean image; and whether one was found, (N,) bool.
    """
    found = images.clone()
    standing = torch.arange(len(images), device=images.device)
    for attempt in range(tries):
        if not len(standing):
            break
        if tries > 2 ** images[0].numel():
            proposed = _corner(images[standing], attempt)
        else:
            proposed = _proposed(images[standing], draws.at(standing), attempt)
        with torch.no_grad():
            broken = fooled(network(proposed), labels[standing])
        found[standing[broken]] = proposed[broken]
        standing = standing[~broken]
    has = torch.ones(len(images), dtype=torch.bool, device=images.device)
    has[standing] = False
    return found, has


def _corner(images: Tensor, attempt: int) -> Tensor:
    """The `attempt`-th image of black and white pixel values, the same for all: (n, C, H, W); they come round again."""
    places = torch.arange(images[0].numel(), device=images.device)
    return ((attempt >> places) & 1).to(images).view(1, *images.shape[1:]).expand_as(images)


def _proposed(images: Tensor, draws: PerImageRandom, attempt: int) -> Tensor:
    """The start to try at the `attempt`-th time, (n, C, H, W)."""
    if attempt == 0:
        return 1 - images
    _, channels, height, width = images.shape
    coarser = (attempt - 1) % 5  # squares of 1, 2, 4 and 8 pixels, then one colour
    square = 2**coarser if coarser < 4 else max(height, width)
    rows, columns = -(-height // square), -(-width // square)
    noise = draws.of("start", attempt).uniform(channels, rows, columns)
    return interpolate(noise, scale_factor=float(square), mode="nearest")[:, :, :height, :width]


def towards(
    network: Network, blend: Callable[[Tensor], Tensor], start: Tensor, far: Tensor, labels: Tensor, halvings: int
) -> Tensor:
    """The nearest images on the way that still fool, (N, C, H, W), by bisection.

    Args:
        network: takes any number of images.
        blend: (N,) shares -> (N, C, H, W), the clean images at 0 and `start` at `far`.
        start: (N, C, H, W), images that fool.
        far: (N,), their shares.
        labels: (N,) int64.
        halvings: evaluations an image.
    """
    near, nearest = torch.zeros_like(far), start
    for _ in range(halvings):
        middle = (near + far) / 2
        proposed = blend(middle)
        with torch.no_grad():
            broken = fooled(network(proposed), labels)
        # images that were judged are kept as they are: made again they could round to the other side
        nearest = torch.where(broken[:, None, None, None], proposed, nearest)
        near, far = torch.where(broken, near, middle), torch.where(broken, middle, far)
    return nearest


def straight(clean: Tensor, start: Tensor) -> Callable[[Tensor], Tensor]:
    """The segment from clean images to starts, both (N, C, H, W), as `towards` walks it; at 1 is the start."""

    def blend(shares: Tensor) -> Tensor:
        return torch.lerp(clean, start, shares[:, None, None, None]).clamp(0.0, 1.0)

    return blend
