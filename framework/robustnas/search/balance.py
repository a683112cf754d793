"""The setting that weighs scores by their gradients; `robustnas.search.balancing` does it."""

from __future__ import annotations

from attrs import frozen
from attrs.validators import gt

from robustnas.options import MISSING, option

RHO = 1.0
"""The share of `gamma: {balance: ...}` by default: a score is heard as well as the loss.

On digits (two cells, 5,000 weights, two or three searches), `certified-bound` in logs at shares of .5, 1 and 2 gave
networks of which 45, 90 and 99 % of the images are certified at .001 (plain DARTS: none), 89.7, 86.9 and 83.9 % robust
at .03 (91.0) and 97.7, 97.2 and 96.2 % right (97.1): docs/evidence.md.
"""


@frozen
class Balance:
    """Weighs each score by its gradient instead of by a number."""

    balance: float = option(
        MISSING, "rho: norm of a score's gradient in alpha, times its weight, over that of the loss", gt(0.0)
    )
