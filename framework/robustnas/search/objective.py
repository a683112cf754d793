"""What the two levels minimise, metrics included.

    inner   L_train(w, alpha)                            or a metric's `inner_loss`
    outer   L_val(w, alpha) - gamma * sum_i weight_i * mean over images of score_i
            with a metric's `outer_loss` for L_val where it has one

Source: Hosseini et al. 2021 (DSRNA), arXiv:2012.06122, eq. 16; a weighted list of metrics is its
DSRNA-Combined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from robustnas.contracts import Context
from robustnas.data.batches import Batch, Part
from robustnas.errors import OptionError, PluginError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.precision import Precision, mixed, single
from robustnas.search.compiled import Compiled
from robustnas.threat import ThreatModel


@frozen(eq=False)
class Objective:
    """The metrics of a method, and how much their scores count.

    Args:
        metrics: (weight, metric) pairs.
        threat: the threat model they are given.
        gamma: weight of their scores together; at 0 no score is computed.
        precision: of the losses' passes; scores are float32.
        compiled: replaces the supernet in plain passes; None uses the supernet itself.

    Raises:
        OptionError: two metrics replace the loss of one level, or a weight has nothing to weigh.
    """

    metrics: tuple[tuple[float, Any], ...] = field()
    threat: ThreatModel
    gamma: float
    precision: Precision = "float32"
    compiled: Compiled | None = None

    @metrics.validator
    def _compatible(self, attribute: object, metrics: tuple[tuple[float, Any], ...]) -> None:
        for part in ("inner_loss", "outer_loss"):
            owners = [type(metric).__name__ for _, metric in metrics if _has(metric, part)]
            if len(owners) > 1:
                raise OptionError(f"metrics {' and '.join(owners)} both replace the {part.replace('_', ' ')}: keep one")
        for weight, metric in metrics:
            if weight != 1 and not _has(metric, "score"):
                raise OptionError(
                    f"metric {type(metric).__name__} has no score to weigh, found weight {weight:g}: remove the weight"
                )

    def logits(self, supernet: PixelSupernet, images: Tensor) -> Tensor:
        """A plain pass: (N, C, H, W) -> (N, K)."""
        logits: Tensor = supernet(images) if self.compiled is None else self.compiled(images)
        return logits

    @property
    def scores(self) -> list[tuple[float, Any]]:
        """The metrics whose scores count."""
        return [(weight, metric) for weight, metric in self.metrics if _has(metric, "score")] if self.gamma else []

    @property
    def plain_inner(self) -> bool:
        """Whether the inner level is the plain loss: then nothing in it differentiates in alpha."""
        return self.owner("inner_loss") is None

    @property
    def plain_outer(self) -> bool:
        """Whether the outer level is the plain loss alone."""
        return self.owner("outer_loss") is None and not self.scores

    def owner(self, part: str) -> Any | None:
        """The metric that replaces this part (`inner_loss` or `outer_loss`), if any."""
        return next((metric for _, metric in self.metrics if _has(metric, part)), None)


def _has(metric: Any, part: str) -> bool:
    return callable(getattr(metric, part, None))


@frozen(eq=False)
class Validation:
    """Figures of an outer pass over the whole batch: scalars on the device, without a graph.

    `floored` is the share of images whose score is at its lower limit, where a metric tells it; of several metrics the
    largest share.
    """

    loss: Tensor
    accuracy: Tensor
    robustness: Tensor | None
    floored: Tensor | None = None


@define(eq=False)
class GradientSum:
    """Gradients of a sum, given term by term: the graph of one is gone before the next is built."""

    inputs: list[Tensor]
    retain_graph: bool = False
    gradients: list[Tensor] = field(factory=list)

    def add(self, term: Tensor) -> None:
        """Add the gradients of a scalar."""
        gradients = torch.autograd.grad(
            term, self.inputs, retain_graph=self.retain_graph, allow_unused=True, materialize_grads=True
        )
        self.gradients = (
            [a + b for a, b in zip(self.gradients, gradients, strict=True)] if self.gradients else list(gradients)
        )


def training_loss(
    objective: Objective,
    supernet: PixelSupernet,
    part: Part,
    context: Context,
    *,
    precise: bool = False,
    twice: bool = False,
) -> Tensor:
    """The part's share of L_train at the weights and alpha the supernet holds: a scalar with its graph.

    Args:
        precise: in float32 whatever the precision of plain passes, as differences and second derivatives need it.
        twice: the loss will be differentiated twice, which compiled code cannot be.
    """
    device = part.images.device
    metric = objective.owner("inner_loss")
    with single(device) if precise else mixed(objective.precision, device):
        if metric is None:
            logits = supernet(part.images) if twice else objective.logits(supernet, part.images)
            loss = context.loss(logits, part.labels)
        else:
            loss = metric.inner_loss(supernet, part.images, part.labels, objective.threat, context)
    return part.share * loss


def validate(
    objective: Objective,
    supernet: PixelSupernet,
    batch: Batch,
    context: Context,
    minimise: Callable[[Tensor], None],
) -> Validation:
    """L_val - gamma * R at the weights and alpha the supernet holds, over the parts at hand.

    Batch norm: L_val is computed in training mode, R in eval mode with the statistics of this part, as
    constants. The statistics are those of the clean images, even where an `outer_loss` changes the images.  Running
    statistics stay as they are.

    Args:
        minimise: is called with each term of the objective, a scalar, as soon as it exists; the terms add up to it.

    Raises:
        PluginError: a score of the wrong shape, or one that no gradient can flow through.
    """
    scores = objective.scores
    with scratch_statistics(supernet, biased=bool(scores)):
        seen = [_validate_part(objective, supernet, part, context, minimise) for part in batch]
    robustness = [part.robustness for part in seen if part.robustness is not None]
    floored = [part.floored for part in seen if part.floored is not None]
    return Validation(
        torch.stack([part.loss for part in seen]).sum(),
        torch.stack([part.accuracy for part in seen]).sum(),
        torch.stack(robustness).sum() if robustness else None,
        torch.stack(floored).sum() if floored else None,
    )


def _validate_part(
    objective: Objective,
    supernet: PixelSupernet,
    part: Part,
    context: Context,
    minimise: Callable[[Tensor], None],
) -> Validation:
    """Compute the part's share of every term."""
    images, labels = part.images, part.labels
    metric = objective.owner("outer_loss")
    with mixed(objective.precision, images.device):
        if metric is None:
            logits = objective.logits(supernet, images)
            loss = part.share * context.loss(logits, labels)
        else:
            loss = part.share * metric.outer_loss(supernet, images, labels, objective.threat, context)
    minimise(loss)
    if metric is not None:
        with torch.no_grad(), mixed(objective.precision, images.device):
            logits = supernet(images)
    accuracy = part.share * (logits.detach().argmax(dim=1) == labels).float().mean()
    robustness = floored = None
    for weight, entry in objective.scores:
        metric = entry.at(context.progress) if _has(entry, "at") else entry
        with frozen_statistics(supernet), single(images.device):
            score = metric.score(supernet, images, labels, objective.threat)
        _check_score(score, len(images), entry)
        mean = part.share * weight * score.mean()
        robustness = mean.detach() if robustness is None else robustness + mean.detach()
        if _has(metric, "floored"):
            least = part.share * metric.floored(score.detach()).float().mean()
            floored = least if floored is None else torch.maximum(floored, least)
        minimise(-objective.gamma * mean)
        del score, mean  # frees their graph before the next score builds its own
    return Validation(loss.detach(), accuracy, robustness, floored)


def _check_score(score: Tensor, count: int, metric: Any) -> None:
    name = type(metric).__name__
    if score.shape != (count,):
        raise PluginError(f"metric {name}: score of {count} images must be ({count},), found {tuple(score.shape)}")
    if not score.requires_grad:
        raise PluginError(
            f"metric {name}: no gradient flows through its score; compute it from the network's output "
            "without detach, no_grad or .item()"
        )
