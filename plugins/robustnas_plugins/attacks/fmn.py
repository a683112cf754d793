"""FMN: gradient steps of the margin, projected into a ball whose radius is led to the distance of the boundary.

Until the image fools once, the radius is just beyond where the margin, made linear, would be 0; afterwards it shrinks
by a share gamma where the image fools and grows by it where not, with gamma falling to 0.001.
Source: Pintor et al. 2021, arXiv:2102.12827, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of, lt

from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class FMN:
    """Fast minimum norm, in l_inf, l_2 and l_1.  One evaluation a step."""

    steps: int = field(default=300, validator=and_(instance_of(int), ge(1)), metadata={"help": "gradient steps"})
    step_size: float = field(
        default=1.0,
        converter=float,
        validator=gt(0.0),
        metadata={"help": "length of the first step, l2 whatever the norm, in pixel units; the last is a hundredth"},
    )
    gamma: float = field(
        default=0.05,
        converter=float,
        validator=and_(gt(0.001), lt(1.0)),
        metadata={"help": "share by which the radius changes at the first step; at the last 0.001"},
    )

    def evaluations(self, classes: int) -> float:
        """One a step."""
        return float(self.steps)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from a foolbox class
        from robustnas_plugins.attacks.margin_steps import MarginSteps

        form = for_norm("fmn", {"linf": MarginSteps, "l2": MarginSteps, "l1": MarginSteps}, threat)
        attack: FoolboxAttack = form(threat.norm, self.steps, self.step_size, self.gamma)
        return attack
