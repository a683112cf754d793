"""What Square's search starts from and changes: stripes and flat squares in l_inf, pairs of bumps in l_2 and l_1.

Source: Andriushchenko et al. 2020, arXiv:1912.00049, sections 3.2 to 3.4; for l_1 Croce and Hein 2021,
arXiv:2103.01208, and the code published with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor
from torch.linalg import vector_norm

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel

TINY = 1e-12
"""Below any length of a perturbation: keeps 0 / 0 from being formed."""


class Moves(ABC):
    """The perturbations that a search in one norm tries.

    Numbers are uniform in [0, 1).  The first `shared` of a proposal are those that the reference implementation draws
    once for all images; with `short` places end one row and column before the border, and starts are placed, as its
    own are.
    """

    shared: int
    """Of the numbers of a proposal, those that images may have in common; they come first."""

    numbers: int
    """Numbers of a proposal."""

    def __init__(self, clean: Tensor, threat: ThreatModel, short: bool):
        self.clean = clean
        self.threat = threat
        self.short = short

    def at(self, kept: Tensor) -> Self:
        """The moves for some of the images: (n,) bool."""
        return type(self)(self.clean[kept], self.threat, self.short)

    @abstractmethod
    def side(self, share: float) -> int:
        """Side in pixels of a square that covers this share of the image."""

    @abstractmethod
    def start(self, own: PerImageRandom, shared: PerImageRandom) -> Tensor:
        """First images of the search, (n, C, H, W) in ball and box.

        Args:
            own: draws of each image.
            shared: draws of what the reference draws once for all images: theirs, or of length 1 for all of them.
        """

    @abstractmethod
    def candidate(self, best: Tensor, side: int, numbers: Tensor) -> Tensor:
        """`best` (n, C, H, W) changed in a square of `side`: the same shape, in ball and box.  Numbers are (n, K)."""

    def _places(self, numbers: Tensor, length: int, side: int) -> Tensor:
        """First rows (or columns) of squares: (n,) uniform in [0, 1) -> (n,) int64, in an image of `length` of them."""
        return (numbers * max(length - side + 1 - self.short, 1)).long()


class Flat(Moves):
    """l_inf: stripes, then squares, at which every pixel is as far up or down as ball and box allow."""

    def __init__(self, clean: Tensor, threat: ThreatModel, short: bool):
        super().__init__(clean, threat, short)
        self.low, self.high = (clean - threat.epsilon).clamp_min(0.0), (clean + threat.epsilon).clamp_max(1.0)
        self.shared = self.numbers = 2 + clean.shape[1]

    def side(self, share: float) -> int:
        height, width = self.clean.shape[2:]
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def start(self, own: PerImageRandom, shared: PerImageRandom) -> Tensor:
        """Vertical stripes one pixel wide, with a sign of their own in each channel."""
        channels, _, width = self.clean.shape[1:]
        return torch.where(own.signs(channels, 1, width) > 0, self.high, self.low)

    def candidate(self, best: Tensor, side: int, numbers: Tensor) -> Tensor:
        height, width = best.shape[2:]
        rows = _bands(height, side, best.device)[self._places(numbers[:, 0], height, side)]
        columns = _bands(width, side, best.device)[self._places(numbers[:, 1], width, side)]
        up = (numbers[:, 2:] < 0.5)[:, :, None, None]
        square = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(square, torch.where(up, self.high, self.low), best)


class Bumps(Moves):
    """l_2 and l_1: bumps side by side, up and down; each change takes the mass of one square to another."""

    shared = 5

    def __init__(self, clean: Tensor, threat: ThreatModel, short: bool):
        super().__init__(clean, threat, short)
        self.order = {"l2": 2, "l1": 1}[threat.norm]
        self.numbers = self.shared + clean.shape[1]

    def side(self, share: float) -> int:
        """A side that is odd and at least 3, so that a bump has a middle, if the image is that large."""
        height, width = self.clean.shape[2:]
        wanted = max(round(math.sqrt(share * height * width)), 3)
        return min(wanted + 1 - wanted % 2, height, width)

    def start(self, own: PerImageRandom, shared: PerImageRandom) -> Tensor:
        """Tiles of bumps, five along the shorter side, each with a direction of its own and a sign for each channel."""
        count, channels, height, width = self.clean.shape
        side = max(min(height, width) // TILES, 1)
        down, across = height // side, width // side
        signs = own.of("signs").signs(channels, down, across, 1, 1)
        turned = shared.of("turned").integers(2, 1, down, across)
        tiles = signs * _pairs(side, self.order, self.clean.device)[turned]
        mosaic = tiles.permute(0, 1, 2, 4, 3, 5).reshape(count, channels, down * side, across * side)
        delta = torch.zeros_like(self.clean)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        if self.short:  # it centres five tiles, and cuts what a larger mosaic has beyond the border
            top = left = max((height - TILES * side) // 2, 0)
        shown = mosaic[:, :, : height - top, : width - left]
        delta[:, :, top : top + shown.shape[2], left : left + shown.shape[3]] = shown
        return self._admissible(delta.flatten(2))

    def candidate(self, best: Tensor, side: int, numbers: Tensor) -> Tensor:
        count, channels, height, width = best.shape
        window = _window(side, width, best.device)
        first, second = (
            (
                self._places(numbers[:, at], height, side)[:, None] * width
                + self._places(numbers[:, at + 1], width, side)[:, None]
                + window
            )[:, None].expand(count, channels, -1)
            for at in (0, 2)
        )
        delta = (best - self.clean).flatten(2)
        rest = delta.scatter(2, first, 0.0).scatter(2, second, 0.0)
        old = delta.gather(2, first)
        turned = (numbers[:, 4] < 0.5).long()
        signs = torch.where(numbers[:, 5:] < 0.5, -1.0, 1.0)[:, :, None]
        new = signs * _pairs(side, self.order, best.device).flatten(1)[turned][:, None] + old / (
            _size(old, self) + TINY
        )
        freed = _size(delta - rest, self)
        length = vector_norm(delta.flatten(1), self.order, dim=1)[:, None, None]
        new = new * (self._mass(freed, length, channels) / (_size(new, self) + TINY))
        return self._admissible(rest.scatter(2, first, new))

    def _mass(self, freed: Tensor, length: Tensor, channels: int) -> Tensor:
        """Sizes of the new square, (n, C, 1): what both squares held and the channel's part of what the ball has left.

        In l_1 all of it times C, as the published code does: the projection takes back what is too much.
        """
        left = (self.threat.epsilon**self.order - length**self.order).clamp_min(0.0)
        mass: Tensor = left / channels + freed**self.order
        return mass.sqrt() if self.order == 2 else mass * channels

    def _admissible(self, delta: Tensor) -> Tensor:
        """Images at the perturbations (n, C, H * W): in l_2 scaled to the ball's border and cut at the box's."""
        if self.order == 2:
            length = vector_norm(delta.flatten(1), dim=1)[:, None, None]
            delta = delta * (self.threat.epsilon / (length + TINY))
            return (self.clean + delta.view_as(self.clean)).clamp(0.0, 1.0)
        return self.threat.project(self.clean + delta.view_as(self.clean), self.clean)


class Pixels(Moves):
    """l_2 and l_1 on images of fewer than `TILES` rows or columns: one pixel value at a time.

    Ours.  A bump has a middle and a rim, and a pair of them has no place there: a search of pairs in four pixels
    reaches few of all directions.
    """

    shared = 0
    numbers = 2

    def side(self, share: float) -> int:
        return 1

    def start(self, own: PerImageRandom, shared: PerImageRandom) -> Tensor:
        """Move every pixel value as far up or down as every other."""
        signs = own.of("signs").signs(*self.clean.shape[1:]).to(self.clean)
        return self.threat.project(self.clean + self.threat.epsilon * signs, self.clean)

    def candidate(self, best: Tensor, side: int, numbers: Tensor) -> Tensor:
        """A pixel value is moved to anywhere that the ball allows by itself; the others make room for it."""
        clean, changed = self.clean.flatten(1), best.flatten(1)
        place = (numbers[:, :1] * clean.shape[1]).long().clamp_max(clean.shape[1] - 1)
        moved = clean.gather(1, place) + self.threat.epsilon * (2 * numbers[:, 1:] - 1)
        changed = changed.scatter(1, place, moved.clamp(0.0, 1.0))
        return self.threat.project(changed.view_as(best), self.clean)


FORMS: dict[str, type[Flat] | type[Bumps]] = {"linf": Flat, "l2": Bumps, "l1": Bumps}
"""The moves of each norm."""

TILES = 5
"""Bumps along the shorter side at the start; the reference implementation cannot be run on images with fewer pixels."""


def moves(clean: Tensor, threat: ThreatModel, short: bool) -> Moves:
    """The moves for images (n, C, H, W)."""
    if min(clean.shape[2:]) >= TILES:
        return FORMS[threat.norm](clean, threat, short)
    # where no square fits beside another, places that end before the border would be one place for all
    return Flat(clean, threat, False) if threat.norm == "linf" else Pixels(clean, threat, False)


def _size(parts: Tensor, moves: Bumps) -> Tensor:
    """Size of each channel's part of a perturbation in the norm: (n, C, P) -> (n, C, 1)."""
    size: Tensor = vector_norm(parts, moves.order, dim=2, keepdim=True)
    return size


@lru_cache(maxsize=64)
def _bands(length: int, side: int, device: torch.device) -> Tensor:
    """Row k is true at k, ..., k + side - 1: (length - side + 1, length) bool."""
    offset = torch.arange(length, device=device) - torch.arange(length - side + 1, device=device)[:, None]
    return (offset >= 0) & (offset < side)


@lru_cache(maxsize=64)
def _window(side: int, width: int, device: torch.device) -> Tensor:
    """Places of a square's pixels in a flattened image, seen from its corner: (side * side,) int64."""
    along = torch.arange(side, device=device)
    return (along[:, None] * width + along).flatten()


@lru_cache(maxsize=64)
def _pairs(side: int, order: int, device: torch.device) -> Tensor:
    """A bump up beside a bump down, of size 1 together, upright and turned: (2, side, side)."""
    above = side // 2
    pair = torch.cat([_bump(above, side, order), -_bump(side - above, side, order)])
    pair = pair / vector_norm(pair, order)
    return torch.stack([pair, pair.T]).to(device)


def _bump(height: int, width: int, order: int) -> Tensor:
    """Pyramid of ever larger rectangles around the middle: (height, width) float32, of size 1.

    The t-th rectangle, of all pixels up to t away from the middle in l_inf, adds 1 / (t + 1)^2, in l_1 1 / (t + 1)^4.
    """
    if height == 0:
        return torch.zeros(0, width)
    steps = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64)
    heights = (steps ** (-2.0 if order == 2 else -4.0)).flip(0).cumsum(0).flip(0)
    away = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    bump = heights[away]
    bump /= vector_norm(bump, order)
    return bump.float()
