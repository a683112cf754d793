"""PGD: steps along the gradient of the cross-entropy, each projected back into the ball.

Source: Madry et al. 2018, arXiv:1706.06083.  Steps and step size are both required: a default step tuned for
one number of steps makes the attack almost harmless at another.  With a step size s, `steps * s` of at least
1.5 epsilon lets every start reach the whole ball.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.threat import ThreatModel, pixels

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class PGD:
    """Projected gradient descent, in l_inf (signs of the gradient), l_2 (normalised gradient) or l_1 (few pixels)."""

    steps: int = field(validator=and_(instance_of(int), ge(1)), metadata={"help": "steps of one run"})
    step_size: float = field(
        converter=pixels,
        validator=gt(0.0),
        metadata={
            "help": "size of a step in pixel units, in the threat's norm (l1: summed over pixels); 2/255 is a number"
        },
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs from new random starts; images already fooled are left out of the next"},
    )
    random_start: bool = field(
        default=True,
        validator=instance_of(bool),
        metadata={"help": "start at a random image of the ball instead of the clean one"},
    )

    def __attrs_post_init__(self) -> None:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts above 1 need random_start: true; without it every run is the same")

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most: a run's last iterate is looked at where another run follows."""
        return float(self.restarts * (self.steps + 1) - 1)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.gradient_steps import GradientSteps

        attack: FoolboxAttack = GradientSteps(
            threat.norm,
            steps=self.steps,
            step_size=self.step_size,
            restarts=self.restarts,
            random_start=self.random_start,
        )
        return attack
