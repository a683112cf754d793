"""CW-linf: the margin loss of Carlini and Wagner, raised by PGD steps in the l_inf ball.

    max over x in ball and box of   max_{j != y} f_j(x) - f_y(x)

Unlike the cross-entropy, the margin's gradient does not vanish where the network is sure.  Their own l_inf attack looks
for the nearest image instead; the form in a ball is the one of Madry et al. 2018, arXiv:1706.06083, section 5.
Source of the loss: Carlini and Wagner 2017, arXiv:1608.04644, f_6 without confidence.
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
class MarginPGD:
    """PGD on the margin of the logits, in l_inf, from random images of the ball."""

    steps: int = field(validator=and_(instance_of(int), ge(1)), metadata={"help": "steps of one run"})
    step_size: float = field(
        converter=pixels,
        validator=gt(0.0),
        metadata={"help": "size of a step in pixel units; 2/255 is a number"},
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs from new random starts; images already fooled are left out of the next"},
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most: a run's last iterate is looked at where another run follows."""
        return float(self.restarts * (self.steps + 1) - 1)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack; l_inf only."""
        # imported here because they derive from foolbox classes or import torch
        from robustnas_plugins.attacks.gradient_steps import GradientSteps
        from robustnas_plugins.attacks.losses import margin

        instead = "cw is its kin in l2, and apgd-dlr raises a margin in every norm"
        attack: FoolboxAttack = for_norm("cw-linf", {"linf": GradientSteps}, threat, instead)(
            threat.norm,
            steps=self.steps,
            step_size=self.step_size,
            loss=margin,
            restarts=self.restarts,
            random_start=True,
        )
        return attack
