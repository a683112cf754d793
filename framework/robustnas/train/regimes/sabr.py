"""SABR: interval bounds of small boxes around the images that PGD finds, so that training bounds are not too wide.

    loss  =  CE(w, y),      w_y = 0,  w_j = -m_j
    m     =  IBP margins over the ball of radius  box * epsilon  around x'
    x'    by PGD on CE in the ball of radius  (1 - box) * epsilon  around x

Each small ball lies within the threat's, by the triangle inequality, in any norm.  A small box keeps more accuracy,
box 1 is IBP.  Certify what it trains by a method that is tighter than IBP.

Source: Mueller et al. 2023, "Certified training: small boxes are all you need", arXiv:2210.04871.
"""

from __future__ import annotations

import torch
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
class SABR(Ramp):
    """Regime `sabr`: cross-entropy of the worst logits of small boxes around PGD images (arXiv:2210.04871)."""

    box: float = option(0.4, "radius of the small boxes as a share of epsilon", gt(0.0), le(1.0))
    steps: int = option(8, "steps of PGD towards the middles of the boxes", ge(1))
    step_size: float | None = option(
        None, "size of a step in pixel units; default a quarter of how far the middles may be away", optional(gt(0.0))
    )

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the loss, the clean logits, and of which images all of the box is `right_in_box`."""
        epsilon = self.radius(context.passed, context.epochs, threat)
        if epsilon == 0:
            return beside_bounds(network, images, labels, context, None, 1.0, figure="right_in_box")
        boxes = ThreatModel(threat.norm, self.box * epsilon)
        middles = self.middles(network, images, labels, ThreatModel(threat.norm, epsilon), context.generator)

        def bounds() -> Worst:
            return Worst.of(margins(network, middles, labels, boxes, IBP()), labels, context)

        terms = self.terms(network, context, threat, boxes.epsilon)
        return beside_bounds(network, images, labels, context, bounds, 1.0, terms, "right_in_box")

    def middles(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Tensor:
        """Images around which the small boxes lie: (N, C, H, W) -> the same, detached."""
        away = (1 - self.box) * threat.epsilon
        if away == 0:
            return images
        attack = Adversarial(steps=self.steps, step_size=self.step_size)
        return attack.perturbed(network, images, labels, ThreatModel(threat.norm, away), generator)
