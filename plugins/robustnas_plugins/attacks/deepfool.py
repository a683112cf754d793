"""DeepFool: to the nearest boundary of the network made linear at the image, again until the image is fooled.

Foolbox's form steps with the whole batch until its last image is fooled: fooled images stay as they are, at full cost.
Source: Moosavi-Dezfooli et al. 2016, arXiv:1511.04599.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from attrs.validators import and_, ge, instance_of

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class DeepFool:
    """DeepFool in l_inf or l_2."""

    steps: int = field(
        default=50,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "largest number of steps; ends when all images of a batch are fooled"},
    )
    overshoot: float = field(
        default=0.02,
        converter=float,
        validator=ge(0.0),
        metadata={"help": "share by which the boundary is crossed"},
    )
    candidates: int = field(
        default=10,
        validator=and_(instance_of(int), ge(2)),
        metadata={"help": "most likely classes whose boundaries are considered, the true one included"},
    )

    def evaluations(self, classes: int) -> float:
        """One to rank the classes, then one a step for every wrong class that is considered."""
        return float(1 + self.steps * (min(self.candidates, classes) - 1))

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        attacks: Any = load_foolbox().attacks
        classes = {"linf": attacks.LinfDeepFoolAttack, "l2": attacks.L2DeepFoolAttack}
        instead = "in l1 fgsm and pgd would do, or give it a threat of its own, threat: {norm: l2, epsilon: 0.5}"
        attack: FoolboxAttack = for_norm("deepfool", classes, threat, instead)(
            steps=self.steps, overshoot=self.overshoot, candidates=self.candidates
        )
        return attack
