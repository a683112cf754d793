"""MTL-IBP: a weighted sum of the cross-entropy on PGD images and that of interval bounds over the whole ball.

    loss  =  (1 - weight) CE(f(x'), y)  +  weight CE(w, y),      w_y = 0,  w_j = -m_j
    x'    by PGD on CE in the ball of radius epsilon around x,    m  IBP margins over the same ball

A small weight is nearly adversarial training, weight 1 is IBP.  Certify what it trains by a method that is tighter than
IBP.  The paper calls the weight alpha.

Source: De Palma et al. 2024, "Expressive losses for verified robustness via convex combinations", arXiv:2305.13991.
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import ge, gt, le, optional
from torch import Tensor, nn

from robustnas.bounds import IBP, margins
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.options import option
from robustnas.threat import ThreatModel
from robustnas.train.regimes.adversarial import Adversarial
from robustnas.train.regimes.bounded import Worst, beside_bounds
from robustnas.train.regimes.ramp import Ramp


@frozen
class MTLIBP(Ramp):
    """Regime `mtl-ibp`: cross-entropy on PGD images mixed with that of interval bounds (arXiv:2305.13991)."""

    weight: float = option(0.5, "weight of the bounds' loss; the rest is that of the PGD images", gt(0.0), le(1.0))
    steps: int = option(8, "steps of PGD", ge(1))
    step_size: float | None = option(
        None, "size of a step in pixel units; default a quarter of epsilon", optional(gt(0.0))
    )

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the loss, the logits of the PGD images, and which images are `certified` by IBP."""
        ball = ThreatModel(threat.norm, self.radius(context.passed, context.epochs, threat))
        if ball.epsilon == 0:
            return beside_bounds(network, images, labels, context, None, self.weight)
        attack = Adversarial(steps=self.steps, step_size=self.step_size)
        perturbed = attack.perturbed(network, images, labels, ball, context.generator)

        def bounds() -> Worst:
            return Worst.of(margins(network, images, labels, ball, IBP()), labels, context)

        terms = self.terms(network, context, threat, ball.epsilon)
        return beside_bounds(network, perturbed, labels, context, bounds, self.weight, terms)
