"""A radius that grows over the training, and networks that are judged once it is at its end.

With `passed` epochs gone, the step's own fraction of one included,

    t         =  (passed - warmup) / ramp, cut to [0, 1]
    grown     =  (4 t)^4 / 13  up to t = 1/4,   (16 t - 3) / 13  from there on: smooth at 1/4, 1 at the end
    epsilon   =  grown * end

The fourth power is that of Xu et al. 2020 (arXiv:2002.12920): with its first weights a deep network has useful bounds
at tiny radii only.  First weights that widen intervals less (`first_weights.py`) help, and two more terms of the loss
(`steady.py`) may:

    steady (1 - grown) (tightness + balance)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from robustnas.bounds import CrownIBP, margins
from robustnas.bounds.rectified import Interval
from robustnas.contracts import TrainingContext
from robustnas.errors import OptionError
from robustnas.nn.read_only import read_only
from robustnas.options import option
from robustnas.runtime.precision import single
from robustnas.threat import ThreatModel, beyond_range
from robustnas.train.regimes.first_weights import FirstWeights, draw
from robustnas.train.regimes.steady import balance, entering, tightness


@frozen
class Ramp:
    """The options and the optional members of a regime that bounds the network at a growing radius."""

    epsilon: float | None = option(
        None, "radius at the end in pixel units; default the threat's (one a little larger is usual)", optional(gt(0.0))
    )
    warmup_epochs: float | None = option(
        None, "epochs at the start with epsilon 0, a fraction too; default a twentieth of all", optional(ge(0.0))
    )
    ramp_epochs: float | None = option(
        None, "epochs after these in which epsilon grows to its end; default half of all", optional(ge(0.0))
    )

    initialisation: FirstWeights = option(
        "network",
        "first weights: network (its own), ibp (Gaussian, Shi et al. 2021) or identity (for batch norms)",
        identity="if given",
    )
    steady: float = option(
        0.0,
        "weight of bound tightness and rectifier balance as epsilon begins to grow, falling to 0 (0.5 is usual)",
        ge(0.0),
        identity="if given",
    )

    advice = "a longer ramp_epochs of train.regime"

    def check(self, epochs: int, threat: ThreatModel | None) -> None:
        """Refuse a schedule in which epsilon does not reach its end, or an end that the threat's norm does not allow.

        Raises:
            OptionError: epsilon does not reach its end, the end is larger than the whole pixel range, or `steady` would
                never count.
        """
        warmup, ramp = self._spans(epochs)
        if warmup + ramp > epochs:
            raise OptionError(
                f"found warmup_epochs {warmup:g} and ramp_epochs {ramp:g}, together more than epochs: {epochs}, "
                "so epsilon would never reach its end; smaller ones or more epochs would do"
            )
        if self.steady > 0 and ramp == 0:
            raise OptionError(
                f"found steady {self.steady:g} and ramp_epochs 0, so its terms would never count; a ramp or steady: 0 "
                "would do"
            )
        if threat is not None and beyond_range(threat.norm, self.last(threat)):
            raise OptionError(
                f"found epsilon {self.epsilon:g} in train.regime; a fraction of the pixel range, at most 1 for linf, "
                "would do, such as 8/255"
            )

    def initialise(self, network: nn.Module) -> None:
        """Draw first weights, from torch's global generator."""
        draw(network, self.initialisation)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Find images that CROWN-IBP certifies, of the network as it is evaluated, at the last epsilon: (N,) bool."""
        last = ThreatModel(threat.norm, self.last(threat))
        with read_only(network), single(images.device), torch.no_grad():
            return (margins(network, images, labels, last, CrownIBP()) > 0).all(dim=1)

    def judged(self, epoch: int, epochs: int) -> bool:
        """Judge networks only once epsilon is at its end: at a smaller epsilon more images would be certified."""
        return epoch >= sum(self._spans(epochs))

    def schedule(self, passed: float, epochs: int, threat: ThreatModel) -> dict[str, float]:
        """Epsilon."""
        return {"epsilon": self.radius(passed, epochs, threat)}

    def share(self, passed: float, epochs: int) -> float:
        """The share, from 0 to 1, of its end that epsilon has reached after `passed` of `epochs` epochs."""
        warmup, ramp = self._spans(epochs)
        return grown((passed - warmup) / ramp) if ramp > 0 else float(passed > warmup)

    def radius(self, passed: float, epochs: int, threat: ThreatModel) -> float:
        """Epsilon after `passed` of `epochs` epochs."""
        return self.share(passed, epochs) * self.last(threat)

    def terms(
        self, network: nn.Module, context: TrainingContext, threat: ThreatModel, radius: float
    ) -> Callable[[Sequence[Interval]], Tensor] | None:
        """What intervals in front of rectifiers, over balls of this radius, add to the loss; None where nothing."""
        weight = self.steady * (1 - self.share(context.passed, context.epochs))
        if weight == 0 or radius == 0:
            return None
        width = entering(network, radius)

        def added(intervals: Sequence[Interval]) -> Tensor:
            return weight * (tightness(intervals, width) + balance(intervals)) if intervals else torch.zeros(())

        return added

    def last(self, threat: ThreatModel) -> float:
        """The epsilon at the end of the ramp."""
        return threat.epsilon if self.epsilon is None else self.epsilon

    def _spans(self, epochs: int) -> tuple[float, float]:
        """Epochs with epsilon 0, and those in which it grows, of `epochs` in all."""
        warmup = epochs / 20 if self.warmup_epochs is None else self.warmup_epochs
        return warmup, epochs / 2 if self.ramp_epochs is None else self.ramp_epochs


def grown(time: float) -> float:
    """The share, from 0 to 1, of its end that epsilon has reached at a time of the ramp, which goes from 0 to 1."""
    time = min(max(time, 0.0), 1.0)
    return (4 * time) ** 4 / 13 if time < 1 / 4 else (16 * time - 3) / 13
