"""Certificates of a network: margins and radii by bounds, radii under noise, and whether attacks contradict them."""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.certify.margins_and_radii import (
        Verified,
        largest_certified,
        logits_and_steepness,
        margins,
        radius,
        radius_of_lines,
        rounded,
        verify,
    )

__all__ = [
    "Verified", "largest_certified", "logits_and_steepness", "margins", "radius", "radius_of_lines", "rounded",
    "verify",
]  # fmt: skip

__getattr__ = facade(__name__, **dict.fromkeys(__all__, "margins_and_radii"))
