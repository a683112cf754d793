"""The threat model: which images an adversary may show instead of the clean one."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import in_

if TYPE_CHECKING:
    from torch import Tensor

NORMS = ("linf", "l2")
DUAL_ORDER = {"linf": 1.0, "l2": 2.0}
"""Order q of the dual norm of each threat norm p, 1/p + 1/q = 1: gradients are measured in it."""


def pixels(value: str | float) -> float:
    """`"8/255"` or `0.0314` as a fraction of the pixel range [0, 1].

    Raises:
        ValueError: not a number, a division by zero, or not finite.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number; write 8/255 or 0.03")
    try:
        if isinstance(value, str):
            above, below = value.split("/") if "/" in value else (value, "1")
            number = float(Fraction(above) / Fraction(below))  # Fraction alone refuses 0.5/255
        else:
            number = float(value)
    except ZeroDivisionError:
        raise ValueError(f"{value!r} divides by zero") from None
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{value!r} is not a number; write 8/255 or 0.03") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


@frozen
class ThreatModel:
    """All images within `epsilon` of the clean one, in `norm`, that are still images (pixels in [0, 1]).

    Args:
        norm: `linf` or `l2`.
        epsilon: radius in pixel units, a fraction of the pixel range; `"8/255"` is understood.
    """

    norm: str = field(validator=in_(NORMS), metadata={"help": "norm of the perturbation: linf or l2"})
    epsilon: float = field(converter=pixels, metadata={"help": "radius in pixel units; 8/255 is a number"})

    @epsilon.validator
    def _not_negative(self, attribute: object, epsilon: float) -> None:
        if epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, found {epsilon:g}")
        if self.norm == "linf" and epsilon > 1:
            raise ValueError(
                f"epsilon is a fraction of the pixel range, at most 1, found {epsilon:g}; 8/255 is written so"
            )

    def __str__(self) -> str:
        scaled = self.epsilon * 255
        if 0 < scaled < 255 and abs(scaled - round(scaled)) < 1e-9:
            return f"{self.norm} {round(scaled)}/255"
        return f"{self.norm} {self.epsilon:g}"

    def distance(self, images: Tensor, clean: Tensor) -> Tensor:
        """Size of the perturbation in this norm: both (N, C, H, W) -> (N,) in pixel units."""
        delta = (images - clean).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(dim=1)
        length: Tensor = delta.norm(dim=1)
        return length

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """Admissible images near `images`: both (N, C, H, W), clean in [0, 1] -> the same shape.

        First into the ball, then into [0, 1]; the second step cannot leave the ball because `clean` is inside
        the box and both norms shrink when an entry moves towards it.
        """
        delta = images - clean
        if self.norm == "linf":
            delta = delta.clamp(-self.epsilon, self.epsilon)
        else:
            length = delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (delta.dim() - 1))
            delta = delta * (self.epsilon / length).clamp_max(1.0)
        return (clean + delta).clamp(0.0, 1.0)
