"""The cross-entropy of a plain pass mixed with that of the worst logits that bounds allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from attrs import frozen
from torch import Tensor, nn

from robustnas.bounds.margins import wrong_classes
from robustnas.bounds.rectified import Interval, rectified
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.nn.batch_statistics import noted_statistics
from robustnas.runtime.precision import single


@frozen(eq=False)
class Worst:
    """What bounds allow at worst.

    Args:
        loss: scalar, the mean over the images.
        right: (N,) whether an image is right whatever they allow.
    """

    loss: Tensor
    right: Tensor

    @classmethod
    def of(cls, margins: Tensor, labels: Tensor, context: TrainingContext) -> Self:
        """From lower bounds of the margins, (N, K - 1)."""
        return cls(context.loss(worst_logits(margins, labels), labels), (margins.detach() > 0).all(dim=1))


def beside_bounds(
    network: nn.Module,
    seen: Tensor,
    labels: Tensor,
    context: TrainingContext,
    bounds: Callable[[], Worst] | None,
    weight: float,
    terms: Callable[[Sequence[Interval]], Tensor] | None = None,
    figure: str = "certified",
) -> TrainingLoss:
    """(1 - weight) times the plain loss of the images `seen`, plus weight times the loss that bounds allow.

    Bounds are of the network in eval mode (no drop-path, no dropout) with the statistics of the pass over `seen`,
    through which gradients pass (`robustnas.nn.batch_statistics`), and float32 whatever the precision.

    Args:
        network: in training mode.
        seen: (N, C, H, W) images in [0, 1].
        labels: (N,).
        context: of the step.
        bounds: bounds the network; None where there is nothing to bound, and the loss is the plain one.
        weight: of the bounds' loss.
        terms: what the intervals in front of rectifiers add to the loss, a scalar.
        figure: name of the figure that tells for each image whether it is right whatever the bounds allow.
    """
    noted = context.hold(noted_statistics(network))
    with noted.watched():
        plain, logits = context.plain(network, seen, labels)
    if bounds is None:
        return TrainingLoss(plain, logits, {figure: logits.detach().argmax(1) == labels})
    with noted.lent(), single(seen.device):
        if terms is None:
            worst = bounds()
        else:
            with rectified() as intervals:
                worst = bounds()
            plain = plain + terms(intervals)
    # only the plain loss includes the auxiliary head's, so the head never sees bounds
    mixed = plain + weight * (worst.loss - context.loss(logits, labels))
    return TrainingLoss(mixed, logits, {figure: worst.right})


def worst_logits(bounds: Tensor, labels: Tensor) -> Tensor:
    """0 for the true class and minus its margin's bound for any other: (N, K - 1), (N,) -> (N, K)."""
    classes = bounds.shape[1] + 1
    return bounds.new_zeros(len(labels), classes).scatter(1, wrong_classes(labels, classes), -bounds)
