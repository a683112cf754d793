"""The cross-entropy as one linear function of the margins, so that one backward pass bounds it (loss fusion).

    CE  =  log S,      S  =  1 + sum_j exp(-m_j),      m_j = f_y - f_j in [l_j, u_j]

Each exponential lies under its chord on its margin's interval,

    exp(-m_j)  <=  exp(-l_j) - a_j (m_j - l_j),      a_j = (exp(-l_j) - exp(-u_j)) / (u_j - l_j)

so a lower bound of the one function <a, m> over the region gives an upper bound of S.  It is not above that of the
intervals, exp(-l_j), because no m_j - l_j is negative.  Linear bounds of every m_j give a larger one in small balls,
because no image is the worst for all classes at once, and a smaller one in large balls, where chords are far from the
exponential.

Source: Xu et al. 2020, arXiv:2002.12920, sec. 3.3.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.bounds.rules.softmax import mean_exponential


@frozen(eq=False)
class Fused:
    """The linear function that stands for the cross-entropy.

    Args:
        lower, upper: (N, K - 1) ends of the margins.

    Attributes:
        shift: (N,) the logarithm of what sums and weights are divided by, so that none overflows.
        weights: (N, K - 1) a_j, divided.
    """

    lower: Tensor
    upper: Tensor
    shift: Tensor = field(init=False)
    weights: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "shift", -self.lower.detach().amin(dim=1).clamp_max(0.0))
        object.__setattr__(self, "weights", self._heights() * mean_exponential(self.upper - self.lower))

    def _heights(self) -> Tensor:
        """exp(-l_j), divided."""
        return torch.exp(-self.lower - self.shift[:, None])

    def loss(self, line: Tensor) -> Tensor:
        """Bound the cross-entropy from above, (N,), from a lower bound of <weights, m>, (N,)."""
        own, heights = torch.exp(-self.shift), self._heights().sum(dim=1)
        saved = (line - (self.weights * self.lower).sum(dim=1)).clamp_min(0.0)
        # rounding must not leave less than the least sum that the intervals allow
        floor = torch.finfo(heights.dtype).eps * heights.detach()
        return self.shift + torch.log((own + heights - saved).clamp_min(floor))
