"""The box of admissible images around one image, as decimal numbers that never cut anything off it.

Every end is rounded outwards three times over:

1.  the end is the outer one of two: the exact x - epsilon, and the one that float32 arithmetic gives, which is what
    the bounds and the attacks of this package work with; so the box holds every image of either kind;
2.  it goes outwards to a float64;
3.  that float64 goes outwards to DIGITS decimals.

Reading rounds to the nearest number and never reverses an order, so a program that reads the decimals as float64 has a
box that still holds both, like one that computes with exact rational numbers.  The box is wider than the exact one by
at most the rounding of one float32 subtraction, 2^-24 where pixels are below 1.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from attrs import frozen
from torch import Tensor

DIGITS = 20
"""Decimals of an end; float64 numbers above 2^-13 lie further apart than 1e-20."""


@frozen
class Box:
    """Bounds every entry of an image from both sides.

    Args:
        shape: (C, H, W).
        lower: least value of each entry, in the order of memory: columns fastest, channels slowest.
        upper: largest value of each entry.
    """

    shape: tuple[int, ...]
    lower: tuple[str, ...]
    upper: tuple[str, ...]


def around(image: Tensor, epsilon: float) -> Box:
    """The l_inf ball of radius epsilon, pixel units, around an image (C, H, W) in [0, 1], cut with [0, 1]."""
    pixels = image.flatten().tolist()
    radius = torch.tensor(epsilon, dtype=image.dtype)  # as the bounds hold it
    low, high = (image - radius).flatten().tolist(), (image + radius).flatten().tolist()
    exact = Fraction(epsilon)

    def ends(pixel: float, a: float, b: float) -> tuple[str, str]:
        least, largest = Fraction(pixel) - exact, Fraction(pixel) + exact
        return downwards(min(least, Fraction(a))), upwards(max(largest, Fraction(b)))

    # an image has few different pixels, and its box has no more different ends
    known = {pixel: ends(pixel, a, b) for pixel, a, b in zip(pixels, low, high, strict=True)}
    return Box(tuple(image.shape), tuple(known[p][0] for p in pixels), tuple(known[p][1] for p in pixels))


def downwards(value: Fraction) -> str:
    """The largest decimal of DIGITS digits at or below the float64 at or below `value`; at least 0."""
    near = float(value)
    if Fraction(near) > value:
        near = math.nextafter(near, -math.inf)
    return _text(math.floor(Fraction(max(near, 0.0)) * 10**DIGITS))


def upwards(value: Fraction) -> str:
    """The least decimal of DIGITS digits at or above the float64 at or above `value`; at most 1."""
    near = float(value)
    if Fraction(near) < value:
        near = math.nextafter(near, math.inf)
    return _text(math.ceil(Fraction(min(near, 1.0)) * 10**DIGITS))


def _text(units: int) -> str:
    """`units` of the last decimal, without an exponent: SMT-LIB has none."""
    whole, rest = divmod(units, 10**DIGITS)
    return f"{whole}.{f'{rest:0{DIGITS}d}'.rstrip('0') or '0'}"
