"""Curvature of the loss in the image (AdvRush): how fast its gradient turns along the direction in which it rises.

    R = - || grad L(x + h z) - grad L(x) ||_2 / h      z = sign(g) / || sign(g) ||_2  or  g / || g ||_2,  g = grad L(x)

L is the cross-entropy of one image, gradients are in its pixels.  As h goes to 0 this is the length of the Hessian's
product with the unit vector z, which is at most its largest eigenvalue in size: the regulariser of the paper is that
eigenvalue, estimated so as in CURE (Moosavi-Dezfooli et al. 2019, arXiv:1811.09716, whose z is that of the sign).  In
nats per pixel unit squared, at most 0, and the same whatever the threat is.

The search is plain for the first 50 of the paper's 60 epochs and has the regulariser then: `warm_up`.  Its h is 1.5
on normalised images, which for CIFAR-10, of deviation a quarter, is 0.375 in pixel units.

Source: Mok et al. 2021 (AdvRush), arXiv:2108.01289.  The released code differs: all its alpha steps see the same 32
images, it adds the gradient of the plain loss to alpha's once more, and goes on training w with batch norm in eval
mode; its h grows over the first six epochs, in which the term is not used, and what it adds up is not divided by h.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import ge, gt, in_, le
from torch import Tensor, nn

from robustnas.attack.pgd import along
from robustnas.nn.fast import double_backward
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels


@frozen
class LossCurvature:
    """Minus the curvature of the loss along its steepest rise (AdvRush, Mok et al. 2021, arXiv:2108.01289)."""

    step: float = option(0.375, "h, length of the difference in l_2, in pixel units", gt(0.0), converter=pixels)
    direction: Literal["sign", "gradient"] = option(
        "sign",
        "what is followed: the sign of the loss's gradient (the paper's) or the gradient, of length 1 in l_2",
        in_(("sign", "gradient")),
    )
    warm_up: float = option(
        50 / 60, "share of the search before the score counts; it is 0 until then", ge(0.0), le(1.0), converter=float
    )
    ramp: float = option(
        0.0, "share of the search over which h grows to its length, after the warm-up", ge(0.0), converter=float
    )

    @ramp.validator
    def _ends(self, attribute: object, ramp: float) -> None:
        if self.warm_up + ramp > 1:
            raise ValueError(f"ramp must end with the search, found {ramp:g} after a warm_up of {self.warm_up:g}")

    def at(self, progress: float) -> Any:
        """The metric at this share of the search: 0 during the warm-up, then with the h that its ramp has reached."""
        if progress >= self.warm_up + self.ramp:
            return self
        return _WarmingUp() if progress <= self.warm_up else _Ramped(self, (progress - self.warm_up) / self.ramp)

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), in nats per pixel unit squared; the graph is kept where gradients are enabled."""
        return self.over(self.step, network, images, labels)

    def over(self, length: float, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The `score` by a difference of this length."""
        here = _slope(network, images, labels)
        at = here.detach()
        direction = along(at.sign() if self.direction == "sign" else at)
        there = _slope(network, images + length * direction, labels)
        turned = (there - here).flatten(1)
        curvature: Tensor = torch.linalg.vector_norm(turned, dim=1) / length
        return -curvature


@frozen
class _Ramped:
    """The metric while its h still grows: at a share of it."""

    metric: LossCurvature
    share: float

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """The metric's score at that share."""
        return self.metric.over(self.share * self.metric.step, network, images, labels)


@frozen
class _WarmingUp:
    """The metric before it counts."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Zero for every image, with a graph in which all gradients are zero: (N,)."""
        logits: Tensor = network(images)
        return 0.0 * logits.sum(dim=1)


def _slope(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's loss in its pixels, (N, C, H, W)."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        seen = images.detach().requires_grad_()
        with double_backward() if create_graph else nullcontext():
            logits = network(seen)
        # An image's logits depend on that image alone, so a sum over images mixes nothing.
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, seen, create_graph=create_graph)
    return slope
