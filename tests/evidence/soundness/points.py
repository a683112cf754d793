"""Admissible images at which a bound is checked: random ones, corners and vertices, and steps of attacks from corners.

Written apart from the framework's own projections and attacks, so that a fault in those cannot hide one here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustnas.threat import ThreatModel

STEPS = (1.0, 0.5, 0.5, 0.25, 0.1)


def sizes(delta: Tensor, norm: str) -> Tensor:
    """(..., d) -> (...), the norm of each perturbation."""
    return torch.linalg.vector_norm(delta, ord={"linf": math.inf, "l2": 2.0, "l1": 1.0}[norm], dim=-1)


def admissible(delta: Tensor, clean: Tensor, threat: ThreatModel) -> Tensor:
    """Perturbations (..., d) brought into the box by clipping, then into the ball by shrinking all entries alike."""
    delta = torch.minimum(torch.maximum(delta, -clean), 1 - clean)
    if threat.norm == "linf":
        return delta.clamp(-threat.epsilon, threat.epsilon)
    length = sizes(delta, threat.norm).clamp_min(1e-300)
    return delta * (threat.epsilon / length).clamp_max(1.0)[..., None]


def lowest(slopes: Tensor, clean: Tensor, threat: ThreatModel) -> Tensor:
    """The admissible perturbation that minimises <slopes, d>: (..., d) -> (..., d)."""
    room = torch.where(slopes > 0, clean, 1 - clean)  # how far each pixel can go in the direction that lowers
    if threat.norm == "linf":
        return -slopes.sign() * room.clamp_max(threat.epsilon)
    if threat.norm == "l1":
        # the budget goes to the steepest pixels, each as far as it can go
        order = slopes.abs().argsort(dim=-1, descending=True)
        sorted_room = room.gather(-1, order)
        spent = sorted_room.cumsum(-1) - sorted_room
        given = torch.minimum((threat.epsilon - spent).clamp_min(0.0), sorted_room)
        return -slopes.sign() * torch.zeros_like(room).scatter(-1, order, given)
    low, high = torch.full_like(slopes[..., :1], -60.0), torch.full_like(slopes[..., :1], 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        short = torch.minimum(slopes.abs() * middle.exp(), room).norm(dim=-1, keepdim=True) < threat.epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return -slopes.sign() * torch.minimum(slopes.abs() * low.exp(), room)


def margins_at(network: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(P, N, ...) points -> margins (P, N, K - 1) in class order without the true one, and logits (P, N, K)."""
    logits = network(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    true = labels.expand(len(points), -1)[..., None]
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(2, true, False)
    return (logits.gather(2, true) - logits)[keep].view(*points.shape[:2], -1), logits


def some_points(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int, draws: int = 12
) -> Tensor:
    """(P, N, ...) admissible points in the images' number format (float64).

    Per image: `draws` random points, `draws` corners of the box or points of the sphere, `draws` vertices or edges
    of the cross-polytope, the clean image; and for every wrong class, from the clean image and from two corners, the
    points of PGD, of Frank-Wolfe steps and of Carlini and Wagner's descent on the margin.
    """
    draw = torch.Generator().manual_seed(seed)
    clean = images.flatten(1)
    shape = (draws, *clean.shape)
    uniform = 2 * torch.rand(shape, generator=draw, dtype=images.dtype) - 1
    signs = torch.rand(shape, generator=draw, dtype=images.dtype).round() * 2 - 1
    near = admissible(threat.epsilon * uniform * (1.0 if threat.norm == "linf" else 0.2), clean, threat)
    # shrinking brings a corner of the box to the sphere; an infinite start is the box's own corner
    corners = admissible(threat.epsilon * signs, clean, threat)
    axes = torch.zeros(shape, dtype=images.dtype)
    for count in (1, 2):
        places = torch.randint(0, clean.shape[1], (draws, len(clean), count), generator=draw)
        part = slice(None, None, 2) if count == 2 else slice(1, None, 2)
        share = torch.rand((draws, len(clean), 1), generator=draw, dtype=images.dtype)
        amounts = torch.cat([share, 1 - share], dim=2)[..., :count] if count == 2 else torch.ones_like(share)
        edge = torch.zeros_like(axes).scatter(2, places, amounts)
        axes[part] = edge[part] * signs[part]
    vertices = admissible(threat.epsilon * axes, clean, threat)
    walked = _attacked(network, images, labels, threat, corners)
    every = torch.cat([torch.zeros_like(clean)[None], near, corners, vertices, walked])
    return (clean + every).clamp(0.0, 1.0).view(-1, *images.shape)


def _attacked(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, corners: Tensor) -> Tensor:
    """(P, N, d) perturbations on the way down every margin, from the clean image and from two corners."""
    clean = images.flatten(1)
    starts = torch.cat([torch.zeros_like(clean)[None], corners[:2]])
    wrong = margins_at(network, images[None], labels)[0].shape[2]
    delta = starts.repeat_interleave(wrong, dim=0)  # (3 * (K - 1), N, d)
    column = torch.arange(wrong).repeat(len(starts))

    def descent(delta: Tensor) -> Tensor:
        leaf = delta.detach().requires_grad_()
        with torch.enable_grad():
            values = margins_at(network, (clean + leaf).view(-1, *images.shape), labels)[0]
            chosen = values[torch.arange(len(column)), :, column].sum()
            (slopes,) = torch.autograd.grad(chosen, leaf)
        return slopes

    found = []
    wolfe = pgd = delta
    for share in STEPS:
        wolfe = (1 - share) * wolfe + share * lowest(descent(wolfe), clean, threat)
        slopes = descent(pgd)
        step = slopes.sign() if threat.norm == "linf" else slopes / slopes.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        pgd = admissible(pgd - 2 * share * threat.epsilon * step, clean, threat)
        found += [wolfe, pgd]
    # Carlini and Wagner: plain descent on the margin in a variable whose tanh is the place in the box, by Adam
    lower, upper = -clean.clamp_max(threat.epsilon), (1 - clean).clamp_max(threat.epsilon)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    place = torch.atanh(((delta - middle) / half.clamp_min(1e-300)).clamp(-0.9, 0.9)).requires_grad_()
    optimiser = torch.optim.Adam([place], lr=0.7)
    for _ in STEPS:
        inside = middle + half * place.tanh()
        point = admissible(inside, clean, threat).detach()
        found.append(point)
        with torch.enable_grad():
            (place.grad,) = torch.autograd.grad(middle + half * place.tanh(), place, descent(point))
        place.grad = place.grad / place.grad.abs().amax().clamp_min(1e-300)
        optimiser.step()
    return torch.cat(found).detach()


def in_single(points: Tensor, images: Tensor) -> Tensor:
    """Points as float32 images, each entry rounded towards the clean one (float32), so that none leaves the region."""
    exact = images.double()
    single = points.float()
    outside = (single.double() - exact).abs() > (points - exact).abs()
    return torch.where(outside, torch.nextafter(single, images.expand_as(single)), single)
