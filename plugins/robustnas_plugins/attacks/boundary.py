"""Boundary attack: a random walk along the boundary that comes nearer, by decisions alone.

A step goes sideways on the sphere around the clean image, then towards it; both lengths adapt to how often a step
still fools.  Source: Brendel et al. 2018, arXiv:1712.04248, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack

BLENDS = 10
"""Halvings of the way from the clean image to the start."""
LOOK = 10
"""Every so many steps the sideways part is judged alone."""


@frozen
class Boundary:
    """The boundary attack in l_2: sees the predicted class only."""

    access: ClassVar[str] = "black-box"

    steps: int = field(
        default=5000,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "steps of the walk; thousands are needed"},
    )
    sideways: float = field(
        default=0.01,
        converter=float,
        validator=gt(0.0),
        metadata={"help": "first length of the part on the sphere, as a share of the distance"},
    )
    inwards: float = field(
        default=0.01,
        converter=float,
        validator=gt(0.0),
        metadata={"help": "first length of the part towards the clean image, as a share of the distance"},
    )
    tries: int = field(
        default=50,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "images tried as a start; an image without one is left clean"},
    )

    def evaluations(self, classes: int) -> float:
        """The start, its bisection, and one a step, with every tenth step also looked at before it goes inwards."""
        return float(self.tries + BLENDS + self.steps + self.steps // LOOK)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack; l_2 only."""
        # imported here because it derives from a foolbox class
        from robustnas_plugins.attacks.walk import Walk

        form = for_norm("boundary", {"l2": Walk}, threat, "hopskipjump knows linf and l2")
        attack: FoolboxAttack = form(threat.norm, self.steps, self.sideways, self.inwards, self.tries)
        return attack
