"""The threat model: which images an adversary may show instead of the clean one, and the projection onto them."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import in_

from robustnas.runtime.quoted import quoted

if TYPE_CHECKING:
    from torch import Tensor

NORMS = ("linf", "l2", "l1")
"""The norms of a threat, ||d||_inf <= ||d||_2 <= ||d||_1: of balls of one radius, each holds the next."""

ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
"""Order p of each norm, as foolbox and torch name it."""

USUAL_RADIUS = {"linf": "8/255", "l2": "0.5", "l1": "12"}
"""What is usual in each norm where no radius is given: those of RobustBench, and of Croce and Hein 2021 in l_1."""

DUAL_ORDER = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""Order q of the dual norm of each threat norm p, 1/p + 1/q = 1: gradients are measured in it."""


NUMBER = re.compile(r"\s*[-+]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][-+]?\d{1,3})?\s*", re.ASCII)
"""A number as text.  Larger exponents are those of no pixel, and a fraction would write all their digits out."""


def largest_radius(norm: str, values: int) -> float:
    """The radius, in pixel units, at which a ball holds every image of so many pixel values."""
    return {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}[norm]


def beyond_range(norm: str, epsilon: float) -> bool:
    """Whether a radius is larger than the whole pixel range; most such are grey levels: 8 where 8/255 is meant."""
    return norm == "linf" and epsilon > 1


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
            if not (NUMBER.fullmatch(above) and NUMBER.fullmatch(below)):
                raise ValueError
            number = float(Fraction(above) / Fraction(below))  # Fraction alone refuses 0.5/255
        else:
            number = float(value)
    except ZeroDivisionError:
        raise ValueError(f"{quoted(value)} divides by zero") from None
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{quoted(value)} is not a number; write 8/255 or 0.03") from None
    if not math.isfinite(number):
        raise ValueError(f"{quoted(value)} is not a finite number")
    return number


def radius_text(epsilon: float) -> str:
    """A radius as people write it: `8/255`, `0.5/255`, or `0.1`."""
    scaled, short = epsilon * 255, f"{epsilon:g}"
    if float(short) != epsilon and 0 < scaled < 255 and abs(2 * scaled - round(2 * scaled)) < 1e-9:
        return f"{scaled:g}/255"
    return short


@frozen
class ThreatModel:
    """All images within `epsilon` of the clean one, in `norm`, that are still images (pixels in [0, 1]).

    Args:
        norm: `linf`, `l2` or `l1`.
        epsilon: radius in pixel units, a fraction of the pixel range; `"8/255"` is understood.  In linf it is at
            most 1; in l2 and l1 it may be more, and the ball holds every image from sqrt(d) and d on, d pixel values.
    """

    norm: str = field(validator=in_(NORMS), metadata={"help": "norm of the perturbation: linf, l2 or l1"})
    epsilon: float = field(converter=pixels, metadata={"help": "radius in pixel units; 8/255 is a number"})

    @epsilon.validator
    def _not_negative(self, attribute: object, epsilon: float) -> None:
        if epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, found {epsilon:g}")
        if beyond_range(self.norm, epsilon):
            raise ValueError(
                f"epsilon is a fraction of the pixel range, at most 1, found {epsilon:g}; 8/255 is written so"
            )

    def __str__(self) -> str:
        return f"{self.norm} {radius_text(self.epsilon)}"

    def distance(self, images: Tensor, clean: Tensor) -> Tensor:
        """Size of the perturbation in this norm: both (N, C, H, W) -> (N,) in pixel units."""
        delta = (images - clean).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(dim=1)
        if self.norm == "l1":
            # the roundings of thousands of terms can add up to more in float32 than a tolerance of 1e-5
            return _in_float64(delta).abs().sum(dim=1).to(delta)
        length: Tensor = delta.norm(dim=1)
        return length

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """Admissible images near `images`: both (N, C, H, W), clean in [0, 1] -> the same shape.

        In linf and l2 the nearest point of the ball, clamped to [0, 1]: in the ball still, because clamping moves
        entries towards `clean`, but in l2 not always the nearest admissible image.  In l1 the nearest admissible image,
        as far as rounding lets it.
        """
        delta = images - clean
        if self.norm == "linf":
            delta = delta.clamp(-self.epsilon, self.epsilon)
        elif self.norm == "l1":
            return _project_l1(images, clean, self.epsilon)
        else:
            # l2: longer perturbations are scaled to length epsilon
            length = delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (delta.dim() - 1))
            delta = delta * (self.epsilon / length).clamp_max(1.0)
        return (clean + delta).clamp(0.0, 1.0)


def _project_l1(images: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """The nearest point of the l_1 ball that is in [0, 1] too: (N, C, H, W) both -> the same shape.

    Every entry of the perturbation v shrinks by the same theta, down to 0 at most, and stops at its room m, the way
    from the clean pixel to the side of the box that it goes to:

        delta_i = sign(v_i) min(max(|v_i| - theta, 0), m_i),   the least theta >= 0 with ||delta||_1 <= epsilon.

    The sum is piecewise linear in theta, steeper by 1 below each |v_i| and flatter by 1 below each |v_i| - m_i; with
    these 2d ends sorted, theta is on the segment on which the sum passes epsilon.

    Sources: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions" (ICML),
    figure 1, which is the case without a box; with it Croce and Hein 2021, arXiv:2103.01208, proposition 2.1 (the
    ball and then the box would lose what the ball allots to pixels beyond the box).

    In float64, and each pixel rounded towards the clean one: pixels rounded to the nearest would all err to the
    same side where image and perturbation are flat.  So the result is inside the ball as it stands, and an image
    that is admissible already is returned as it is.
    """
    import torch  # not above: a recipe is read without it

    given, centre = _in_float64(images).flatten(1), _in_float64(clean).flatten(1)
    delta = given - centre
    size = delta.abs()
    room = torch.where(delta > 0, 1 - centre, centre)
    falling, order = torch.cat([size, size - room], dim=1).sort(dim=1, descending=True)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).to(size)
    moving, moved = slope.cumsum(dim=1), (slope * falling).cumsum(dim=1)
    # the sum at each end is moved - falling * moving, and grows along the row
    last = ((moved - falling * moving < epsilon).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    following = falling.gather(1, (last + 1).clamp_max(falling.shape[1] - 1))
    # within the segment, whatever the division makes of a slope that rounding left at 0
    theta = (moved.gather(1, last) - epsilon) / moving.gather(1, last).clamp_min(1.0)
    theta = torch.minimum(torch.maximum(theta, following), falling.gather(1, last))
    shrunk = centre + delta.sign() * torch.minimum((size - theta).clamp_min(0.0), room)
    inside = torch.minimum(size, room).sum(dim=1, keepdim=True) <= epsilon
    wanted = torch.where(inside, given, shrunk).clamp(0.0, 1.0)
    rounded = wanted.to(clean.dtype)
    too_far = (rounded.double() - centre).abs() > (wanted - centre).abs()
    rounded = torch.where(too_far, torch.nextafter(rounded, centre.to(clean.dtype)), rounded)
    return rounded.view(images.shape).to(images.device)


def _in_float64(values: Tensor) -> Tensor:
    """The same numbers in float64; on the CPU where the device has no such numbers."""
    return (values.cpu() if values.device.type == "mps" else values).double()
