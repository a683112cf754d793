"""Certified lower bound of the margin (DSRNA-CB): how far the decision stays right for every admissible
image.

    margin   R = lower bound of f_y(x) - f_j(x) over the ball around x0 cut with the box of images
    log      R = -log( f_y(x0) - f_j(x0) - that lower bound )

The first is Eqs. 1-11 of the paper (arXiv:2012.06122), computed by `robustnas.bounds`.  The second is ours, for deep
supernets: bounds widen by orders of magnitude with every cell, so that at the paper's 8 cells the margin bound is
-1e25 where the loss is 2, and nothing else is heard in the outer level.  The logarithm of the width has a gradient of
order one at any depth, and the same maximiser as the bound where the clean margin is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from attrs import field, frozen
from attrs.validators import in_

from robustnas.bounds import METHODS, margins, widths
from robustnas.errors import RunError
from robustnas.threat import ThreatModel, pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

ADVICE = (
    "use a smaller epsilon for the metric (metric: {name: certified-bound, epsilon: ...}), precision: float64 with "
    "scale: log, or fewer cells"
)


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

    scale: str = field(
        default="margin",
        validator=in_(("margin", "log")),
        metadata={
            "help": "the margin's bound in logits (the paper's), or minus the log of its width (for deep supernets)"
        },
    )

    precision: str = field(
        default="float32",
        validator=in_(("float32", "float64")),
        metadata={"help": "arithmetic of the bound: float64 is slower and overflows only in far deeper supernets"},
    )

    @epsilon.validator
    def _not_negative(self, attribute: object, epsilon: float | None) -> None:
        if epsilon is not None and epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, found {epsilon:g}")

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """images (N, C, H, W) in [0, 1], labels (N,) -> (N,) certified margins in logits, or minus log widths.

        Raises:
            RunError: the bound overflowed.
            UnsupportedOpError: the network uses a function without a bound rule.
        """
        within = threat if self.epsilon is None else ThreatModel(threat.norm, self.epsilon)
        targets = "strongest" if self.targets == "strongest" else "all"
        computed, pixels_in = (network, images) if self.precision == "float32" else _in_float64(network, images)
        compute = margins if self.scale == "margin" else widths
        found = compute(computed, pixels_in, labels, within, self.method, targets)
        if not math.isfinite(float(found.detach().abs().max())):
            raise RunError(f"certified-bound ({self.method}) overflowed {found.dtype} at {within}; {ADVICE}")
        if self.scale == "log":
            # a width of 0 (epsilon 0, or a network that does not look at its input) has no logarithm
            found = -found.clamp_min(torch.finfo(found.dtype).tiny).log()
        return found.mean(dim=1).to(images.dtype)


def _in_float64(network: nn.Module, images: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The same network, computed in float64 from its own weights, so that gradients reach them; and the images."""
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }

    def call(pixel: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(network, state, (pixel,))
        return logits

    return call, images.double()
