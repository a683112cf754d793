"""FGSM: one step of the size of the ball along the gradient of the cross-entropy.

    l_inf   x + epsilon * sign(gradient)          l_2   x + epsilon * gradient / ||gradient||_2
    l_1     pixels of largest |gradient| to the side of the box, one after another, until epsilon is used up

Source: Goodfellow et al. 2015, arXiv:1412.6572; the other two are ours: like the first, they end where the loss, made
linear at the image, is highest in the ball (in l_1 in ball and box).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import instance_of

from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class FGSM:
    """Fast gradient sign method (l_inf), fast gradient method (l_2), and what they are in l_1."""

    random_start: bool = field(
        default=False,
        validator=instance_of(bool),
        metadata={"help": "start at a random image of the ball instead of the clean one"},
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return 1.0

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.gradient_steps import GradientSteps

        attack: FoolboxAttack = GradientSteps(threat.norm, steps=1, random_start=self.random_start)
        return attack
