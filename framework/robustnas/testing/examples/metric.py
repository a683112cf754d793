"""A robustness metric: how fast the loss can rise with the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import instance_of
from torch import Tensor, nn

from robustnas.options import option
from robustnas.threat import DUAL_ORDER, ThreatModel


@frozen
class Example:
    """Minus the dual norm of the loss gradient in the image; name the paper and its arXiv number here."""

    log: bool = option(False, "minus the logarithm of the norm", instance_of(bool))

    contract = 1

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Larger is more robust: images (N, C, H, W) in [0, 1], labels (N,) -> (N,), in nats per pixel unit."""
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            # a sum, so that the gradient of an image is its own; not backward(), which leaves gradients behind
            loss = F.cross_entropy(network(pixels), labels, reduction="sum")
            # create_graph: the search differentiates the score once more
            (slope,) = torch.autograd.grad(loss, pixels, create_graph=True)
        norm: Tensor = torch.linalg.vector_norm(slope.flatten(1), ord=DUAL_ORDER[threat.norm], dim=1)
        return -(norm + 1e-12).log() if self.log else -norm
