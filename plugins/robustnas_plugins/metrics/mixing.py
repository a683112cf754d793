"""Perturbed mixing weights, as both forms of SDARTS use them (arXiv:2002.05283).

The trap: rows are scaled to sum to 1 *after* the perturbation was kept within eps of the clean weights, as in
the published code.  The weights that act may therefore lie further than eps from the clean ones; eps is the
scale of the perturbation, not a bound on what acts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def perturbed(mixing: Tensor, delta: Tensor) -> Tensor:
    """mixing + delta as mixing weights again: clamped to [0, 1], rows scaled to sum to 1; both (E, O).

    A row of which nothing is left stays as it was.
    """
    moved = (mixing + delta).clamp(0.0, 1.0)
    total = moved.sum(dim=-1, keepdim=True)
    left = total > 0
    return torch.where(left, moved / torch.where(left, total, torch.ones_like(total)), mixing)


START, END = 0.03, 0.3
"""eps at the first epoch, and after the last one, as published."""


def schedule(start: float, end: float, progress: float) -> float:
    """eps at this share of the search: linear from start to end."""
    return start + (end - start) * progress
