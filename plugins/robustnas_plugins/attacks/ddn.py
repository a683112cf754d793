"""DDN: steps of a normalised gradient, projected onto a sphere that shrinks while the image fools and grows while not.

    radius <- radius * (1 - gamma) where the image fools, radius * (1 + gamma) where it does not

Direction and length are so decoupled, and nothing has to be searched for.
Source: Rony et al. 2019, arXiv:1811.09600, algorithm 1.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from attrs.validators import gt, lt

from robustnas.attack.foolbox_attack import KnownNorms
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels


@frozen
class DDN(KnownNorms):
    """Decoupled direction and norm, l_2.  One evaluation a step."""

    name = "ddn"
    norms = ("l2",)
    instead = "fmn knows linf, l2 and l1"

    steps: int = option(300, "gradient steps; the length of a step falls from 1 to 0.01 over them", at_least=1)
    initial_radius: float = option(1.0, "radius of the first sphere, l2, in pixel units", gt(0.0), converter=pixels)
    gamma: float = option(0.05, "share by which the radius changes at a step", gt(0.0), lt(1.0), converter=float)

    def evaluations(self, classes: int) -> float:
        """Each step costs one evaluation of the network."""
        return float(self.steps)

    def build(self, threat: ThreatModel) -> Any:
        """Foolbox's form of the attack; l_2 only."""
        self.require(threat)
        return load_foolbox().attacks.DDNAttack(init_epsilon=self.initial_radius, steps=self.steps, gamma=self.gamma)
