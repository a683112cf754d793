"""Jacobian covariance (jacov): whether a network tells images apart by how its logits move with them.

    R = - sum_i [ log(v_i + k) + 1 / (v_i + k) ]       v: eigenvalues of the correlations of the rows of J, k = 1e-5
    J_n = d sum_k f_k(x_n) / d x_n

At its largest, 0 - N, where the N rows are uncorrelated (all v are 1).  A zero-cost score: of untrained networks, of
a whole batch, each image of which has the same number, without a gradient; the same for every threat.  Batches of
other sizes have other numbers, so compare within one `rank.batch`.  Rows that are constant correlate with nothing.

Source: Mellor et al. 2020, "Neural Architecture Search without Training", arXiv:2006.04647v1 (the score of version 1;
later ones count activation patterns).  There batch norm passes gradients between images; here its statistics are
constants, as for every metric, so a row is of its image alone.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.threat import ThreatModel

K = 1e-5
"""Added to an eigenvalue, as published."""


@frozen
class JacobianCovariance:
    """How uncorrelated the Jacobians of a batch are (Mellor et al. 2020, arXiv:2006.04647).

    A zero-cost score of a batch, without a gradient.
    """

    differentiable = False
    of_batch = True

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), one number for all, at most -N."""
        with torch.enable_grad():
            seen = images.detach().requires_grad_()
            (rows,) = torch.autograd.grad(network(seen).sum(), seen)
        rows = rows.flatten(1).double()
        rows = rows - rows.mean(dim=1, keepdim=True)
        rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        values = torch.linalg.eigvalsh(rows @ rows.mT).clamp_min(0.0) + K
        found: Tensor = -(values.log() + 1 / values).sum()
        return found.to(images.dtype).expand(len(images))
