"""Projected gradient descent in plain torch: perturbed images for training and for search.

This is the inner maximisation of adversarial training (Madry et al. 2018, arXiv:1706.06083), also of TRADES,
where the loss is a divergence from the clean prediction (Zhang et al. 2019, arXiv:1901.08573).  It judges
nothing: the evaluation of a network has a harness of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas.statistics import frozen_statistics
from robustnas.threat import ThreatModel


def pgd(
    network: nn.Module,
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    threat: ThreatModel,
    *,
    steps: int,
    generator: torch.Generator,
    step_size: float | None = None,
) -> Tensor:
    """Images within the threat model at which `loss` is high.

    The network is in eval mode meanwhile: no batch norm statistics move, and an image's perturbation depends
    on that image alone.  Gradients are taken with respect to the images only, so none is left on a parameter.

    Args:
        network: (N, C, H, W) in [0, 1] -> (N, K) logits.
        images: the clean ones, (N, C, H, W) in [0, 1].
        loss: (N, K) logits -> (N,), or a scalar that is a sum or mean over images; what is raised.
        threat: ball and box; every iterate is projected into both.
        steps: gradient steps after the random start.
        generator: for the random start, uniform in the ball.
        step_size: length of a step in the threat's norm, in pixel units; default epsilon / 4.

    Returns:
        (N, C, H, W), detached.
    """
    clean = images.detach()
    length = threat.epsilon / 4 if step_size is None else step_size
    perturbed = threat.project(clean + _random_start(clean, threat, generator), clean)
    with frozen_statistics(network), torch.enable_grad():
        for _ in range(steps):
            perturbed.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(network(perturbed)).sum(), perturbed)
            perturbed = threat.project(perturbed.detach() + length * _steepest(gradient, threat.norm), clean)
    return perturbed


def _random_start(images: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Uniform in the ball: (N, C, H, W)."""
    if threat.norm == "linf":
        unit = 2 * torch.rand(images.shape, generator=generator, device=generator.device) - 1
        return threat.epsilon * unit.to(images)
    direction = torch.randn(images.shape, generator=generator, device=generator.device)
    radius = torch.rand(len(images), generator=generator, device=generator.device)
    # A ball's volume grows as radius ** dimensions, hence the root.
    radius = radius ** (1.0 / images[0].numel())
    return threat.epsilon * _steepest(direction.to(images), "l2") * _per_image(radius.to(images), images)


def _steepest(gradient: Tensor, norm: str) -> Tensor:
    """The direction of length 1 in `norm` along which a linear function with this gradient rises most."""
    if norm == "linf":
        return gradient.sign()
    length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / _per_image(length, gradient)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1), to multiply images with."""
    return values.view(-1, *[1] * (images.dim() - 1))
