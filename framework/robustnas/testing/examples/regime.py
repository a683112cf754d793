"""A training regime: training on noisy images."""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt
from torch import Tensor, nn

from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class Example:
    """Cross-entropy on images with Gaussian noise; name the paper and its arXiv number here."""

    sigma: float = option(0.1, "in pixel units", gt(0.0), converter=float)

    contract = 1
    sees_threat = False  # one network serves every threat

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """Images (N, C, H, W) in [0, 1], labels (N,) -> a scalar with its graph, and the logits (N, K)."""
        noise = torch.randn(images.shape, generator=context.generator).to(images)
        # the loss of standard training, with label smoothing and the auxiliary head where they are asked for
        return TrainingLoss(*context.plain(network, (images + self.sigma * noise).clamp(0, 1), labels))
