"""An order of the search: first order, with a limit on how hard one batch may pull at alpha."""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt

from robustnas.options import option
from robustnas.search.hypergradient.step import Hypergradient, Step


@frozen
class Example:
    """The partial gradient, its norm at most `norm`; name the paper and its arXiv number here."""

    norm: float = option(5.0, "largest norm", gt(0.0), converter=float)

    contract = 1

    def gradient(self, step: Step) -> Hypergradient:
        """For one step of the search: one tensor a table of alpha, of its shape."""
        found = step.outer_gradient(step.alpha)
        length = torch.stack([gradient.norm() for gradient in found.gradients]).norm()
        shrink = (self.norm / length).clamp(max=1)
        return Hypergradient([shrink * gradient for gradient in found.gradients], found.validation)
