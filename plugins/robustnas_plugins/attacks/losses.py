"""What gradient attacks raise: functions of the logits, one value an image, larger is nearer to being fooled.

    cross_entropy     -log softmax(z)_y
    margin            max_{j != y} z_j - z_y
    dlr               the margin over z_(1) - z_(3); with two classes the margin
    targeted_dlr      z_t - z_y over z_(1) - (z_(3) + z_(4)) / 2; with fewer than four classes z_t - z_y

z are the logits, y the label, t a target class, z_(k) the k-th largest logit.  A ratio of differences does not change
when all logits are scaled or shifted, as the cross-entropy does, whose gradient vanishes where logits are large.  With
too few classes for a ratio the difference alone has a gradient everywhere too; over what is left of the denominator it
would be constant.

Sources: margin, Carlini and Wagner 2017, arXiv:1608.04644, f_6; the ratios, Croce and Hein 2020, arXiv:2003.01690,
section 4.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from robustnas.nn.margin import margin_to_best_other

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(n, K) logits, (n,) labels, (n,) target classes -> (n,); an untargeted loss does not look at the targets."""

SMALLEST = 1e-12
"""Added to denominators, as the reference implementation does: equal logits must not divide by 0."""


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy, (n,), at least 0."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The lead of the best other class over the label, (n,) logits, above 0 where the image is fooled.

    The attack of the source stops raising it at a confidence; here a fooled image leaves, so there is nothing to stop.
    """
    return -margin_to_best_other(logits, labels)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The margin over a difference of logits, (n,), above 0 where the image is fooled."""
    if logits.shape[1] < 3:
        return margin(logits, labels, targets)
    top = logits.topk(3, dim=1).values
    return margin(logits, labels, targets) / (top[:, 0] - top[:, 2] + SMALLEST)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's lead over a difference of logits, (n,), above 0 where it leads the label."""
    towards = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    if logits.shape[1] < 4:
        return towards
    top = logits.topk(4, dim=1).values
    return towards / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + SMALLEST)
