"""DARTS as the paper describes it and its first code computes it: edge by edge, operation by operation.

The yardstick of `plain_step.py`, for that comparison only.  Every edge is a list of eight operations with a
rectifier, convolutions and batch norms of its own, `none` is a multiplication by zero, memory is NCHW, and the
outer level's backward pass computes the gradients of all parameters though only alpha moves.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, sec. 2 and appendix A; where the paper is silent, what
quark0/darts computes (facts; the code here is new): no scale and shift in the cells' batch norms, one after each
pooling, softmax of alpha in every cell, gradient norm clipped at 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 4
STEM_MULTIPLIER = 3


class Zero(nn.Module):
    """Zero in the shape an operation of this stride has, by multiplication."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]).mul(0.0)


class Halve(nn.Module):
    """Two 1x1 convolutions of stride 2, one pixel apart, side by side; even sizes only."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.rectifier = nn.ReLU(inplace=False)
        self.even = nn.Conv2d(channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectifier(x)
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))
        return out


class Separable(nn.Sequential):
    """Rectifier, depthwise convolution, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.rectifier = nn.ReLU(inplace=False)
        self.depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)


class Squeeze(nn.Sequential):
    """Rectifier, 1x1 convolution, batch norm: a cell's input in the cell's channels."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.rectifier = nn.ReLU(inplace=False)
        self.conv = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=False)


def pooling(layer: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(channels, affine=False))


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda channels, stride: Zero(stride),
    "max_pool_3x3": lambda channels, stride: pooling(nn.MaxPool2d(3, stride, 1), channels),
    "avg_pool_3x3": lambda channels, stride: pooling(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels),
    "skip_connect": lambda channels, stride: nn.Identity() if stride == 1 else Halve(channels, channels),
    "sep_conv_3x3": lambda channels, stride: nn.Sequential(
        Separable(channels, 3, stride, 1), Separable(channels, 3, 1, 1)
    ),
    "sep_conv_5x5": lambda channels, stride: nn.Sequential(
        Separable(channels, 5, stride, 1), Separable(channels, 5, 1, 1)
    ),
    "dil_conv_3x3": lambda channels, stride: Separable(channels, 3, stride, 2),
    "dil_conv_5x5": lambda channels, stride: Separable(channels, 5, stride, 2),
}


class Edge(nn.Module):
    """The weighted sum of the eight operations."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.operations = nn.ModuleList(make(channels, stride) for make in OPERATIONS.values())

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * operation(x) for w, operation in zip(weights, self.operations, strict=True))  # type: ignore


class Cell(nn.Module):
    """Two inputs, four nodes, an edge from every earlier state to every node."""

    def __init__(self, before: int, last: int, channels: int, reduction: bool, halve_first: bool):
        super().__init__()
        self.preprocess0 = Halve(before, channels) if halve_first else Squeeze(before, channels)
        self.preprocess1 = Squeeze(last, channels)
        self.edges = nn.ModuleList(
            Edge(channels, 2 if reduction and source < 2 else 1) for node in range(NODES) for source in range(node + 2)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(first), self.preprocess1(second)]
        offset = 0
        for _ in range(NODES):
            node = sum(self.edges[offset + j](state, weights[offset + j]) for j, state in enumerate(states))
            offset += len(states)
            states.append(node)
        return torch.cat(states[2:], dim=1)


class TextbookSupernet(nn.Module):
    """(N, C, H, W) -> (N, K) logits; alpha is `normal` and `reduce`, (14, 8) each."""

    def __init__(self, in_channels: int, classes: int, cells: int, channels: int):
        super().__init__()
        before = last = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(nn.Conv2d(in_channels, last, 3, padding=1, bias=False), nn.BatchNorm2d(last))
        self.reductions = {cells // 3, 2 * cells // 3}
        self.cells = nn.ModuleList()
        for index in range(cells):
            reduction = index in self.reductions
            channels = 2 * channels if reduction else channels
            self.cells.append(Cell(before, last, channels, reduction, index - 1 in self.reductions))
            before, last = last, NODES * channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)
        edges = sum(range(2, NODES + 2))
        self.alpha = nn.ParameterDict(
            {name: nn.Parameter(1e-3 * torch.randn(edges, len(OPERATIONS))) for name in ("normal", "reduce")}
        )

    def forward(self, images: Tensor) -> Tensor:
        first = second = self.stem(images)
        for index, cell in enumerate(self.cells):
            weights = F.softmax(self.alpha["reduce" if index in self.reductions else "normal"], dim=-1)
            first, second = second, cell(first, second, weights)
        logits: Tensor = self.classifier(self.pool(second).flatten(1))
        return logits

    def weights(self) -> list[nn.Parameter]:
        """Every parameter that is not alpha."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alpha.")]

    def load_per_edge(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights and statistics of `support.edge_by_edge.per_edge(supernet, supernet.state_dict())`.

        Raises:
            RuntimeError: the two are not the same network.
        """
        names = {f".candidates.{name}.": f".operations.{index}." for index, name in enumerate(OPERATIONS)}
        renamed = {}
        for name, tensor in tensors.items():
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            renamed[name.replace("stem.layers.", "stem.")] = tensor
        self.load_state_dict(renamed)


def stepper(supernet: TextbookSupernet, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """A function that does one bilevel step, first order: alpha on `val`, then w on `train`."""
    alpha, w = list(supernet.alpha.values()), supernet.weights()
    alpha_optimizer = torch.optim.Adam(alpha, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    w_optimizer = torch.optim.SGD(w, 0.025, momentum=0.9, weight_decay=3e-4)

    def once() -> None:
        alpha_optimizer.zero_grad()
        F.cross_entropy(supernet(val[0]), val[1]).backward()
        alpha_optimizer.step()
        w_optimizer.zero_grad()
        F.cross_entropy(supernet(train[0]), train[1]).backward()
        nn.utils.clip_grad_norm_(w, 5.0)
        w_optimizer.step()

    return once
