"""Attacks on a network, judged here: an attack proposes images, this package decides what they prove.

    column.py      an attack of a recipe as plain data: how it is run and shown
    conditions.py  how an attack is run, and what is known of the images beforehand
    network.py     the network as attacks see it: frozen, float32, on its device, images counted
    untouched.py   checks that the network stays the same while it is attacked
    judge.py       what a proposed image proves, or why it is refused
    runner.py      how each kind of foolbox attack is run on a batch
    outcomes.py    what an attack did, image by image, in memory and as a file
    evaluation.py  one attack at one radius
    radii.py       one attack at several radii, from small to large
    progress.py    what is done of an attack that was interrupted

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
