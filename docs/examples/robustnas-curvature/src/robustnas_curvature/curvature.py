"""A robustness metric: how fast the loss's gradient turns along the direction of an attack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import gt
from torch import Tensor, nn

from robustnas.options import option
from robustnas.threat import ThreatModel, pixels


@frozen
class Curvature:
    """Minus the curvature of the loss along the sign of its gradient, by a finite difference.

    The regulariser of CURE (Moosavi-Dezfooli et al., CVPR 2019, arXiv:1811.09716, equation 8) without its square:
    |g(x + h z) - g(x)| / h, g the gradient of the loss in the image x and z its sign, of length 1 in l_2.  It is the
    same whatever the threat is.
    """

    step: float = option(0.1, "h, the length of the difference in l_2, in pixel units", gt(0.0), converter=pixels)

    contract = 1

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Larger is more robust: images (N, C, H, W) in [0, 1], labels (N,) -> (N,), in nats per pixel unit squared."""
        here = _slope(network, images, labels)
        sign = here.detach().sign()
        direction = sign / torch.linalg.vector_norm(sign, dim=1, keepdim=True).clamp(min=1)
        there = _slope(network, images + self.step * direction.view_as(images), labels)
        curvature: Tensor = torch.linalg.vector_norm(there - here, dim=1) / self.step
        return -curvature


def _slope(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's loss in its pixels (N, C * H * W), with a graph: the search differentiates it."""
    with torch.enable_grad():
        pixels = images.detach().requires_grad_()
        # a sum, so that the gradient of an image is its own; not backward(), which leaves gradients behind
        loss = F.cross_entropy(network(pixels), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, pixels, create_graph=True)
    return slope.flatten(1)
