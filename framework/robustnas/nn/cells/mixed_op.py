"""An edge of a supernet: the weighted sum of its candidate operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.nn.cells.partial_channels import acting, parted, passed_by

OpTable = Mapping[str, Callable[[int, int], nn.Module | None]]
"""Candidate operations by name, in the order of alpha's columns: (channels, stride) -> module.

The module maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)).  None stands for the operation
that outputs zero.
"""


def nothing_computes(table: OpTable) -> InputError:
    """The fault of a table whose operations all output zero."""
    return InputError(f"the operations {', '.join(table) or '(none given)'} all output zero; add one that computes")


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors of one shape."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


class MixedOp(nn.Module):
    """sum_o weights[o] * op_o(x), over the candidates of a table.

    An operation that outputs zero is not computed: it takes its share of the weights and adds nothing.

    Args:
        table: the candidates; at least one of them is not zero.
        channels: channels of input and output.
        stride: 1, or 2 to halve rows and columns.
        partial: the candidates act on one in so many channels (see `partial_channels`); 1 for all.

    Raises:
        InputError: no candidate computes anything, or `partial` does not divide the channels.
    """

    def __init__(self, table: OpTable, channels: int, stride: int, partial: int = 1):
        super().__init__()
        self.stride, self.partial = stride, partial
        built = {name: make(acting(channels, partial), stride) for name, make in table.items()}
        self.candidates = nn.ModuleDict({name: op for name, op in built.items() if op is not None})
        if not self.candidates:
            raise nothing_computes(table)
        self.columns = tuple(column for column, name in enumerate(table) if name in self.candidates)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, C, H, W), weights (O,) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        shares = weights.unbind()
        pairs = zip(self.columns, self.candidates.values(), strict=True)
        if self.partial == 1:
            return total([shares[column] * op(x) for column, op in pairs])
        seen, others = parted(x, self.partial)
        mixed = total([shares[column] * op(seen) for column, op in pairs])
        joined = torch.cat([mixed, passed_by(others, self.stride)], dim=1)
        groups = joined.reshape(joined.shape[0], self.partial, -1, *joined.shape[2:])
        return groups.transpose(1, 2).flatten(1, 2)
