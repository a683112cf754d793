"""MI-FGSM: steps along a running sum of gradients, from the clean image.

    g <- decay g + gradient / ||gradient||_1          x <- project(x + step along g)

Source: Dong et al. 2018, arXiv:1710.06081, algorithm 1, which takes steps of epsilon / steps and a decay of 1; its
section 3.3 has the form in l_2.
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import ge

from robustnas.options import MISSING, option
from robustnas_plugins.attacks.gradient_steps import GradientSteps, step_size_option


@frozen
class MomentumFGSM(GradientSteps):
    """Momentum iterative fast gradient method, in l_inf or l_2."""

    name = "mi-fgsm"
    norms = ("linf", "l2")
    instead = "in l1 pgd and apgd-ce would do"

    steps: int = option(MISSING, "steps", at_least=1)
    step_size: float = step_size_option(", in the threat's norm")
    momentum: float = option(
        1.0, "decay of the gradients of earlier steps; 0 is the plain iterative method", ge(0.0), converter=float
    )
