"""Bounds held against the truth: plain margins, a network around a function, sampled images, central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import METHODS, Value, margins
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.threat import ThreatModel

LABELS = torch.tensor([0, 2])
"""Labels of the two images that most tests of the bounds look at."""


def plain_margins(net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor = LABELS) -> Tensor:
    """(N, K - 1) margins of the network's logits, columns in class order without the true one."""
    logits = net(images)
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
    return (logits.gather(1, labels[:, None]) - logits)[keep].view(len(images), -1)


def network(function: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[Tensor], Tensor]:
    """The function with a nonlinearity in front and coefficients of both signs behind."""
    torch.manual_seed(0)
    mixing = nn.Conv2d(2, 2, 3, padding=1).eval().double()
    with torch.no_grad():
        mixing.weight.mul_(3.0)
        features = function(F.relu(mixing(images))).flatten(1).shape[1]
    head = nn.Linear(features, 3).double()
    return lambda images: head(function(F.relu(mixing(images))).flatten(1))


def check(
    net: Callable[[Tensor], Tensor], norm: str, images: Tensor, methods: Sequence[str] = METHODS, atol: float = 1e-9
) -> dict[str, Tensor]:
    """Bounds by every method: finite, sound at corners, random points and gradient steps; exact at epsilon 0."""
    threat = ThreatModel(norm, {"linf": 0.1, "l2": 0.4}.get(norm, 0.8))
    clean = plain_margins(net, images).detach()
    least, starts = clean, 10
    noise = torch.randn(starts, *images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(1))
    noise[1::2] = noise[1::2].sign()
    origin = images.repeat(starts, *[1] * (images.dim() - 1))
    point = threat.project(origin + threat.epsilon * noise.flatten(0, 1), origin)
    for _ in range(3):
        point = point.detach().requires_grad_()
        found = plain_margins(net, point, LABELS.repeat(starts))
        least = least.minimum(found.detach().unflatten(0, (starts, -1)).amin(0))
        (slope,) = torch.autograd.grad(found.amin(1).sum(), point)
        steepest = slope.flatten(1).abs().amax(1).view(-1, *[1] * (images.dim() - 1)).clamp_min(1e-9)
        point = threat.project(point - threat.epsilon * slope / steepest, origin)
    bounds = {method: margins(net, images, LABELS, threat, method).detach() for method in methods}
    for method, bound in bounds.items():
        exact = margins(net, images, LABELS, ThreatModel(norm, 0.0), method)
        torch.testing.assert_close(exact, clean, rtol=0, atol=atol)
        assert bound.isfinite().all()
        assert (bound <= least + 1e-9).all(), method
    return bounds


def interval(function: Callable[[Tensor], Tensor], images: Tensor, norm: str, epsilon: float) -> Value:
    """What interval arithmetic says of a function's entries."""
    region = Region(images, norm, torch.full((len(images),), epsilon, dtype=images.dtype))
    return bounded_logits(Propagation(function, region, Pass(), keeps_clean=False))


def derivatives(value: Callable[[], Tensor], tensors: Sequence[Tensor], step: float = 1e-6) -> Tensor:
    """(T, 2): for each tensor the derivative of `value` along a random direction, and its central difference."""
    found, draw = [], torch.Generator().manual_seed(2)
    for tensor, gradient in zip(tensors, torch.autograd.grad(value(), list(tensors)), strict=True):
        way = torch.randn(tensor.shape, dtype=tensor.dtype, generator=draw)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(way, alpha=sign * step)
                ends.append(float(value()))
                tensor.sub_(way, alpha=sign * step)
        found.append([float((gradient * way).sum()), (ends[0] - ends[1]) / (2 * step)])
    return torch.tensor(found, dtype=torch.float64)
