"""Two terms of a loss that keep bounds tight, and rectifiers in balance, while epsilon grows.

Of the intervals [c - r, c + r] in front of the L rectifiers of a network, with tolerance t,

    tightness  =  1/(t L)  sum over rectifiers of  max(0, t - r_0 / mean r)
    balance    =  1/(t L)  sum over rectifiers of  max(0, t - min(a, 1/a))  +  max(0, t - min(v, 1/v))

where r_0 is the half width of the network's inputs, a is the sum of c over entries that are surely positive divided by
minus that over those surely negative, and v the same of (c - mean c)^2.  Means and sums are over the entries of an
image, so that a batch is a sum; the paper's are over the batch.  A rectifier without entries of known sign is balanced.

Source: Shi et al. 2021, "Fast certified robust training with short warmup", arXiv:2102.06700.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustnas.bounds.rectified import Interval
from robustnas.bounds.rules.rectifier import where_positive
from robustnas.nn.normalize import Normalize

TOLERANCE = 0.5
"""t: the paper's."""


def entering(network: nn.Module, epsilon: float) -> float:
    """The half width with which intervals enter a network that normalises pixels, the mean over channels."""
    spread = [layer.std for layer in network.modules() if isinstance(layer, Normalize)]
    return epsilon if not spread else float((epsilon / spread[0]).mean())


def tightness(intervals: Sequence[Interval], width: float) -> Tensor:
    """The first term: scalar, the mean over images; 0 where no interval is wider than `width` / TOLERANCE."""
    means = torch.stack([radius.flatten(1).mean(dim=1) for _, radius in intervals])
    ratios = width / means.clamp_min(torch.finfo(means.dtype).tiny)
    return (TOLERANCE - ratios).clamp_min(0.0).mean() / TOLERANCE


def balance(intervals: Sequence[Interval]) -> Tensor:
    """The second term: scalar, the mean over images."""
    return torch.stack([_balance(c.flatten(1), r.flatten(1)) for c, r in intervals]).mean() / TOLERANCE


def _balance(centre: Tensor, radius: Tensor) -> Tensor:
    """Both summands of one rectifier: (N, F) twice -> (N,)."""
    lower, upper = (centre - radius).detach(), (centre + radius).detach()
    away = (centre - centre.mean(dim=1, keepdim=True)).square()
    kept, stopped = where_positive(centre, lower), where_positive(-centre, -upper)
    far, behind = where_positive(away, lower), where_positive(away, -upper)
    return _unlike(kept.sum(dim=1), stopped.sum(dim=1)) + _unlike(far.sum(dim=1), behind.sum(dim=1))


def _unlike(one: Tensor, other: Tensor) -> Tensor:
    """max(0, t - min(a, 1/a)) of a = one / other, both (N,); 0 where both are 0."""
    larger = torch.maximum(one, other)
    ratio = torch.minimum(one, other) / larger.clamp_min(torch.finfo(larger.dtype).tiny)
    return torch.where(larger > 0, TOLERANCE - ratio, 0.0).clamp_min(0.0)
