"""Batch norm whose batch is that of all processes: torch's own synchronised layer refuses the CPU.

    mean = sum_r s_r mean_r          var = sum_r s_r (var_r + (mean_r - mean)^2)

over processes r, s_r the share of the batch's entries that r holds: one message forward, one backward.  The sums are
differentiable as often as one likes (the derivative of a sum over processes is a sum over processes), so gradients and
second derivatives are those of one process that holds the whole batch, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over processes; its derivative is the sum of what arrives at each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Sum.apply(gradients[0])


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes together; in eval mode it is batch norm.

    It takes the place of a layer and shares its parameters, buffers and settings.
    """

    def __init__(self, layer: _BatchNorm):
        nn.Module.__init__(self)
        self.num_features, self.eps = layer.num_features, layer.eps
        self.affine, self.training = layer.affine, layer.training
        self.momentum, self.track_running_stats = layer.momentum, layer.track_running_stats
        self._parameters, self._buffers = layer._parameters, layer._buffers
        self.entries = 0
        """Entries a channel that the last training pass saw, over all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs images and channels, found {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            plain: Tensor = super().forward(input)
            return plain
        axes = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # as torch's own: half precision sums are useless
        mean, variance = self._moments(x, axes, shape)
        self._note(mean.detach(), variance.detach())
        out = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        normed: Tensor = out.to(input.dtype)
        return normed

    def _moments(self, x: Tensor, axes: list[int], shape: list[int]) -> tuple[Tensor, Tensor]:
        """Mean and biased variance a channel, over all processes, by one message.

        Each sends its count, mean and mean square deviation; from these follow the common ones, without the
        cancellation of a mean square minus a squared mean (Chan, Golub and LeVeque 1983).
        """
        count = x.numel() // x.shape[1]
        own = x.sum(axes) / max(count, 1)  # a process may have no image of a small batch
        spread = (x - own.view(shape)).square().sum(axes) / max(count, 1)
        line = torch.cat([own.new_tensor([float(count)]), own, spread])
        # everyone's line in a row of its own: the sum is then all of them
        rank, size = dist.get_rank(), dist.get_world_size()
        table = torch.stack([line if row == rank else torch.zeros_like(line) for row in range(size)])
        counts, means, spreads = _Sum.apply(table).split([1, len(own), len(own)], dim=1)
        self.entries = round(float(counts.detach().sum()))
        shares = counts.detach() / self.entries
        mean = (shares * means).sum(0)
        return mean, (shares * (spreads + (means - mean).square())).sum(0)

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; the variance that is noted is divided by n - 1, as torch's is."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        with torch.no_grad():
            unbiased = variance * (self.entries / max(self.entries - 1, 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum if momentum is not None else 1.0)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum if momentum is not None else 1.0)


def synchronise(network: nn.Module) -> None:
    """Put a synchronised layer in the place of every batch norm of the network; names and tensors stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedBatchNorm):
                setattr(parent, name, SynchronisedBatchNorm(child))
