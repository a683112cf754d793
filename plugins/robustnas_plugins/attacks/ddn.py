"""DDN: steps of a normalised gradient, projected onto a sphere that shrinks while the image fools and grows while not.

    radius <- radius * (1 - gamma) where the image fools, radius * (1 + gamma) where it does not

Direction and length are so decoupled, and nothing has to be searched for.
Source: Rony et al. 2019, arXiv:1811.09600, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of, lt

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class DDN:
    """Decoupled direction and norm, l_2.  One evaluation a step."""

    steps: int = field(
        default=300,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "gradient steps; the length of a step falls from 1 to 0.01 over them"},
    )
    initial_radius: float = field(
        default=1.0,
        converter=pixels,
        validator=gt(0.0),
        metadata={"help": "radius of the first sphere, l2, in pixel units"},
    )
    gamma: float = field(
        default=0.05,
        converter=float,
        validator=and_(gt(0.0), lt(1.0)),
        metadata={"help": "share by which the radius changes at a step"},
    )

    def evaluations(self, classes: int) -> float:
        """One a step."""
        return float(self.steps)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack; l_2 only."""
        forms = {"l2": load_foolbox().attacks.DDNAttack}
        form: Any = for_norm("ddn", forms, threat, "fmn knows linf, l2 and l1")
        attack: FoolboxAttack = form(init_epsilon=self.initial_radius, steps=self.steps, gamma=self.gamma)
        return attack
