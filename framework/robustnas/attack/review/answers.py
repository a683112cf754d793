"""Warns of a network's answers before any attack: of random ones, of probabilities, and of those that ignore the image.

Robustness is cheap where nothing was learned: one answer for all images withstands every attack on those of that class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustnas.attack.outcomes import Array
from robustnas.attack.review.evidence import CHANCE, at_least
from robustnas.attack.review.flag import Flag

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-5
"""Two passes of one batch may differ by this share of an image's largest logit, because sums change their order."""

TO_ONE = 1e-4
"""The sum of probabilities may miss 1 by so much, by rounding."""


def randomised(first: Tensor, second: Tensor) -> list[Flag]:
    """Warn where two passes of the same images, (n, K) logits each, differ by more than rounding."""
    apart = (first - second).abs().amax(dim=1)
    wrong = int((apart > ROUNDING * first.abs().amax(dim=1)).sum())
    if wrong == 0:
        return []
    text = (
        f"two passes of the same batch differ on {wrong} of {len(first)} images, by up to {float(apart.max()):.3g}: "
        "an attack follows gradients of a network that is gone at the next pass; "
        "expectation over transformation, which averages gradients over many passes, would do"
    )
    return [Flag("randomised-output", text)]


def probabilities(logits: Tensor) -> list[Flag]:
    """Warn where all rows of (n, K) outputs lie in [0, 1] and sum to 1.

    Logits can be so by chance only where there is one class.
    """
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    if logits.shape[1] < 2 or not inside or not bool(((logits.sum(dim=1) - 1).abs() <= TO_ONE).all()):
        return []
    text = (
        f"the outputs for all {len(logits)} images lie in [0, 1] and sum to 1: losses of logits are flat on "
        "probabilities, and attacks fail for that alone; the values before the softmax would do"
    )
    return [Flag("probabilities-for-logits", text)]


def blind(predictions: Array, labels: Array, attack: str | None = None) -> list[Flag]:
    """Warn where the network always gives the same answer, or does no better than a constant answer would.

    The best constant answer is the class most frequent among the images.  A network is above chance where a one-sided
    binomial test at level `CHANCE` says that it is right with a larger probability than that answer.  Where images are
    too few for the test to succeed even if all are right, the network only has to be right more often than the answer.

    Args:
        predictions: (N,) classes of the clean images; negative for none.
        labels: (N,) their true classes.
        attack: the attack that the flags are about, as in `Flag`.
    """
    count, right = len(labels), int((predictions == labels).sum())
    classes, images = np.unique(labels, return_counts=True)
    most, flags = int(images.max()), []
    if len(classes) > 1 and bool((predictions == predictions[0]).all()):
        what = f"class {int(predictions[0])}" if int(predictions[0]) >= 0 else "none"
        text = (
            f"the answer is {what} for all {count} images: what is right stays right under any attack, and says "
            "nothing of robustness; a network that has learned to tell the classes apart would do"
        )
        flags.append(Flag("constant-answer", text, attack))
    share = most / count
    chance = at_least(right, count, share)
    if right <= most or (chance >= CHANCE and at_least(count, count, share) < CHANCE):
        text = (
            f"{right} of {count} clean images are right, and {most} would be if the answer were always class "
            f"{int(classes[images.argmax()])} (as many or more by chance: {chance:.1g}): robustness of so little says "
            "nothing; longer training, or more images where it is better than that, would do"
        )
        flags.append(Flag("chance-level", text, attack))
    return flags
