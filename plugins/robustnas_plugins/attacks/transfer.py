"""Transfer: images made on one network by MI-FGSM, tried on others.

The harness makes them on the networks of the other methods, of which the attacked one knows nothing; this file only
says how.  No image leaves when its own source is fooled: it goes on to the last step, because what fools a network by
little fools no other.

Source: Dong et al. 2018, arXiv:1710.06081; that momentum helps images to transfer is that paper's finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class Transfer(MomentumFGSM):
    """Images that fool another network, tried on this one; in l_inf or l_2."""

    access: ClassVar[str] = "black-box"
    transfers: ClassVar[bool] = True

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
