"""Neural tangent kernel of adversarial training (NAS-RobBench-201): can a network fit images and their neighbours?

    R = log of the smallest eigenvalue of G G^T, or minus log of the largest over the smallest       (condition)
    G_n = (1 - beta) grad_w F(x_n) + beta grad_w F(x'_n)                F: the sum of an untrained network's logits

x' is found by PGD from the clean image.  G G^T is (1 - beta)^2 K + beta (1 - beta) (K' + K'^T) + beta^2 K'': the
kernels of clean images, of clean and perturbed ones, and of perturbed ones; the paper bounds the generalisation of
training that weighs clean and adversarial loss so by the smallest eigenvalue of this one.  beta 0 is the kernel of
clean training, 1 that of adversarial training alone.

A zero-cost score: of untrained networks, of a whole batch, each image of which has the same number, without a
gradient.  It holds N gradients of all weights (N * weights * 4 bytes).  Batch norm's statistics are constants, as for
every metric.

Source: Wu et al. 2024, arXiv:2403.13134, section 4.  Condition numbers of the clean kernel as a score:
Chen et al. 2021 (TE-NAS), arXiv:2102.11535; the sum of the logits is theirs.
"""

from __future__ import annotations

from typing import Literal

import torch
from attrs import frozen
from attrs.converters import optional as if_given
from attrs.validators import ge, gt, in_, le, optional
from torch import Tensor, nn

from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.layers import alphas_of
from robustnas_plugins.metrics.worst_images import worst_images

COLUMNS = 1 << 20
"""Weights whose gradients are multiplied at once."""


@frozen
class RobustNTK:
    """The tangent kernel of adversarial training (Wu et al. 2024, arXiv:2403.13134).

    A zero-cost score of a batch, without a gradient.
    """

    differentiable = False
    of_batch = True

    figure: Literal["smallest", "condition"] = option(
        "smallest",
        "log of the smallest eigenvalue, or minus log of the condition number",
        in_(("smallest", "condition")),
    )
    beta: float = option(0.5, "weight of the adversarial loss beside the clean one", ge(0.0), le(1.0), converter=float)
    steps: int = option(7, "steps of PGD, from the clean image", at_least=1)
    step_size: float | None = option(
        None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)), converter=if_given(pixels)
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), one number for all."""
        values = torch.linalg.eigvalsh(self.kernel(network, images, labels, threat))
        least, largest = values[0], values[-1]
        # below this an eigenvalue is rounding
        tiny = torch.finfo(images.dtype).eps * largest.clamp_min(torch.finfo(images.dtype).tiny)
        least = torch.maximum(least, tiny)
        found = least.log() if self.figure == "smallest" else (least / torch.maximum(largest, tiny)).log()
        return found.to(images.dtype).expand(len(images))

    def kernel(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """The kernel: (N, C, H, W), (N,) -> (N, N), float64."""
        worst = None
        if self.beta > 0:
            worst = worst_images(network, images, labels, threat, self.steps, self.step_size)
        rows = _gradients(network, images.detach(), worst, self.beta)
        # some columns at a time, as all of them in float64 would be twice as much again
        parts = (part.double() for part in rows.split(COLUMNS, dim=1))
        return torch.stack([part @ part.mT for part in parts]).sum(dim=0)


def _gradients(network: nn.Module, images: Tensor, worst: Tensor | None, beta: float) -> Tensor:
    """The rows G_n: (N, C, H, W), twice -> (N, weights)."""
    alpha = alphas_of(network)
    weights = {name: one.detach().requires_grad_() for name, one in network.named_parameters() if id(one) not in alpha}
    rows = []
    with torch.enable_grad():
        for place in range(len(images)):
            both = [images[place]] if worst is None else [images[place], worst[place]]
            totals = torch.func.functional_call(network, weights, (torch.stack(both),)).sum(dim=1)
            total = torch.lerp(totals[0], totals[-1], beta)
            found = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows)
