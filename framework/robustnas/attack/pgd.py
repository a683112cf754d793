"""Projected gradient descent in plain torch: perturbed images for training and for search.

This is the inner maximisation of adversarial training (Madry et al. 2018, arXiv:1706.06083), also of TRADES,
where the loss is a divergence from the clean prediction (Zhang et al. 2019, arXiv:1901.08573).  It judges
nothing: the evaluation of a network has a harness of its own.

A step of length s along the gradient g is the steepest in the threat's norm:

    linf   s sign(g)
    l2     s g / ||g||_2
    l1     the pixels in order of |g|, each to the side of the box that raises the loss, until s is used up

In l_1 alone the steepest direction is a single pixel, which the box soon stops.  Tramer and Boneh 2019,
arXiv:1904.13000, therefore step along the signs of a share of the pixels and leave out those at the border; Croce and
Hein 2021, arXiv:2103.01208, choose the share while they go.  The step here is the steepest in ball and box together
and needs no share (ours).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas.nn.batch_statistics import frozen_statistics
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
    noise: float | None = None,
) -> Tensor:
    """Climb `loss` by projected gradient descent, to images within the threat model.

    The network is in eval mode meanwhile: no batch norm statistics move, and an image's perturbation depends
    on that image alone.  Gradients are taken with respect to the images only, so none is left on a parameter.

    Args:
        network: (N, C, H, W) in [0, 1] -> (N, K) logits.
        images: the clean ones, (N, C, H, W) in [0, 1].
        loss: (N, K) logits -> (N,), or a scalar that is a sum or mean over images; the steps raise it.
        threat: ball and box; every iterate is projected into both.
        steps: gradient steps after the random start.
        generator: for the random start.
        noise: standard deviation of Gaussian noise at the start; by default the start is uniform in the ball.
        step_size: length of a step in the threat's norm, in pixel units (in l1 summed over pixels); default
            epsilon / 4.

    Returns:
        (N, C, H, W), detached.
    """
    with frozen_statistics(network):
        return ascend(
            lambda perturbed: loss(network(perturbed)),
            images,
            threat,
            steps=steps,
            generator=generator,
            step_size=step_size,
            noise=noise,
        )


def ascend(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    generator: torch.Generator,
    step_size: float | None = None,
    noise: float | None = None,
) -> Tensor:
    """`pgd` on a loss of the images themselves: (N, C, H, W) -> the same shape, detached.

    Args:
        loss: (N, C, H, W) -> (N,), or a scalar that is a sum or mean over images; the steps raise it.
        images: as for `pgd`, like all further arguments; `noise` of 0 starts at the clean image.
    """
    clean = images.detach()
    length = threat.epsilon / 4 if step_size is None else step_size
    perturbed = random_image(clean, threat, generator) if noise is None else _noisy(clean, noise, threat, generator)
    with torch.enable_grad():
        for _ in range(steps):
            perturbed.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(perturbed).sum(), perturbed)
            perturbed = perturbed.detach()
            perturbed = threat.project(step(perturbed, gradient, length, threat.norm), clean)
    return perturbed


def random_image(clean: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Draw an image uniformly from the ball and clamp it to the box: (N, C, H, W) -> the same shape."""
    return threat.project(clean + _random_start(clean, threat, generator), clean)


def _noisy(clean: Tensor, noise: float, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise and project into ball and box: (N, C, H, W) -> the same shape."""
    draws = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean)
    return threat.project(clean + noise * draws, clean)


def _random_start(images: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Draw a perturbation uniformly from the ball: (N, C, H, W)."""
    if threat.norm == "linf":
        unit = 2 * torch.rand(images.shape, generator=generator, device=generator.device) - 1
        return threat.epsilon * unit.to(images)
    if threat.norm == "l1":
        count, dimensions = len(images), images[0].numel()
        draws = torch.empty(count, dimensions + 1, device=generator.device).exponential_(generator=generator)
        positive = torch.rand(count, dimensions, generator=generator, device=generator.device) < 0.5
        unit = uniform_in_l1(draws, torch.where(positive, 1.0, -1.0))
        return threat.epsilon * unit.view(images.shape).to(images)
    direction = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
    radius = torch.rand(len(images), generator=generator, device=generator.device)
    # A ball's volume grows as radius ** dimensions, hence the root.
    radius = radius ** (1.0 / images[0].numel())
    return threat.epsilon * along(direction) * per_image(radius.to(images), images)


def uniform_in_l1(exponentials: Tensor, signs: Tensor) -> Tensor:
    """Turn random numbers into points uniform in the l_1 ball of radius 1: (N, d + 1), (N, d) -> (N, d).

    d of d + 1 exponential draws over the sum of all are uniform in the corner {x >= 0, sum x <= 1}; signs spread it
    over the ball.  Source: Barthe et al. 2005, "A probabilistic approach to the geometry of the l_p^n-ball",
    theorem 1, for p = 1.
    """
    return signs * (exponentials[:, :-1] / exponentials.sum(dim=1, keepdim=True))


def step(images: Tensor, gradient: Tensor, length: float, norm: str) -> Tensor:
    """Take the steepest step of `length` in `norm` along the gradient: (N, C, H, W) both -> the same."""
    if norm == "linf":
        return images + length * gradient.sign()
    return images + (pushes(images, gradient, length) if norm == "l1" else length * along(gradient))


def pushes(images: Tensor, gradient: Tensor, length: float) -> Tensor:
    """Find the change of l_1 length `length` that, after clamping to the box, raises a linear function most.

    This is a knapsack whose pieces can be cut: in order of |gradient|, each pixel is pushed by what the pixels before
    it, which the box stopped, left of `length`.  A pixel may be pushed beyond the box, so that it stays at the border
    when a projection takes the same off every pixel, as that onto the l_1 ball does.

    Args:
        images: (N, C, H, W) in [0, 1].
        gradient: of the linear function, the same shape.
        length: in pixel units.
    """
    slope, at = gradient.flatten(1), images.flatten(1)
    room = torch.where(slope > 0, 1 - at, at) * (slope != 0)
    order = slope.abs().argsort(dim=1, descending=True)
    falling = room.gather(1, order)
    left = (length - (falling.cumsum(dim=1) - falling)).clamp_min(0.0)
    return (slope.sign() * torch.zeros_like(room).scatter(1, order, left)).view(images.shape)


def along(direction: Tensor) -> Tensor:
    """Scale each image to length 1 in l_2: (N, C, H, W) -> the same shape."""
    length = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction / per_image(length, direction)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshape one value an image, (N,), to (N, 1, 1, 1), so that it broadcasts over images."""
    return values.view(-1, *[1] * (images.dim() - 1))
