"""Adversarial training: cross-entropy on the images that PGD finds, from a start uniform in the ball.

Source: Madry et al. 2018, arXiv:1706.06083.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from robustnas.attack.pgd import pgd
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class Adversarial:
    """Regime `adversarial`: cross-entropy on PGD images (Madry et al. 2018, arXiv:1706.06083)."""

    steps: int = option(7, "steps of PGD", ge(1))
    step_size: float | None = option(None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)))

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the cross-entropy on perturbed images."""
        perturbed = self.perturbed(network, images, labels, threat, context.generator)
        return TrainingLoss(*context.plain(network, perturbed, labels))

    def perturbed(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Tensor:
        """Admissible images with a larger loss: (N, C, H, W) -> the same."""

        def raised(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="none")

        return pgd(
            network, images, raised, threat, steps=self.steps, step_size=self.step_size, noise=None, generator=generator
        )
