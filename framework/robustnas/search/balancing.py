"""Weighs each score by how hard it pulls at alpha, so that it is heard beside the loss at any depth.

    outer   L_val(w, alpha) - sum_i gamma_i * weight_i * mean over images of score_i
    gamma_i = rho / r_i,    r_i the running mean of || d mean score_i / d alpha || / || d L_val / d alpha ||

Both norms are of direct gradients, over all tables of alpha and the whole batch (all parts, all processes), without
what an order of the search adds for w's dependence on alpha; they are taken where the order evaluates the two.  In a
step gamma_i is a constant, and known before the step: what is minimised then is the objective of Hosseini et al. 2021
(arXiv:2012.06122, eq. 16) with these weights.  Over the steps they follow the search, so there is no one function that
the whole search minimises; what is fixed is the share rho * weight_i that a score has in alpha's direct gradient.

The means are of logarithms (geometric), because norms of certified bounds change by decades over a search and from
batch to batch: one outlier then counts for a few steps, where in a mean of the norms it would silence the score for
hundreds.  They fade by `FADE` a step: over about five steps the noise of a batch (30 %, say) is a third of itself, and
searches of a few dozen steps, in which norms of bounds fall by a fifth a step, are still followed.  A step in which
either gradient is zero (no image has a score, say) or not finite does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

FADE = 0.8
"""By this an earlier step's share in the running mean falls with every step."""

SILENT = 1e-12
"""The factor of a score that had no gradient yet: too small to move alpha, large enough to see a gradient come."""

LARGEST = 1e30
"""No factor is larger: float32 ends at 3e38."""


@frozen(eq=False)
class Pull:
    """How hard each term of the outer objective pulls at alpha, over the whole batch: on the device, without a graph.

    Args:
        norms: (1 + n,), of the gradients in alpha of the loss, and of the mean of each score before any factor.
        cosines: (n,), between the gradient of the loss and that of minus each score: 1 where both ask for one step.
        scores: (n,), the mean of each score.
        gammas: (n,), the factor of each score, without its `weight`.
        ratios: (n,), of the norm of each score's gradient, with both factors, to that of the loss's.
    """

    norms: Tensor
    cosines: Tensor
    scores: Tensor
    gammas: Tensor
    ratios: Tensor

    @classmethod
    def of(cls, gradients: list[list[Tensor]], weights: Tensor, gammas: Tensor, scores: Tensor) -> Pull:
        """Measure the gradients of each term as it is minimised, loss first, of which a score's has both factors."""
        rows = torch.stack([torch.cat([one.flatten() for one in term]) for term in gradients])
        # bounds have gradients whose squares float32 does not hold
        largest = rows.abs().amax(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
        units = rows / largest[:, None]
        lengths = torch.linalg.vector_norm(units, dim=1)
        loss, *_ = norms = largest * lengths
        direct = torch.cat([norms[:1], norms[1:] / weights.abs() / gammas])
        cosines = units[1:] @ units[0] / (lengths[1:] * lengths[0])
        return cls(direct, cosines, scores, gammas, norms[1:] / loss)

    def row(self) -> Tensor:
        """All of them in a row, (1 + 5 n,)."""
        return torch.cat([self.norms, self.cosines, self.scores, self.gammas, self.ratios])


@define(eq=False)
class Balancing:
    """The factors gamma_i of a search, and the running means they come from; a part of its checkpoint.

    Args:
        rho: norm of a score's direct gradient in alpha, times its `weight`, over that of the loss.
        scores: how many there are.
    """

    rho: float
    scores: int
    logs: Tensor = field(init=False)
    counts: Tensor = field(init=False)
    measured: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.logs, self.counts = torch.zeros(self.scores), torch.zeros(self.scores)

    def gammas(self, like: Tensor) -> Tensor:
        """The factors of this step: (n,), of the type and on the device of `like`; 1 before anything is measured."""
        if not self.measured:
            return torch.ones(self.scores).to(like)
        gammas = self.rho * (-self.logs / self.counts).exp().clamp_max(LARGEST / self.rho)
        return torch.where(self.counts > 0, gammas, SILENT).to(like)

    def note(self, pull: Pull) -> None:
        """Take in what a step, or the measurement before the first one, has found."""
        ratio = (pull.norms[1:] / pull.norms[0]).log()
        counted = ratio.isfinite()
        logs, counts = self.logs.to(ratio), self.counts.to(ratio)
        self.logs = torch.where(counted, FADE * logs + ratio, logs)
        self.counts = torch.where(counted, FADE * counts + 1, counts)
        self.measured = True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"logs": self.logs.cpu(), "counts": self.counts.cpu(), "measured": self.measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of another number of scores.
        """
        if len(state["logs"]) != self.scores:
            raise ValueError(f"running means of {len(state['logs'])} scores, here are {self.scores}")
        self.logs, self.counts, self.measured = state["logs"], state["counts"], bool(state["measured"])
