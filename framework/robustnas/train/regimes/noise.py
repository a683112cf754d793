"""Noise training: cross-entropy on images with Gaussian noise, for networks that are certified by smoothing.

    loss  =  CE(f(x + n), y),      n ~ N(0, sigma^2 I)

A smoothed network says what f says of most x + n, so f has to know noisy images (`certify.smooth` with the same
sigma).  The noise is not clipped to the pixel range, as it is not when the network is smoothed.  `checkpoint: best`
judges by the clean images.

Source: Cohen et al. 2019, "Certified adversarial robustness via randomized smoothing", arXiv:1902.02918.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt
from torch import Tensor, nn

from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class Noise:
    """Regime `noise`: cross-entropy on images with Gaussian noise (Cohen et al. 2019, arXiv:1902.02918)."""

    sigma: float = option(0.25, "standard deviation of the noise in pixel units", gt(0.0), converter=float)

    sees_threat = False

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the cross-entropy on noisy images, and their logits."""
        draws = torch.randn(images.shape, generator=context.generator, device=context.generator.device).to(images)
        return TrainingLoss(*context.plain(network, images + self.sigma * draws, labels))
