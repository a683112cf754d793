"""Standard training: cross-entropy on the clean images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.threat import ThreatModel

if TYPE_CHECKING:  # the default of the settings, which cost no torch
    from torch import Tensor, nn


@frozen
class Standard:
    """Regime `standard`: cross-entropy on the clean images."""

    sees_threat = False

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the cross-entropy."""
        return TrainingLoss(*context.plain(network, images, labels))
