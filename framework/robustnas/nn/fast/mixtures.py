"""Several weighted sums of the same tensors, as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from robustnas.nn.fast import switch
from robustnas.nn.fast.separable_stage import by_hand


def mixtures(shares: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """sum_k shares[e, k] * outputs[k] for every e: shares (E, K), K tensors of one shape -> E of that shape."""
    if has_torch_function(tuple(outputs)):
        # bounded values: each torch function costs them several passes, and one of many entries less than many
        return list(torch.einsum("ek,nkchw->nechw", shares, torch.stack(list(outputs), dim=1)).unbind(dim=1))
    if not switch.is_on("mixtures") or not by_hand(shares, *outputs):
        return [reduce(add, [share * output for share, output in zip(row, outputs, strict=True)]) for row in shares]
    # in the order that the entries have in channels-last memory
    stacked = torch.stack([output.permute(0, 2, 3, 1) for output in outputs])
    mixed = (shares @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
    return [one.permute(0, 3, 1, 2) for one in mixed.unbind()]
