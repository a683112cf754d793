"""Attacks on a network, judged here: an attack proposes images, this package decides what they prove.

    network.py     the network as it is looked at: frozen, float32, on its device, images counted
    untouched.py   that it stays the same network while it is attacked
    judge.py       what a proposed image proves, or why it is refused
    runner.py      how each kind of foolbox attack is run on a batch
    record.py      what an attack did, image by image
    evaluation.py  one attack at one radius
    radii.py       one attack at several radii, from small to large
    columns.py     the records of a stage as a file of columns
    progress.py    what is done of an attack that was interrupted

The attack sees a frozen network in eval mode, in float32, on a stated device; only images that are right when
clean are attacked.  What it returns is checked (finite, an image, inside the ball) and judged by a forward
pass of our own.  Foolbox's own bookkeeping (`attack(...)`) is passed by: it counts NaN images and images
that were wrong anyway as successes.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.attack.evaluation import evaluate
    from robustnas.attack.judge import TOLERANCE
    from robustnas.attack.network import predict
    from robustnas.attack.record import AttackRecord, robust

__all__ = ["TOLERANCE", "AttackRecord", "evaluate", "predict", "robust"]

__getattr__ = facade(
    __name__,
    TOLERANCE="judge",
    AttackRecord="record",
    evaluate="evaluation",
    predict="network",
    robust="record",
)
