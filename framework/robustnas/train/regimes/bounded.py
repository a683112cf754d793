"""The cross-entropy of a plain pass mixed with that of the worst logits that bounds allow."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robustnas.bounds.margins import wrong_classes
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.nn.batch_statistics import noted_statistics
from robustnas.runtime.precision import single


def beside_bounds(
    network: nn.Module,
    seen: Tensor,
    labels: Tensor,
    context: TrainingContext,
    bounds: Callable[[], Tensor] | None,
    weight: float,
    figure: str = "certified",
) -> TrainingLoss:
    """(1 - weight) times the plain loss of the images `seen`, plus weight times that of the worst bounded logits.

    Bounds are of the network in eval mode (no drop-path, no dropout) with the statistics of the pass over `seen`,
    through which gradients pass (`robustnas.nn.batch_statistics`), and float32 whatever the precision.

    Args:
        network: in training mode.
        seen: (N, C, H, W) images in [0, 1].
        labels: (N,).
        context: of the step.
        bounds: computes lower bounds of the margins, (N, K - 1); None where there is nothing to bound, and the loss is
            the plain one.
        weight: of the bounds' loss.
        figure: name of the figure that tells for each image whether its worst logits are right.
    """
    noted = context.hold(noted_statistics(network))
    with noted.watched():
        plain, logits = context.plain(network, seen, labels)
    if bounds is None:
        return TrainingLoss(plain, logits, {figure: logits.detach().argmax(1) == labels})
    with noted.lent(), single(seen.device):
        proved = bounds()
        worst = context.loss(worst_logits(proved, labels), labels)
    # only the plain loss includes the auxiliary head's, so the head never sees bounds
    mixed = plain + weight * (worst - context.loss(logits, labels))
    return TrainingLoss(mixed, logits, {figure: (proved.detach() > 0).all(dim=1)})


def worst_logits(bounds: Tensor, labels: Tensor) -> Tensor:
    """0 for the true class and minus its margin's bound for any other: (N, K - 1), (N,) -> (N, K)."""
    classes = bounds.shape[1] + 1
    return bounds.new_zeros(len(labels), classes).scatter(1, wrong_classes(labels, classes), -bounds)
