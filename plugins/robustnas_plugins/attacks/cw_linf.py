"""CW-linf: the margin loss of Carlini and Wagner, raised by PGD steps in the l_inf ball.

    max over x in ball and box of   max_{j != y} f_j(x) - f_y(x)

Unlike the cross-entropy, the margin's gradient does not vanish where the network is sure.  Their own l_inf attack looks
for the nearest image instead; the form in a ball is the one of Madry et al. 2018, arXiv:1706.06083, section 5.
Source of the loss: Carlini and Wagner 2017, arXiv:1608.04644, f_6 without confidence.
"""

from __future__ import annotations

from attrs import frozen

from robustnas.options import MISSING, option
from robustnas_plugins.attacks.gradient_steps import RESTARTS, GradientSteps, step_size_option
from robustnas_plugins.attacks.losses import margin


@frozen
class MarginPGD(GradientSteps):
    """PGD on the margin of the logits, in l_inf, from random images of the ball."""

    name = "cw-linf"
    norms = ("linf",)
    instead = "cw is its kin in l2, and apgd-dlr raises a margin in every norm"
    loss = staticmethod(margin)
    random_start = True

    steps: int = option(MISSING, "steps of one run", at_least=1)
    step_size: float = step_size_option()
    restarts: int = option(1, RESTARTS, at_least=1)
