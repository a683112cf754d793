"""The operation `noise` of RobustDARTS's space S4: standard normal numbers in place of what comes in.

In training mode every pixel of every channel is drawn anew, N(0, 1), from the generator that torch has been seeded
with; no draw depends on the input, and no gradient passes to it.  In eval mode the operation is its mean, zero.

The released code draws in eval mode too.  A network that answers one image differently from call to call has no
certificate and no attack that can be judged, and here an image's logits depend on that image alone; so bounds, attacks,
scores and tables see zero, exactly what the network in eval mode computes.  Batch norms behind the operation have in
their running variance what the noise adds in training, as behind dropout.

Source: Zela et al. 2020 (RobustDARTS), arXiv:1909.09656, sec. 3; github.com/automl/RobustDARTS, src/operations.py.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.nn.cells.discrete_cell import Zero


class Noise(Zero):
    """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)) standard normal numbers; zeros in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = super().forward(x)
        return torch.randn_like(zeros) if self.training else zeros


@frozen
class NoiseOperation:
    """The entry of an operation table; every edge draws its own."""

    def __call__(self, channels: int, stride: int) -> nn.Module:
        return Noise(stride)

    def for_edges(self, channels: int, stride: int, edges: int) -> nn.Module:
        """All edges that leave one state, as `robustnas.nn.cells.ForEdges` has them."""
        return Noise(stride)
