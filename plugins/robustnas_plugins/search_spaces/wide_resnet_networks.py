"""Wide residual networks with a depth and a width of each of three stages.

    convolution 3x3 -> stage 1 -> stage 2 -> stage 3 -> norm, ReLU, global pooling, linear

A stage is `depth` blocks of `width` times 1, 2 or 4 times the network's channels; the first block of stages 2 and 3
halves rows and columns (an odd number upwards).

    block(x) = shortcut(x) + conv(relu(norm(conv(relu(norm(x))))))

The shortcut of a stage's first block is a 1x1 convolution of relu(norm(x)), that of any other the identity.

A supernet computes the deepest and widest stage.  A block counts as much as the depths that have it do together, and
channels as much as the widths that have them (`robustnas_plugins.search_spaces.masks`), in front of every convolution
that reads them:

    x + (sum_{d > place} share_d) f(x)

so that one-hot mixing is the discrete network in search form, whose norms have no scale and shift.

Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.nn.cells import SinglePath, normalise
from robustnas.nn.fast import Conv2d
from robustnas_plugins.search_spaces import alpha
from robustnas_plugins.search_spaces.masks import masks, weighed, weights

STAGES = 3


class Block(nn.Module):
    """Two convolutions behind a norm and a rectifier each: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: C.
        channels: C'.
        stride: of the first convolution.
        first: the shortcut is a convolution.
        affine: whether batch norm has a scale and a shift; not in a supernet.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, *, first: bool, affine: bool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, affine=affine)
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels, affine=affine)
        self.conv2 = Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.shortcut = Conv2d(in_channels, channels, 1, stride, bias=False) if first else None

    def forward(
        self, x: Tensor, gate: Tensor | None = None, before: Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """With what the block counts (), each channel of x (C,) and each of its own channels (C',); None: 1."""
        seen = weighed(F.relu(normalise(self.norm1, x)), before)
        inner = weighed(F.relu(normalise(self.norm2, self.conv1(seen))), own)
        added: Tensor = self.conv2(inner)
        return (x if self.shortcut is None else self.shortcut(seen)) + (added if gate is None else gate * added)


class WideResNet(nn.Module):
    """The network of these depths and widths: (N, C, H, W) -> (N, K) logits.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage, as a multiple of 1, 2 and 4 times `channels`.
        in_channels: channels of an image.
        classes: number of classes.
        channels: of the first convolution.
        affine: whether batch norm has a scale and a shift; not in search form.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        in_channels: int,
        classes: int,
        channels: int,
        *,
        affine: bool = True,
    ):
        super().__init__()
        self.depths = tuple(depths)
        self.stem = Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.cells, last = nn.ModuleList(), channels
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            out = (channels << stage) * width
            for place in range(depth):
                stride = 2 if stage and not place else 1
                self.cells.append(Block(last, out, stride, first=not place, affine=affine))
                last = out
        self.norm = nn.BatchNorm2d(last, affine=affine)
        self.classifier = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.cells:
            x = block(x)
        return self.logits(x)

    def logits(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """The last stage's output (N, C, H, W), and what its channels count (C,) -> (N, K)."""
        seen = weighed(F.relu(normalise(self.norm, x)), channels)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(seen, 1).flatten(1))
        return logits


class WideResNetSupernet(WideResNet):
    """Keeps `robustnas.contracts.Supernet`; alpha is `depth` and `width`, a row a stage.

    Args:
        depths: what each stage chooses among.
        widths: likewise.
        in_channels: channels of an image.
        classes: number of classes.
        channels: of the first convolution.
    """

    alpha: Mapping[str, nn.Parameter]

    def __init__(self, depths: Sequence[int], widths: Sequence[int], in_channels: int, classes: int, channels: int):
        deepest, widest = STAGES * [max(depths)], STAGES * [max(widths)]
        super().__init__(deepest, widest, in_channels, classes, channels, affine=False)
        self.options = tuple(depths)
        self.register_buffer("gates", masks(depths), persistent=False)
        for stage in range(STAGES):
            of_stage = masks([(channels << stage) * width for width in widths])
            self.register_buffer(f"masks{stage}", of_stage, persistent=False)
        shapes = {"depth": (STAGES, len(depths)), "width": (STAGES, len(widths))}
        self.alpha = alpha.started(shapes, self.classifier.weight.device)

    def mixing(self) -> dict[str, Tensor]:
        """softmax of the rows of every table of alpha; rows sum to 1."""
        return alpha.mixed(self.alpha)

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha).

        Of a `SinglePath` the blocks that it has are computed, in full width.
        """
        rows = self.mixing() if mixing is None else mixing
        least = min(self.options)
        x, before, blocks = self.stem(images), None, iter(self.cells)
        for stage, depth in enumerate(self.depths):
            gates = weights(rows["depth"][stage], self.buffer("gates"))
            own = weights(rows["width"][stage], self.buffer(f"masks{stage}"))
            has = self.options[rows.columns["depth"][stage]] if isinstance(rows, SinglePath) else depth
            for place in range(depth):
                block = next(blocks)
                if place < has:
                    x = block(x, None if place < least else gates[place], before, own)
                before = own
        return self.logits(x, before)

    def buffer(self, name: str) -> Tensor:
        """A buffer by its name."""
        found: Tensor = getattr(self, name)
        return found
