"""C&W: the smallest l_2 perturbation that fools, by Adam on a margin loss with a searched weight.

    min ||delta||_2^2 + c * max(f_y - max_{j != y} f_j + confidence, 0)

over a change of variables that keeps pixels in [0, 1]; c by bisection.
Source: Carlini and Wagner 2017, arXiv:1608.04644, section VI-A.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from attrs.validators import ge, gt

from robustnas.attack.foolbox_attack import KnownNorms
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class CarliniWagner(KnownNorms):
    """Carlini and Wagner's attack in l_2.  Costs up to `binary_search_steps * steps` evaluations an image."""

    name = "cw"
    norms = ("l2",)
    instead = "give it a threat of its own, threat: {norm: l2, epsilon: 0.5}, or use pgd for linf and l1"

    steps: int = option(1000, "steps of Adam for each weight c; a few hundred are weak", at_least=1)
    step_size: float = option(
        0.01, "learning rate of Adam, in the space of the change of variables", gt(0.0), converter=float
    )
    confidence: float = option(0.0, "logits by which the wrong class must lead", ge(0.0), converter=float)
    binary_search_steps: int = option(9, "weights c tried an image", at_least=1)
    initial_const: float = option(1e-3, "first weight c", gt(0.0), converter=float)

    def evaluations(self, classes: int) -> float:
        """One a step of Adam, for every weight c; a batch that no longer gains ends earlier."""
        return float(self.binary_search_steps * self.steps)

    def build(self, threat: ThreatModel) -> Any:
        """Foolbox's form of the attack; l_2 only."""
        self.require(threat)
        return load_foolbox().attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.initial_const,
        )
