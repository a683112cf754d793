"""TRADES: the clean cross-entropy plus beta times the divergence that PGD finds.

PGD starts a little Gaussian noise away from the image, as in the paper: at the image itself the divergence has no
gradient.

Source: Zhang et al. 2019, arXiv:1901.08573.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from robustnas.attack.pgd import pgd
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class Trades:
    """Regime `trades`: cross-entropy plus beta times KL(clean || perturbed) (Zhang et al. 2019, arXiv:1901.08573)."""

    steps: int = option(10, "steps of the inner maximisation", ge(1))
    step_size: float | None = option(None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)))
    beta: float = option(6.0, "weight of the KL term", gt(0.0))
    noise: float = option(0.001, "standard deviation of the Gaussian noise it starts from, in pixel units", gt(0.0))

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the loss; accuracy is that on clean images."""
        perturbed = self.perturbed(network, images, labels, threat, context.generator)
        natural, logits = context.plain(network, images, labels)
        return TrainingLoss(natural + self.beta * divergence(logits, network(perturbed)).mean(), logits)

    def perturbed(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Tensor:
        """Admissible images of which the network thinks otherwise than of the clean ones: (N, C, H, W) -> the same."""
        training = network.training
        with torch.no_grad():
            clean = network.eval()(images)
        network.train(training)

        def raised(logits: Tensor) -> Tensor:
            return divergence(clean, logits)

        return pgd(
            network,
            images,
            raised,
            threat,
            steps=self.steps,
            step_size=self.step_size,
            noise=self.noise,
            generator=generator,
        )


def divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(perturbed)): (N, K) twice -> (N,)."""
    log_perturbed, log_clean = perturbed.log_softmax(1), clean.log_softmax(1)
    return (log_clean.exp() * (log_clean - log_perturbed)).sum(1)
