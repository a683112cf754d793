"""What the two levels minimise, metrics included.

    inner   L_train(w, alpha)                            or a metric's `inner_loss`
    outer   L_val(w, alpha) - sum_i gamma_i * weight_i * mean over images of score_i
            with a metric's `outer_loss` for L_val where it has one; gamma_i is one number, or `balancing` chooses it

Source: Hosseini et al. 2021 (DSRNA), arXiv:2012.06122, eq. 16; a weighted list of metrics is its
DSRNA-Combined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor

from robustnas.contracts import Context
from robustnas.data.batches import Batch, Part
from robustnas.errors import OptionError, PluginError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.registry import METRICS
from robustnas.runtime.precision import Precision, mixed, single
from robustnas.search.balance import Balance
from robustnas.search.balancing import Balancing, Pull
from robustnas.search.compiled import Compiled
from robustnas.threat import ThreatModel


@frozen(eq=False)
class Objective:
    """The metrics of a method, and how much their scores count.

    Args:
        metrics: (weight, metric) pairs.
        threat: the threat model they are given.
        gamma: weight of their scores together; at 0 no score is computed.  A `Balance` has one for each score, which
            follows the gradients.
        precision: of the losses' passes; scores are float32.
        compiled: replaces the supernet in plain passes; None uses the supernet itself.

    Raises:
        OptionError: two metrics replace the loss of one level, or a weight has nothing to weigh.
    """

    metrics: tuple[tuple[float, Any], ...] = field()
    threat: ThreatModel
    gamma: float | Balance
    precision: Precision = "float32"
    compiled: Compiled | None = None
    balancing: Balancing | None = field(init=False)

    @balancing.default
    def _balanced(self) -> Balancing | None:
        return Balancing(self.gamma.balance, len(self.scores)) if isinstance(self.gamma, Balance) else None

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
    def names(self) -> tuple[str, ...]:
        """What the metrics of `scores` are called in a recipe; the second of a name has ` 2` behind it."""
        names = [_name(metric) for _, metric in self.scores]
        before = [names[:place].count(name) for place, name in enumerate(names)]
        return tuple(f"{name} {count + 1}" if count else name for name, count in zip(names, before, strict=True))

    def gammas(self, like: Tensor) -> Tensor:
        """The factor of each score in this step: (n,), of the type and on the device of `like`."""
        if self.balancing is not None:
            return self.balancing.gammas(like)
        assert not isinstance(self.gamma, Balance)
        return like.new_full((len(self.scores),), self.gamma)

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


def _name(metric: Any) -> str:
    """What a recipe calls a metric; the name of its class where it is registered nowhere."""
    try:
        return METRICS.entry_of(type(metric)).name
    except PluginError:
        return type(metric).__name__


@frozen(eq=False)
class Validation:
    """Figures of an outer pass over the whole batch: scalars on the device, without a graph.

    `floored` is the share of images whose score is at its lower limit, where a metric tells it; of several metrics the
    largest share.  `scores` are the means of each score, (n,); `pull` says how hard the terms pull at alpha.
    """

    loss: Tensor
    accuracy: Tensor
    robustness: Tensor | None
    floored: Tensor | None = None
    scores: Tensor | None = None
    pull: Pull | None = None


@define(eq=False)
class GradientSum:
    """Gradients of a sum, given term by term: the graph of one is gone before the next is built.

    Args:
        inputs: what to differentiate in.
        apart: places of the inputs whose gradients are kept for each term as well, in `terms`.
    """

    inputs: list[Tensor]
    retain_graph: bool = False
    apart: Sequence[int] = ()
    gradients: list[Tensor] = field(factory=list)
    terms: dict[int, list[Tensor]] = field(factory=dict)

    def add(self, term: Tensor, number: int = 0) -> None:
        """Add the gradients of a scalar: a part's share of the term of this number."""
        gradients = torch.autograd.grad(
            term, self.inputs, retain_graph=self.retain_graph, allow_unused=True, materialize_grads=True
        )
        self.gradients = _added(self.gradients, gradients)
        if self.apart:
            self.terms[number] = _added(self.terms.get(number, []), [gradients[place] for place in self.apart])


def _added(total: Sequence[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(total, more, strict=True)] if total else list(more)


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
    minimise: Callable[[Tensor, int], None],
) -> Validation:
    """L_val - gamma * R at the weights and alpha the supernet holds, over the parts at hand.

    Batch norm: L_val is computed in training mode, R in eval mode with the statistics of this part, as
    constants. The statistics are those of the clean images, even where an `outer_loss` changes the images.  Running
    statistics stay as they are.

    Args:
        minimise: is called with a part's share of each term of the objective, a scalar, and the number of the term (the
            loss is 0), as soon as it exists; they add up to the objective.

    Raises:
        PluginError: a score of the wrong shape, or one that no gradient can flow through.
    """
    scores = objective.scores
    with scratch_statistics(supernet, biased=bool(scores)):
        seen = [_validate_part(objective, supernet, part, context, minimise) for part in batch]
    robustness = [part.robustness for part in seen if part.robustness is not None]
    floored = [part.floored for part in seen if part.floored is not None]
    means = [part.scores for part in seen if part.scores is not None]
    return Validation(
        torch.stack([part.loss for part in seen]).sum(),
        torch.stack([part.accuracy for part in seen]).sum(),
        torch.stack(robustness).sum() if robustness else None,
        torch.stack(floored).sum() if floored else None,
        torch.stack(means).sum(dim=0) if means else None,
    )


def _validate_part(
    objective: Objective,
    supernet: PixelSupernet,
    part: Part,
    context: Context,
    minimise: Callable[[Tensor, int], None],
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
    minimise(loss, 0)
    if metric is not None:
        with torch.no_grad(), mixed(objective.precision, images.device):
            logits = supernet(images)
    accuracy = part.share * (logits.detach().argmax(dim=1) == labels).float().mean()
    robustness = floored = None
    means: list[Tensor] = []
    balancing = objective.balancing
    gammas: Any = repeat(objective.gamma) if balancing is None else balancing.gammas(images)
    for number, (gamma, (weight, entry)) in enumerate(zip(gammas, objective.scores, strict=False), 1):
        metric = entry.at(context.progress) if _has(entry, "at") else entry
        with frozen_statistics(supernet), single(images.device):
            score = metric.score(supernet, images, labels, objective.threat)
        _check_score(score, len(images), entry)
        mean = part.share * weight * score.mean()
        robustness = mean.detach() if robustness is None else robustness + mean.detach()
        if _has(metric, "floored"):
            least = part.share * metric.floored(score.detach()).float().mean()
            floored = least if floored is None else torch.maximum(floored, least)
        means.append(part.share * score.detach().mean())
        minimise(-gamma * mean, number)
        del score, mean  # frees their graph before the next score builds its own
    return Validation(loss.detach(), accuracy, robustness, floored, torch.stack(means) if means else None)


def _check_score(score: Tensor, count: int, metric: Any) -> None:
    name = type(metric).__name__
    if score.shape != (count,):
        raise PluginError(f"metric {name}: score of {count} images must be ({count},), found {tuple(score.shape)}")
    if not score.requires_grad:
        raise PluginError(
            f"metric {name}: no gradient flows through its score; compute it from the network's output "
            "without detach, no_grad or .item()"
        )
