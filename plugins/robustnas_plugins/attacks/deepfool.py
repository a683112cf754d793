"""DeepFool: to the nearest boundary of the network made linear at the image, again until the image is fooled.

Foolbox's form steps with the whole batch until its last image is fooled: fooled images stay as they are, at full cost.
Source: Moosavi-Dezfooli et al. 2016, arXiv:1511.04599.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from attrs.validators import ge

from robustnas.attack.foolbox_attack import KnownNorms
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class DeepFool(KnownNorms):
    """DeepFool in l_inf or l_2."""

    name = "deepfool"
    norms = ("linf", "l2")
    instead = "in l1 fgsm and pgd would do, or give it a threat of its own, threat: {norm: l2, epsilon: 0.5}"

    steps: int = option(50, "largest number of steps; ends when all images of a batch are fooled", at_least=1)
    overshoot: float = option(0.02, "share by which the boundary is crossed", ge(0.0), converter=float)
    candidates: int = option(
        10, "most likely classes whose boundaries are considered, the true one included", at_least=2
    )

    def evaluations(self, classes: int) -> float:
        """One to rank the classes, then one a step for every wrong class that is considered."""
        return float(1 + self.steps * (min(self.candidates, classes) - 1))

    def build(self, threat: ThreatModel) -> Any:
        """Foolbox's form of the attack for the threat's norm."""
        self.require(threat)
        attacks = load_foolbox().attacks
        form = {"linf": attacks.LinfDeepFoolAttack, "l2": attacks.L2DeepFoolAttack}[threat.norm]
        return form(steps=self.steps, overshoot=self.overshoot, candidates=self.candidates)
