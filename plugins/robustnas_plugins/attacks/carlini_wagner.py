"""C&W: the smallest l_2 perturbation that fools, by Adam on a margin loss with a searched weight.

    min ||delta||_2^2 + c * max(f_y - max_{j != y} f_j + confidence, 0)

over a change of variables that keeps pixels in [0, 1]; c by bisection.
Source: Carlini and Wagner 2017, arXiv:1608.04644, section VI-A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class CarliniWagner:
    """Carlini and Wagner's attack in l_2.  Costs up to `binary_search_steps * steps` evaluations an image."""

    steps: int = field(
        default=1000,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "steps of Adam for each weight c; a few hundred are weak"},
    )
    step_size: float = field(
        default=0.01,
        converter=float,
        validator=gt(0.0),
        metadata={"help": "learning rate of Adam, in the space of the change of variables"},
    )
    confidence: float = field(
        default=0.0,
        converter=float,
        validator=ge(0.0),
        metadata={"help": "logits by which the wrong class must lead"},
    )
    binary_search_steps: int = field(
        default=9, validator=and_(instance_of(int), ge(1)), metadata={"help": "weights c tried an image"}
    )
    initial_const: float = field(default=1e-3, converter=float, validator=gt(0.0), metadata={"help": "first weight c"})

    def evaluations(self, classes: int) -> float:
        """One a step of Adam, for every weight c; a batch that no longer gains ends earlier."""
        return float(self.binary_search_steps * self.steps)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack; l_2 only."""
        forms = {"l2": load_foolbox().attacks.L2CarliniWagnerAttack}
        instead = "give it a threat of its own, threat: {norm: l2, epsilon: 0.5}, or use pgd for linf and l1"
        form: Any = for_norm("cw", forms, threat, instead)
        attack: FoolboxAttack = form(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.initial_const,
        )
        return attack
