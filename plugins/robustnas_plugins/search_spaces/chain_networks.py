"""The networks of the space `chain`: blocks in a row, global pooling, a linear layer; nothing runs beside them.

    block:  convolution, norm, rectifier, and behind it nothing, an average or a maximum over 3x3

All blocks but the first halve rows and columns (an odd number upwards).  In a supernet

    block(x) = sum_p share_p pool_p(relu(sum_k share_k norm_k(conv_k(x))))  times the mask of its widths

(`robustnas_plugins.search_spaces.masks`), with norms without scale and shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.nn.cells import SinglePath, convolve_and_norm
from robustnas.nn.fast import Conv2d
from robustnas_plugins.search_spaces import alpha
from robustnas_plugins.search_spaces.masks import masks, weighed, weights
from robustnas_plugins.search_spaces.ops import avg_pool, max_pool

KERNELS = (1, 3, 5)
WIDTHS = (1, 2, 4)
POOLS = ("none", "avg_pool_3x3", "max_pool_3x3")


@frozen
class Block:
    """What a block of a discrete network is.

    Args:
        kernel: side of its convolution's kernel, of `KERNELS`.
        width: its channels as a multiple of the network's, of `WIDTHS`.
        pool: what is behind its rectifier, of `POOLS`.
    """

    kernel: int
    width: int
    pool: str


def stride_of(block: int) -> int:
    """Of the block's convolution."""
    return 2 if block else 1


def pooling(name: str) -> nn.Module:
    """(N, C, H, W) -> (N, C, H, W)."""
    return {"none": nn.Identity(), "avg_pool_3x3": avg_pool(1), "max_pool_3x3": max_pool(1)}[name]


class MixedBlock(nn.Module):
    """A block with all candidates: (N, C, H, W) and the shares of each choice -> (N, C', H', W')."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out = max(WIDTHS) * channels
        self.convs = nn.ModuleList(
            Conv2d(in_channels, out, kernel, stride, padding=kernel // 2, bias=False) for kernel in KERNELS
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out, affine=False) for _ in KERNELS)
        self.pools = nn.ModuleList(pooling(name) for name in POOLS)
        self.register_buffer("masks", masks([width * channels for width in WIDTHS]), persistent=False)

    def forward(self, x: Tensor, shares: Mapping[str, Tensor], columns: Mapping[str, int] | None) -> Tensor:
        """With `columns`, the places of the ones among one-hot shares, nothing else is computed."""

        def chosen(table: str) -> Sequence[int]:
            return range(len(shares[table])) if columns is None else [columns[table]]

        mixed = reduce(add, [shares["kernel"][k] * self._convolved(k, x) for k in chosen("kernel")])
        seen = F.relu(mixed)
        pooled = reduce(add, [shares["pool"][p] * self.pools[p](seen) for p in chosen("pool")])
        assert isinstance(self.masks, Tensor)
        return weighed(pooled, weights(shares["width"], self.masks))

    def _convolved(self, place: int, x: Tensor) -> Tensor:
        conv, norm = self.convs[place], self.norms[place]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        return convolve_and_norm(conv, norm, x)


class ChainSupernet(nn.Module):
    """Keeps `robustnas.contracts.Supernet`; alpha is `kernel`, `width` and `pool`, a row a block, three columns each.

    Args:
        in_channels: channels of an image.
        classes: number of classes.
        blocks: number of blocks.
        channels: of a block of width 1.
    """

    alpha: Mapping[str, nn.Parameter]

    def __init__(self, in_channels: int, classes: int, blocks: int, channels: int):
        super().__init__()
        widest = max(WIDTHS) * channels
        self.cells = nn.ModuleList(
            MixedBlock(widest if block else in_channels, channels, stride_of(block)) for block in range(blocks)
        )
        self.classifier = nn.Linear(widest, classes)
        tables = {"kernel": KERNELS, "width": WIDTHS, "pool": POOLS}
        shapes = {name: (blocks, len(options)) for name, options in tables.items()}
        self.alpha = alpha.started(shapes, self.classifier.weight.device)

    def mixing(self) -> dict[str, Tensor]:
        """softmax of the rows of every table of alpha; rows sum to 1."""
        return alpha.mixed(self.alpha)

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha)."""
        rows_of, x = self.mixing() if mixing is None else mixing, images
        single = rows_of.columns if isinstance(rows_of, SinglePath) else None
        for number, block in enumerate(self.cells):
            shares = {name: rows[number] for name, rows in rows_of.items()}
            columns = None if single is None else {name: places[number] for name, places in single.items()}
            x = block(x, shares, columns)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def chain_network(
    blocks: Sequence[Block], in_channels: int, classes: int, channels: int, *, affine: bool = True
) -> nn.Sequential:
    """The network of these blocks: (N, C, H, W) -> (N, K) logits; torch's own layers in a row.

    Args:
        affine: whether batch norm has a scale and a shift; not in search form.
    """
    layers: list[nn.Module] = []
    for number, block in enumerate(blocks):
        out, stride = block.width * channels, stride_of(number)
        layers += [
            nn.Conv2d(in_channels, out, block.kernel, stride, padding=block.kernel // 2, bias=False),
            nn.BatchNorm2d(out, affine=affine),
            nn.ReLU(),
            *([] if block.pool == "none" else [pooling(block.pool)]),
        ]
        in_channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, classes))
