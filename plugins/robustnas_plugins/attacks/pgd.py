"""PGD: steps along the gradient of the cross-entropy, each projected back into the ball.

Source: Madry et al. 2018, arXiv:1706.06083.  Steps and step size are both required: a default step tuned for
one number of steps makes the attack almost harmless at another.  With a step size s, `steps * s` of at least
1.5 epsilon lets every start reach the whole ball.
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import instance_of

from robustnas.options import MISSING, option
from robustnas_plugins.attacks.gradient_steps import RESTARTS, GradientSteps, step_size_option


@frozen
class PGD(GradientSteps):
    """Projected gradient descent, in l_inf (signs of the gradient), l_2 (normalised gradient) or l_1 (few pixels)."""

    steps: int = option(MISSING, "steps of one run", at_least=1)
    step_size: float = step_size_option(", in the threat's norm (l1: summed over pixels)")
    restarts: int = option(1, RESTARTS, at_least=1)
    random_start: bool = option(True, "start at a random image of the ball instead of the clean one", instance_of(bool))

    def __attrs_post_init__(self) -> None:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts above 1 need random_start: true; without it every run is the same")
