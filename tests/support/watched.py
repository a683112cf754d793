"""A network that knows which image each row is, and refuses one that it has been fooled by before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustnas.threat import ThreatModel


class Watched(nn.Module):
    """Counts evaluations; an image that comes again after it has fooled the network is a failure.

    Rows are told apart by the clean image they are nearest to in the norm of the ball, so these must be further apart
    than the ball is wide.

    Args:
        network: what is watched.
        clean: (N, C, H, W).
        labels: (N,) int64.
        threat: the ball; images beyond it do not count as fooled.
        strict: whether a fooled image may not come again.
    """

    def __init__(self, network: nn.Module, clean: Tensor, labels: Tensor, threat: ThreatModel, strict: bool = True):
        super().__init__()
        self.network, self.clean, self.labels, self.strict = network, clean, labels, strict
        self.threat, self.order = threat, {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[threat.norm]
        self.seen = torch.zeros(len(clean), dtype=torch.int64)
        self.fooled = torch.zeros(len(clean), dtype=torch.bool)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            rows = torch.cdist(images.flatten(1), self.clean.flatten(1), p=self.order).argmin(dim=1)
        assert len(rows.unique()) == len(rows), "an image is in the batch twice"
        assert not (self.strict and bool(self.fooled[rows].any())), "a fooled image was evaluated again"
        logits: Tensor = self.network(images)
        self.seen[rows] += 1
        inside = self.threat.distance(images.detach(), self.clean[rows]) <= self.threat.epsilon
        self.fooled[rows] |= inside & (logits.detach().argmax(dim=1) != self.labels[rows])
        return logits
