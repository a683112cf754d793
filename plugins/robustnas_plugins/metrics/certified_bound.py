"""Certified lower bound of the margin (DSRNA-CB): how far the decision stays right for every admissible
image.

R = lower bound of f_y(x) - f_j(x) over the ball around x0 cut with the box of images, Eqs. 1-11 of the paper
(arXiv:2012.06122), computed by `robustnas.bounds`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import in_

from robustnas.bounds import METHODS, margins
from robustnas.errors import RunError
from robustnas.threat import ThreatModel, pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

ADVICE = "use a smaller epsilon for the metric (metric: {name: certified-bound, epsilon: ...}) or fewer cells"


def _radius(value: str | float | None) -> float | None:
    return None if value is None else pixels(value)


@frozen
class CertifiedBound:
    """Certified margin of each image, in logits; larger is more robust.

    The paper does not say against which wrong class the margin is taken; the strongest one is our choice,
    and costs one backward pass where `mean` costs one for each wrong class.
    """

    method: str = field(
        default="crown-ibp",
        validator=in_(METHODS),
        metadata={"help": "bound: ibp, crown-ibp or crown (tighter, dearer)"},
    )
    epsilon: float | None = field(
        default=None,
        converter=_radius,
        metadata={"help": "radius of the metric in pixel units, 8/255 is a number; the threat's if not given"},
    )
    targets: str = field(
        default="strongest",
        validator=in_(("strongest", "mean")),
        metadata={"help": "margin to the strongest wrong class (our choice), or the mean over all wrong classes"},
    )

    @epsilon.validator
    def _not_negative(self, attribute: object, epsilon: float | None) -> None:
        if epsilon is not None and epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, found {epsilon:g}")

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """images (N, C, H, W) in [0, 1], labels (N,) -> (N,) certified margins in logits.

        Raises:
            RunError: the bound overflowed.
            UnsupportedOpError: the network uses a function without a bound rule.
        """
        within = threat if self.epsilon is None else ThreatModel(threat.norm, self.epsilon)
        targets = "strongest" if self.targets == "strongest" else "all"
        bound = margins(network, images, labels, within, self.method, targets).mean(dim=1)
        lowest = float(bound.detach().min())
        if not math.isfinite(lowest):
            raise RunError(f"certified-bound ({self.method}) overflowed {bound.dtype} at {within}; {ADVICE}")
        return bound
