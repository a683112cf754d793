"""The operations of the DARTS space, in the form a supernet mixes and in the form a discrete network keeps.

A supernet's batch norms have no scale and shift, and its poolings are followed by one: else the scale of an
operation could take the place of its mixing weight.  A discrete network's batch norms have both and its
poolings stand alone.  Source: Liu et al. 2019 (DARTS), arXiv:1806.09055.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from reprlib import repr as shortened
from typing import Any

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.errors import InputError
from robustnas.genotype import Genotype
from robustnas.nn.cells import DepthwiseSeparable, FactorizedReduce, OpTable, convolve_and_norm, normalise


@frozen
class Separable:
    """Depthwise separable convolutions in a row, the stride in the first: sep_conv and dil_conv."""

    kernel: int
    dilation: int
    layers: int
    affine: bool

    def __call__(self, channels: int, stride: int) -> nn.Module:
        return self._build(channels, stride, 1, True)

    def for_edges(self, channels: int, stride: int, edges: int) -> nn.Module:
        """All edges that leave one state, by grouped convolutions; see `robustnas.nn.cells.ForEdges`."""
        return self._build(channels, stride, edges, False)

    def _build(self, channels: int, stride: int, edges: int, rectify: bool) -> nn.Module:
        layers = [
            DepthwiseSeparable(
                channels,
                self.kernel,
                1 if later else stride,
                self.dilation,
                affine=self.affine,
                edges=edges,
                rectify=bool(later) or rectify,
            )
            for later in range(self.layers)
        ]
        return layers[0] if self.layers == 1 else nn.Sequential(*layers)


def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    """The identity; a factorized reduction where the size halves."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


class ConvPair(nn.Module):
    """Rectifier, a 1x7 and a 7x1 convolution, batch norm: (N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s)).

    Source: the NASNet space, Zoph et al. 2018, arXiv:1707.07012.
    """

    def __init__(self, channels: int, stride: int, *, affine: bool):
        super().__init__()
        self.across = nn.Conv2d(channels, channels, (1, 7), (1, stride), padding=(0, 3), bias=False)
        self.down = nn.Conv2d(channels, channels, (7, 1), (stride, 1), padding=(3, 0), bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_and_norm(self.down, self.norm, self.across(F.relu(x)))


def max_pool(stride: int) -> nn.Module:
    """Maximum over 3x3."""
    return nn.MaxPool2d(3, stride, padding=1)


def avg_pool(stride: int) -> nn.Module:
    """Mean over the pixels of 3x3 that are in the image."""
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


class NormedPool(nn.Sequential):
    """A pooling and its batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        pool, norm = self
        assert isinstance(norm, _BatchNorm)
        return normalise(norm, pool(x))


def _normed(pool: Callable[[int], nn.Module]) -> Callable[[int, int], nn.Module]:
    """A pooling as a supernet mixes it, with a batch norm behind it."""
    return lambda channels, stride: NormedPool(pool(stride), nn.BatchNorm2d(channels, affine=False))


def _convolutions(affine: bool) -> dict[str, Callable[[int, int], nn.Module]]:
    """The operations with weights that both forms have; they differ in batch norm's scale and shift alone."""
    return {
        "skip_connect": lambda channels, stride: skip_connect(channels, stride, affine),
        "sep_conv_3x3": Separable(3, dilation=1, layers=2, affine=affine),
        "sep_conv_5x5": Separable(5, dilation=1, layers=2, affine=affine),
        "dil_conv_3x3": Separable(3, dilation=2, layers=1, affine=affine),
        "dil_conv_5x5": Separable(5, dilation=2, layers=1, affine=affine),
    }


SEARCH: OpTable = {
    "none": lambda channels, stride: None,
    "max_pool_3x3": _normed(max_pool),
    "avg_pool_3x3": _normed(avg_pool),
    **_convolutions(affine=False),
}
"""The eight candidates of a supernet; their order is the order of alpha's columns."""

DISCRETE: OpTable = {
    "none": lambda channels, stride: None,
    "max_pool_3x3": lambda channels, stride: max_pool(stride),
    "avg_pool_3x3": lambda channels, stride: avg_pool(stride),
    **_convolutions(affine=True),
    "sep_conv_7x7": Separable(7, dilation=1, layers=2, affine=True),
    "conv_7x1_1x7": lambda channels, stride: ConvPair(channels, stride, affine=True),
}
"""The operations of a discrete network: the eight candidates, and two that only NASNet's space has."""


def checked(data: dict[str, Any], table: OpTable) -> Genotype:
    """Read the genotype that `data` holds and check that this space has its operations.

    Raises:
        InputError: not a genotype, or an operation of it is not in the table.
    """
    genotype = Genotype.from_data(data)
    for name, genes in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        for index, (op, _) in enumerate(genes):
            if op not in table:
                near = get_close_matches(op, table, 1, cutoff=0.75)
                raise InputError(
                    f"genotype: {name}[{index}] is {shortened(op)}, which is no operation of this space"
                    + (f"; did you mean {near[0]}?" if near else "")
                    + f"\n  operations: {', '.join(table)}"
                )
    return genotype
