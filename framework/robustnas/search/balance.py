"""The setting that weighs scores by their gradients; `robustnas.search.balancing` does it."""

from __future__ import annotations

from attrs import frozen
from attrs.validators import gt

from robustnas.options import MISSING, option

RHO = 0.5
"""The share of `gamma: {balance: ...}` by default."""


@frozen
class Balance:
    """Weighs each score by its gradient instead of by a number."""

    balance: float = option(
        MISSING, "rho: norm of a score's gradient in alpha, times its weight, over that of the loss", gt(0.0)
    )
