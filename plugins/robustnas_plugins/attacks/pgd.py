"""PGD: steps along the gradient of the cross-entropy, each projected back into the ball.

Source: Madry et al. 2018, arXiv:1706.06083.  Steps and step size are both required: a default step tuned for
one number of steps makes the attack almost harmless at another.  With a step size s, `steps * s` of at least
1.5 epsilon lets every start reach the whole ball.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.foolbox_import import load_foolbox
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class PGD:
    """Projected gradient descent, in l_inf (signs of the gradient), l_2 (normalised gradient) or l_1 (sparse signs)."""

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

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # both are imported here because they derive from foolbox classes
        from robustnas_plugins.attacks.restarted import Restarted
        from robustnas_plugins.attacks.sparse import SparseDescent

        if threat.norm == "l1":
            attack: FoolboxAttack = SparseDescent(self.steps, self.step_size, self.random_start)
        else:
            attacks: Any = load_foolbox().attacks
            form = for_norm("pgd", {"linf": attacks.LinfPGD, "l2": attacks.L2PGD}, threat)
            attack = form(steps=self.steps, abs_stepsize=self.step_size, random_start=self.random_start)
        if self.restarts == 1:
            return attack
        return Restarted(attack, self.restarts)
