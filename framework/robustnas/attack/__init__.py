"""Attacks on a network, judged here: an attack proposes images, this package decides what they prove.

The attack sees a frozen network in eval mode, in float32, on a stated device; only images that are right when
clean are attacked.  The images it returns are checked (finite, in the box, inside the ball) and judged by a forward
pass of the harness.  Foolbox's own verdicts (`attack(...)`) are not used, because they count NaN images and images
that were wrong when clean as successes.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.attack.conditions import Conditions
    from robustnas.attack.evaluation import evaluate
    from robustnas.attack.judge import TOLERANCE
    from robustnas.attack.network import predict
    from robustnas.attack.outcomes import Outcomes, robust

__all__ = ["TOLERANCE", "Conditions", "Outcomes", "evaluate", "predict", "robust"]

__getattr__ = facade(
    __name__,
    TOLERANCE="judge",
    Conditions="conditions",
    Outcomes="outcomes",
    evaluate="evaluation",
    predict="network",
    robust="outcomes",
)
