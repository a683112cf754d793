"""The shortest way to a hyperplane inside the box, in l_inf, l_2 and l_1.

    min ||d||_p   such that   w . d = gap,   0 <= x + d <= 1

Every pixel moves towards the hyperplane, by at most its room m, the way to the side of the box:

    l_inf   |d_i| = min(lambda, m_i)               l_2   |d_i| = min(lambda |w_i|, m_i)
    l_1     pixels in order of |w_i|, each to the side of the box, until the gap is closed

with the lambda that closes the gap.  Where no image of the box is on the hyperplane, every pixel that helps goes to its
side.  Source: Croce and Hein 2020, arXiv:1907.02044, section 3.1 and supplement.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def nearest_step(norm: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function for a norm: images (n, d) in [0, 1], normals w (n, d), gaps (n,) -> steps (n, d)."""
    return {"linf": _even, "l2": _along, "l1": _few}[norm]


def _even(images: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """In l_inf all pixels move equally far, as far as the box lets them."""
    sides, rooms, slopes = _towards(images, normals, gaps)
    return sides * _filled(rooms, slopes, torch.ones_like(slopes), gaps.abs())


def _along(images: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """In l_2 pixels move along the normal, as far as the box lets them."""
    sides, rooms, slopes = _towards(images, normals, gaps)
    return sides * _filled(rooms, slopes, slopes, gaps.abs())


def _few(images: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """In l_1 pixels move one after another to the side of the box, the steepest first."""
    sides, rooms, slopes = _towards(images, normals, gaps)
    falling, order = slopes.sort(dim=1, descending=True)
    room = rooms.gather(1, order)
    gains = falling * room
    before = torch.cat([torch.zeros_like(gains[:, :1]), gains.cumsum(dim=1)[:, :-1]], dim=1)
    left = (gaps.abs()[:, None] - before).clamp_min(0.0)
    # where the slope is 0 there is no room either
    moved = torch.minimum(left / falling.clamp_min(torch.finfo(falling.dtype).tiny), room)
    return sides * torch.zeros_like(moved).scatter(1, order, moved)


def _towards(images: Tensor, normals: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which way each pixel moves (-1, 0 or 1), how far it can, and |w|: (n, d) each."""
    sides = normals.sign() * gaps.sign()[:, None]
    rooms = torch.where(sides > 0, 1 - images, images) * (sides != 0)
    return sides, rooms, normals.abs()


def _filled(rooms: Tensor, slopes: Tensor, speeds: Tensor, gaps: Tensor) -> Tensor:
    """min(lambda * speed, room) for the lambda at which the sum of slope times that is the gap: (n, d).

    The sum is piecewise linear in lambda and bends where a pixel meets its side, at room / speed; those in order, the
    first at which the gap is closed ends the piece that lambda is on.
    """
    tiny = torch.finfo(rooms.dtype).tiny
    ends, order = (rooms / speeds.clamp_min(tiny)).sort(dim=1)
    slope = slopes.gather(1, order)
    gains = slope * rooms.gather(1, order)
    # of the pixels at their side before each end, and of those still moving up to it
    stopped = gains.cumsum(dim=1) - gains
    rates = (slope * speeds.gather(1, order)).flip(1).cumsum(dim=1).flip(1)
    open_ends = (stopped + rates * ends < gaps[:, None]).sum(dim=1, keepdim=True)
    at = open_ends.clamp_max(ends.shape[1] - 1)
    closing = (gaps[:, None] - stopped.gather(1, at)) / rates.gather(1, at).clamp_min(tiny)
    # an image without a room to close the gap has every pixel go as far as it can
    closing = torch.where(open_ends < ends.shape[1], torch.minimum(closing, ends.gather(1, at)), ends[:, -1:])
    return torch.minimum(closing.clamp_min(0.0) * speeds, rooms)
