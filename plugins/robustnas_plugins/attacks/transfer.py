"""Transfer: images made on one network by MI-FGSM, tried on others.

The harness makes them on the networks of the other methods, of which the attacked one knows nothing; this file only
says how.  No image leaves when its own source is fooled: it goes on to the last step, because what fools a network by
little fools no other.

Source: Dong et al. 2018, arXiv:1710.06081; that momentum helps images to transfer is that paper's finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class Transfer:
    """Images that fool another network, tried on this one; in l_inf or l_2."""

    access: ClassVar[str] = "black-box"
    transfers: ClassVar[bool] = True

    steps: int = field(validator=and_(instance_of(int), ge(1)), metadata={"help": "steps on the source network"})
    step_size: float = field(
        converter=pixels,
        validator=gt(0.0),
        metadata={"help": "size of a step in pixel units, in the threat's norm; 2/255 is a number"},
    )
    momentum: float = field(
        default=1.0,
        converter=float,
        validator=ge(0.0),
        metadata={"help": "decay of the gradients of earlier steps; 0 is the plain iterative method"},
    )

    def evaluations(self, classes: int) -> float:
        """Evaluations of the source network an image costs."""
        return float(self.steps)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack that is run on the source network, for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.gradient_steps import GradientSteps

        forms = {"linf": GradientSteps, "l2": GradientSteps}
        instead = "give it a threat of its own, threat: {norm: linf, epsilon: 8/255}"
        attack: FoolboxAttack = for_norm("transfer", forms, threat, instead)(
            threat.norm, steps=self.steps, step_size=self.step_size, momentum=self.momentum, leaves=False
        )
        return attack
