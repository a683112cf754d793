"""What the network's answers tell before any attack: that they are random, or that they are no logits."""

from __future__ import annotations

from torch import Tensor

from robustnas.review.flag import Flag

ROUNDING = 1e-5
"""What two passes of one batch may differ by, as a share of the image's largest logit: sums in another order."""

TO_ONE = 1e-4
"""What probabilities may miss a sum of 1 by."""


def randomised(first: Tensor, second: Tensor) -> list[Flag]:
    """Two passes of the same images, (n, K) logits each: do they differ by more than rounding?"""
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
    """(n, K): do all rows lie in [0, 1] and sum to 1?

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
