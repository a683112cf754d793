"""Alpha as the supernets here hold it: tables of logits that begin nearly equal, and the softmax of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def started(shapes: Mapping[str, tuple[int, int]], device: torch.device) -> Mapping[str, nn.Parameter]:
    """New tables of these shapes, (E, O) by name, in an `nn.ParameterDict`; from torch's global generator.

    Small, so that all candidates start with nearly equal weights (DARTS), and all edges too (PC-DARTS).
    """
    # drawn on the CPU, as random numbers on the meta device, where weights are only counted, import torch's compiler
    drawn = {name: 1e-3 * torch.randn(shape, device="cpu") for name, shape in shapes.items()}
    tables = nn.ParameterDict({name: nn.Parameter(rows.to(device)) for name, rows in drawn.items()})
    return cast("Mapping[str, nn.Parameter]", tables)


def mixed(alpha: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """softmax of the rows of every table of alpha; rows sum to 1."""
    return {name: F.softmax(rows, dim=-1) for name, rows in alpha.items()}
