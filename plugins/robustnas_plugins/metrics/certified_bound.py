"""Certified lower bound of the margin (DSRNA-CB): how far the decision stays right for every admissible image.

    margin   R = lower bound of f_y(x) - f_j(x) over the ball around x0 cut with the box of images
    log      R = -log( f_y(x0) - f_j(x0) - that lower bound )

The first is Eqs. 1-11 of the paper (arXiv:2012.06122), computed by `robustnas.bounds`.  The second is ours, for deep
supernets: bounds widen by orders of magnitude with every cell, so that at the paper's 8 cells the margin bound can be
-1e25 where the loss is 2, and nothing else is heard in the outer level.  The logarithm of the width has a gradient of
order one at any depth, and the same maximiser as the bound where the clean margin is fixed.

Both change when all logits are multiplied by a number, which robustness does not.  With `normalise`, the logits are
divided by their deviation over the classes at the clean image, as part of the network: their scale cannot be the gain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from attrs.validators import ge, in_, instance_of, le

from robustnas.bounds import METHODS, log_widths_and_logits, margins_and_logits
from robustnas.errors import RunError
from robustnas.nn.float64 import doubled
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

ADVICE = (
    "use scale: log, a smaller epsilon for the metric (metric: {name: certified-bound, epsilon: ...}), or fewer cells"
)
START = 0.01
"""Share of epsilon at which a ramp begins."""


def _radius(value: str | float | None) -> float | None:
    return None if value is None else pixels(value)


@frozen
class CertifiedBound:
    """Certified margin of each image, in logits; larger is more robust.

    The paper does not say against which wrong class the margin is taken; the strongest one is our choice,
    and costs one backward pass where `mean` costs one for each wrong class.
    """

    method: str = option(
        "crown-ibp", "bound: ibp, crown-ibp, crown or alpha-crown (each tighter and dearer)", in_(METHODS)
    )
    epsilon: float | None = option(
        None, "radius of the metric in pixel units, 8/255 is a number; the threat's if not given", converter=_radius
    )
    ramp: float = option(
        0.0,
        "share of the search over which the radius grows from a hundredth of epsilon to epsilon",
        ge(0.0),
        le(1.0),
        converter=float,
    )
    targets: str = option(
        "strongest",
        "margin to the strongest wrong class (our choice), or the mean over all wrong classes",
        in_(("strongest", "mean")),
    )

    scale: str = option(
        "margin",
        "the margin's bound in logits (the paper's), or minus the log of its width (for deep supernets)",
        in_(("margin", "log")),
    )
    normalise: bool = option(
        False, "divide by the deviation of the clean logits, so that their scale cannot be the gain", instance_of(bool)
    )

    precision: str = option(
        "float32",
        "arithmetic of the bound: float64 is slower, and with scale: margin overflows later",
        in_(("float32", "float64")),
    )

    @epsilon.validator
    def _not_negative(self, attribute: object, epsilon: float | None) -> None:
        if epsilon is not None and epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, found {epsilon:g}")

    def at(self, progress: float) -> Any:
        """The metric at this share of the search: with the radius its ramp has reached."""
        return self if progress >= self.ramp else _Ramped(self, START + (1 - START) * progress / self.ramp)

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """images (N, C, H, W) in [0, 1], labels (N,) -> (N,) certified margins in logits, or minus log widths.

        Raises:
            RunError: the bound overflowed, or the network's own logits did.
            UnsupportedOpError: the network uses a function without a bound rule.
        """
        return self.within(network, images, labels, threat, 1.0)

    def within(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, share: float) -> Tensor:
        """The `score` at this share of epsilon."""
        epsilon = threat.epsilon if self.epsilon is None else self.epsilon
        reduced = ThreatModel(threat.norm, share * epsilon)
        targets = "strongest" if self.targets == "strongest" else "all"
        wide = self.precision == "float64"
        computed, pixels_in = (doubled(network), images.double()) if wide else (network, images)
        compute = margins_and_logits if self.scale == "margin" else log_widths_and_logits
        radii = torch.full((len(images),), reduced.epsilon, dtype=pixels_in.dtype, device=images.device)
        found, logits = compute(computed, pixels_in, labels, reduced.norm, radii, self.method, targets)
        if not math.isfinite(float(logits.detach().abs().max())):
            raise RunError(
                f"certified-bound: the network's own logits are not finite in {logits.dtype}, without any ball"
            )
        if not math.isfinite(float(found.detach().abs().max())):
            raise RunError(f"certified-bound ({self.method}) overflowed {found.dtype} at {reduced}; {ADVICE}")
        if self.normalise:
            deviation = logits.std(dim=1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
            found = found / deviation if self.scale == "margin" else found - deviation.log()
        return (found if self.scale == "margin" else -found).mean(dim=1).to(images.dtype)


@frozen
class _Ramped:
    """The metric while its radius still grows: at a share of its epsilon."""

    metric: CertifiedBound
    share: float

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """The metric's score at that share."""
        return self.metric.within(network, images, labels, threat, self.share)
