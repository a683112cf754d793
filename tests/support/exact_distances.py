"""How near the nearest image of another class is, for networks whose logits are affine in the pixels, in every norm."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


def exact_step(image: list[float], slope: list[float], gap: float, norm: str) -> float:
    """Size of the shortest way, inside the box, along which a linear function rises by `gap`; infinite for none.

    By bisection over a multiplier, one image at a time in float64: nothing is shared with any attack.
    """
    room = [1 - p if s > 0 else p for p, s in zip(image, slope, strict=True)]
    size = [abs(s) for s in slope]
    if sum(r * s for r, s in zip(room, size, strict=True)) < gap:
        return math.inf
    if norm == "l1":
        left, spent = gap, 0.0
        for s, r in sorted(zip(size, room, strict=True), reverse=True):
            change = min(r, left / s)
            left, spent = left - change * s, spent + change
            if left <= 1e-12:
                break
        return spent
    speed = [1.0] * len(size) if norm == "linf" else size
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        rise = sum(s * min(middle * v, r) for s, v, r in zip(size, speed, room, strict=True))
        low, high = (middle, high) if rise < gap else (low, middle)
    moves = [min(high * v, r) for v, r in zip(speed, room, strict=True)]
    return max(moves) if norm == "linf" else math.sqrt(sum(m * m for m in moves))


def exact_distances(network: nn.Module, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """(N,) float64, the nearest boundary of an affine network inside the box; infinite where no image fools it."""
    twin, images = copy.deepcopy(network).double(), images.double()
    weight = torch.autograd.functional.jacobian(lambda one: twin(one)[0], images[:1]).flatten(1)
    logits = twin(images).detach()
    nearest = [
        min(
            exact_step(image, (weight[k] - weight[y]).tolist(), float(row[y] - row[k]), norm)
            for k in range(len(row))
            if k != y
        )
        for image, row, y in zip(images.flatten(1).tolist(), logits, labels.tolist(), strict=True)
    ]
    return torch.tensor(nearest, dtype=torch.float64)
