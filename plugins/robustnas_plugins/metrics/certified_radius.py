"""Certified radius of each image as a score: the epsilon at which the certified margin is 0, in pixels.

    R = eps*(x0),  where  width(eps*; w, alpha) = f_y(x0) - f_j(x0)            (or log eps*)

and width(eps) is how far the margin's lower bound over the ball of radius eps lies below the clean margin
(`robustnas.bounds`).  With m the clean margin, by the implicit function theorem

    d log eps* = (d log m - d log width) / s,     s = d log width / d log eps,     all at eps*.

An image that is classified wrongly has no such radius, and one that is hardly right has a log m with a huge gradient.
With `margin: soft`, m is tau softplus(m / tau), tau the deviation of the clean logits over the classes: every image
then has a radius, that of the margin itself where the margin is large, and a gradient that does not grow as m goes to
0.  At the start of a search most images are wrong, whatever the depth, and the plain margin says nothing of them.

The search for eps* is a bracketed secant one in logarithms (`robustnas.certify.bracket`), from the radius of the
network's linearisation; the last step is a Newton step inside the bracket, with s from the widths at the radii of the
search (with `steps: 0` there are none, and it is differentiated).  Unlike the bound at a fixed
epsilon it does not explode with depth, and multiplying all logits by a number changes nothing.  Design and use are
ours; the paper (arXiv:2012.06122) reports such radii in its Tables 5 and 6 and does not search with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from attrs.validators import ge, in_, le

from robustnas.bounds import METHODS, log_widths_and_logits
from robustnas.certify import logits_and_steepness, radius_of_lines
from robustnas.certify.bracket import Bracket
from robustnas.errors import RunError
from robustnas.nn.float64 import doubled
from robustnas.nn.margin import margin_to_best_other
from robustnas.options import option
from robustnas.runtime.device import float64_here
from robustnas.threat import largest_radius

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustnas.threat import ThreatModel

FLOORS = {"float32": 1e-36, "float64": 1e-300}
"""Pixels: by precision, the radius of an image classified wrongly, which has no gradient, and the least there is.

Bounds widen by orders of magnitude with every cell, so radii of supernets are small: of 8 cells about 1e-32, of 12
about 1e-43.  Here the number format ends, with room for the products of a radius with weights.
"""

SLOPE = 0.25, 1e6
"""Between these the slope s is believed; it is 1 at small radii and mostly above."""


@frozen
class CertifiedRadius:
    """Certified radius of each image in the threat's norm; larger is more robust.  The threat's epsilon has no say."""

    method: str = option(
        "crown-ibp", "bound: ibp, crown-ibp, crown or alpha-crown (each tighter and dearer)", in_(METHODS)
    )
    scale: str = option("log", "the radius in pixel units, or its natural logarithm", in_(("log", "pixels")))
    steps: int = option(
        2,
        "bounds that the search for the radius takes, before the one that is differentiated",
        ge(0),
        le(30),
        converter=int,
    )
    precision: str = option(
        "float32",
        "arithmetic of the bound; float64 is slower; scale: log takes it for radii that float32 does not hold",
        in_(("float32", "float64")),
    )
    margin: str = option(
        "plain",
        "plain: an image classified wrongly has radius 0 and no gradient; soft: the margin's softplus, for every image",
        in_(("plain", "soft")),
        identity="if given",
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """images (N, C, H, W) in [0, 1], labels (N,) -> (N,) radii in pixel units, or their logarithms.

        With the plain margin, an image that is classified wrongly has the radius 0: its score is that of the floor, and
        has no gradient.

        Raises:
            RunError: a bound overflowed.
            UnsupportedOpError: the network uses a function without a bound rule.
        """
        wide = self.precision == "float64"
        computed, pixels = (doubled(network), images.double()) if wide else (network, images)
        least, most = math.log(FLOORS[self.precision]), math.log(largest_radius(threat.norm, images[0].numel()))

        def log_width(at: Tensor) -> tuple[Tensor, Tensor]:
            widths, logits = log_widths_and_logits(
                computed, pixels, labels, threat.norm, at.exp(), self.method, "strongest"
            )
            return widths[:, 0], logits

        tried: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            logits, length = logits_and_steepness(computed, pixels, labels, threat.norm)
            aim = self._margin(logits, labels)
            right = aim > 0
            aim = torch.where(right, aim, 1.0).log()
            first = radius_of_lines(aim.exp(), length).log()
            bracket = Bracket(torch.full_like(aim, least), torch.full_like(aim, most), first)
            for _ in range(self.steps):
                at = bracket.guess()
                tried.append((at, log_width(at)[0]))
                bracket.note(at, tried[-1][1] - aim)
            at = bracket.guess()
            beyond = right & (bracket.below <= least) & (at < least + 1) if self._widens(images) else right & False
        if bool(beyond.any()):
            return self._apart(network, images, labels, threat, beyond)
        found = self._differentiated(labels, log_width, at, right, tried)
        # the value stays where the root can be; its gradient is that of the root
        moved = torch.minimum(torch.maximum(found.detach(), bracket.below), bracket.above) - found.detach()
        found = torch.where(right, found + moved, least)
        if not bool(found.isfinite().all()):
            raise RunError(f"certified-radius ({self.method}) overflowed {found.dtype}; precision: float64 would do")
        return (found if self.scale == "log" else torch.where(right, found.exp(), 0.0)).to(images.dtype)

    def floored(self, score: Tensor) -> Tensor:
        """(N,) bool: scores that are the least there is, of images classified wrongly or nearly so."""
        least = math.log(FLOORS[self.precision])
        if self.scale == "pixels":
            return score <= math.exp(least) * 1.001
        # radii that float32 does not hold are below its floor, and no floor
        return ((score - least).abs() <= 1e-3) | (score <= math.log(FLOORS["float64"]) + 1e-3)

    def _widens(self, images: Tensor) -> bool:
        """Whether float64 is there for what float32 does not hold, and the score can tell it."""
        return self.precision == "float32" and self.scale == "log" and float64_here(images.device)

    def _apart(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, beyond: Tensor) -> Tensor:
        """The score, of the images `beyond` float32 (N,) in float64: each image's arithmetic is its own affair."""
        found = torch.empty_like(beyond, dtype=images.dtype)
        for metric, chosen in ((self, ~beyond), (evolve(self, precision="float64"), beyond)):
            if bool(chosen.any()):
                found = found.masked_scatter(chosen, metric.score(network, images[chosen], labels[chosen], threat))
        return found

    def _margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The margin to the strongest wrong class, (N,), plain or soft."""
        margin = margin_to_best_other(logits, labels)
        if self.margin == "plain":
            return margin
        tau = logits.std(dim=1).clamp_min(torch.finfo(logits.dtype).tiny)
        return tau * F.softplus(margin / tau)

    def _differentiated(
        self,
        labels: Tensor,
        log_width: Callable[[Tensor], tuple[Tensor, Tensor]],
        at: Tensor,
        right: Tensor,
        tried: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """log eps* from a Newton step at `at`, with the implicit function's gradient."""
        if tried:
            width, logits = log_width(at)
            slope = secant_slope(at, width.detach(), tried)
        else:
            grows = torch.is_grad_enabled()
            with torch.enable_grad():
                leaf = at.clone().requires_grad_()
                width, logits = log_width(leaf)
                (slope,) = torch.autograd.grad(width.sum(), leaf, retain_graph=grows)
            width, logits = (width, logits) if grows else (width.detach(), logits.detach())
        aim = torch.where(right, self._margin(logits, labels), 1.0).log()
        return at + (aim - width) / torch.nan_to_num(slope, nan=1.0).clamp(*SLOPE)


def secant_slope(at: Tensor, width: Tensor, tried: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """d log width / d log eps (N,) at a log radius, from its log width and those of others that were tried.

    The secant to the nearest of them is taken, of those that are far enough for rounding not to count; where all are
    nearer the slope is 1, as it is where the linearisation was right.
    """
    nearest, slope = torch.full_like(at, torch.inf), torch.ones_like(at)
    apart = torch.finfo(at.dtype).eps ** 0.25
    for other, its_width in tried:
        distance = (at - other).abs()
        better = (distance >= apart) & (distance < nearest) & its_width.isfinite()
        nearest = torch.where(better, distance, nearest)
        slope = torch.where(better, (width - its_width) / (at - other), slope)
    return slope
