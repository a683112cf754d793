"""An edge of a supernet: the weighted sum of its candidate operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from robustnas.errors import InputError

OpTable = Mapping[str, Callable[[int, int], nn.Module | None]]
"""Candidate operations by name, in the order of alpha's columns: (channels, stride) -> module.

The module maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)).  None stands for the operation
that outputs zero.
"""


class MixedOp(nn.Module):
    """sum_o weights[o] * op_o(x), over the candidates of a table.

    An operation that outputs zero is not computed: it takes its share of the weights and adds nothing.

    Args:
        table: the candidates; at least one of them is not zero.
        channels: channels of input and output.
        stride: 1, or 2 to halve rows and columns.
    """

    def __init__(self, table: OpTable, channels: int, stride: int):
        super().__init__()
        built = {name: make(channels, stride) for name, make in table.items()}
        self.columns = tuple(index for index, op in enumerate(built.values()) if op is not None)
        if not self.columns:
            raise InputError(
                f"the operations {', '.join(table) or '(none given)'} all output zero; add one that computes"
            )
        self.candidates = nn.ModuleDict({name: op for name, op in built.items() if op is not None})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, C, H, W), weights (O,) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        shares = weights.unbind()
        terms = [
            shares[column] * op(x) for column, op in zip(self.columns, self.candidates.values(), strict=True)
        ]
        total: Tensor = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
