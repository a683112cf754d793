"""MI-FGSM: steps along a running sum of gradients, from the clean image.

    g <- decay g + gradient / ||gradient||_1          x <- project(x + step along g)

Source: Dong et al. 2018, arXiv:1710.06081, algorithm 1, which takes steps of epsilon / steps and a decay of 1; its
section 3.3 has the form in l_2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class MomentumFGSM:
    """Momentum iterative fast gradient method, in l_inf or l_2."""

    steps: int = field(validator=and_(instance_of(int), ge(1)), metadata={"help": "steps"})
    step_size: float = field(
        converter=pixels,
        validator=gt(0.0),
        metadata={"help": "size of a step in pixel units, in the threat's norm; 2/255 is a number"},
    )
    momentum: float = field(
        default=1.0,
        converter=float,
        validator=ge(0.0),
        metadata={"help": "decay of the gradients of earlier steps; 0 is the plain iterative method"},
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return float(self.steps)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.gradient_steps import GradientSteps

        forms = {"linf": GradientSteps, "l2": GradientSteps}
        attack: FoolboxAttack = for_norm("mi-fgsm", forms, threat, "in l1 pgd and apgd-ce would do")(
            threat.norm, steps=self.steps, step_size=self.step_size, momentum=self.momentum
        )
        return attack
