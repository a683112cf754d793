"""A cell of a discrete network: each node adds the operations that its genotype keeps, two mostly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.genotype import Gene
from robustnas.nn.cells.layers import preprocessing
from robustnas.nn.cells.op_table import OpTable


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Each image's x is zero with `probability`, else divided by 1 - probability: the mean over draws is x.

    x (N, C, H, W); one draw an image, from torch's global generator.  Source: Larsson et al. 2017
    (FractalNet), arXiv:1605.07648, in the form DARTS uses.
    """
    keep = 1.0 - probability
    kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < keep
    return x * (kept.to(x.dtype) / keep)


class Zero(nn.Module):
    """The operation that outputs zero, in the size an operation of this stride has."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class DiscreteCell(nn.Module):
    """Two inputs, and nodes that genes enter; the output joins the nodes of `concat`.

    Args:
        table: operations by name, those of `genes` among them.
        genes: `(operation, state)`, node by node.
        concat: states that make the output; it has len(concat) * channels channels.
        in_channels: channels of the two inputs.
        channels: channels of a node.
        reduction: the operations that read the inputs have stride 2.
        halve_first: the first input has twice the rows and columns of the second.
        affine: whether the preprocessing's batch norm has scale and shift; the table decides for its own.
        entered: the node that each gene enters; None: two a node.

    Raises:
        InputError: the table does not know an operation.
    """

    def __init__(
        self,
        table: OpTable,
        genes: Sequence[Gene],
        concat: Sequence[int],
        in_channels: Sequence[int],
        channels: int,
        *,
        reduction: bool = False,
        halve_first: bool = False,
        affine: bool = True,
        entered: Sequence[int] | None = None,
    ):
        super().__init__()
        self.preprocess0 = preprocessing(in_channels[0], channels, halve=halve_first, affine=affine)
        self.preprocess1 = preprocessing(in_channels[1], channels, halve=False, affine=affine)
        self.sources = tuple(source for _, source in genes)
        self.concat = tuple(concat)
        nodes = [index // 2 for index in range(len(genes))] if entered is None else [*entered]
        self.complete = [node != following for node, following in zip(nodes, [*nodes[1:], None], strict=True)]
        self.ops = nn.ModuleList()
        for op, source in genes:
            if op not in table:
                raise InputError(f"genotype: no operation is called {op!r}; there are {', '.join(table)}")
            stride = 2 if reduction and source < 2 else 1
            built = table[op](channels, stride)
            self.ops.append(Zero(stride) if built is None else built)

    def forward(self, first: Tensor, second: Tensor, drop: float = 0.0) -> Tensor:
        """Outputs of the two cells before -> (N, len(concat) * channels, H', W').

        `drop` is the probability of drop-path in training mode; identities are never dropped.
        """
        states = [self.preprocess0(first), self.preprocess1(second)]
        outputs: list[Tensor] = []
        for op, source, complete in zip(self.ops, self.sources, self.complete, strict=True):
            output = op(states[source])
            if self.training and drop > 0.0 and not isinstance(op, nn.Identity):
                output = drop_path(output, drop)
            outputs.append(output)
            if complete:
                states.append(reduce(add, outputs))
                outputs = []
        return torch.cat([states[node] for node in self.concat], dim=1)
