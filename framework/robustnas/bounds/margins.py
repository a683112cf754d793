"""Lower bounds of linear functions of the logits over all admissible images: the largest of a method's passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from robustnas.bounds.branching import Completed, complete
from robustnas.bounds.branching.bounding import in_front
from robustnas.bounds.branching.problem import Problem
from robustnas.bounds.functions import clean_logits, drops_below_clean, interval_bound, lower_bounds
from robustnas.bounds.fused import Fused
from robustnas.bounds.inputs import check_labels, checked, of_functions
from robustnas.bounds.methods import BoundMethod, Branching, CrownIBP, bound_method
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Network, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.settled import Settled
from robustnas.bounds.value import Value
from robustnas.errors import InputError
from robustnas.nn.margin import other_logits
from robustnas.threat import ThreatModel


def margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """Lower bounds of the margins f_y - f_j over the threat model's images.

    Differentiable in whatever the network computes with (weights, alpha, mixing weights), when gradients are
    enabled at the call.

    Args:
        network: in eval mode; maps images (N, C, H, W) to logits (N, K), every image for itself.
        images: (N, C, H, W) or (N, d), in [0, 1], float32 or float64.
        labels: (N,) true classes.
        method: one of METHODS, or an object of `methods.py`.
        targets: `all` wrong classes, or the `strongest` one at the clean image.

    Returns:
        (N, K - 1) in logits, columns in the order of the classes without the true one; (N, 1) for
        `strongest`. Never NaN: a bound that cannot be computed in this number format is -inf.

    Raises:
        UnsupportedOpError: the network uses a function without a rule, or is in training mode.
        InputError: images, labels, method or targets are not as above.
    """
    return margins_within(network, images, labels, threat.norm, _same(images, threat), method, targets)


def margins_within(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """As `margins`, with a radius for each image: epsilon (N,), pixel units, in which it is differentiable too."""
    method = bound_method(method)
    if isinstance(method, Branching):
        return completed_within(network, images, labels, norm, epsilon, method, targets).margins
    bounds, _ = _margins(network, images, labels, norm, epsilon, method, targets)
    return reduce(torch.maximum, bounds)


def completed_within(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: Branching | None = None,
    targets: str = "all",
    worth: Tensor | None = None,
    slack: Tensor | None = None,
) -> Completed:
    """Verify margins by branch and bound, as far as the budget goes; without a graph, whatever the gradient mode.

    Args:
        network, images, labels, norm, epsilon, targets: as for `margins_within`.
        method: with the budget of an image; default `Branching()`.
        worth: (N,) bool: the images to verify beyond what `crown` proves; default all that are classified rightly.
        slack: (N,) by how much the caller will lower bounds for rounding; default 0.

    Raises:
        UnsupportedOpError, InputError: as `margins`; also a network that ends in a softmax.
    """
    method, settled = Branching() if method is None else method, Settled()
    with torch.no_grad():
        known, logits = _margins(network, images, labels, norm, epsilon, method, targets, settled)
        in_front(logits)
        functions = _margin_rows(logits, labels, targets)
        right = (functions @ clean_logits(logits).detach().unsqueeze(2)).squeeze(2).amin(dim=1) > 0
        problem = Problem(network, images, norm, epsilon, functions, settled.found)
        lowered = torch.zeros_like(epsilon) if slack is None else slack
        chosen = right if worth is None else right & worth
        return complete(problem, reduce(torch.maximum, known), chosen, lowered, method)


def margins_and_logits(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> tuple[Tensor, Tensor]:
    """As `margins_within`, and the logits (N, K) at the clean images, for which no pass of their own is made."""
    bounds, logits = _margins(network, images, labels, norm, epsilon, method, targets)
    return reduce(torch.maximum, bounds), _logits_at(network, images, logits)


def interval_and_linear_margins(
    network: Network, images: Tensor, labels: Tensor, norm: str, epsilon: Tensor
) -> tuple[Tensor, Tensor]:
    """Margins of the methods `ibp` and `crown-ibp`, (N, K - 1) each, from one pass: arguments and errors of
    `margins_within`."""
    (intervals, *others), _ = _margins(network, images, labels, norm, epsilon, CrownIBP(), "all")
    return intervals, reduce(torch.maximum, others, intervals)


def interval_margins_and_loss(
    network: Network, images: Tensor, labels: Tensor, norm: str, epsilon: Tensor
) -> tuple[Tensor, Tensor]:
    """Margins of the method `ibp`, (N, K - 1), and upper bounds of the cross-entropy of the margins, (N,), by one
    backward pass of `crown-ibp` for all classes (`fused.py`): arguments and errors of `margins_within`.

    The loss is not above that of the intervals' margins.
    """
    checked(network, images, norm, CrownIBP())
    check_labels(images, labels, "all")
    (kind,) = CrownIBP.passes
    logits = _before_logarithm(bounded_logits(Propagation(network, Region(images, norm, epsilon), kind)))
    functions = _margin_rows(logits, labels, "all")
    least, most = interval_bound(logits, functions), -interval_bound(logits, -functions)
    with logits.propagation.intervals():
        fused = Fused(least, most)
        row = fused.weights[:, None] @ functions
    _, line = lower_bounds(logits, row)
    return least, fused.loss(torch.where(line.isnan(), -torch.inf, line)[:, 0])


def linear_bounds(
    network: Network, images: Tensor, coefficients: Tensor, threat: ThreatModel, method: str | BoundMethod = "crown-ibp"
) -> Tensor:
    """Lower bounds of linear functions of the logits, <c, f(x)>, over the threat model's images.

    Args:
        network, images, method: as for `margins`.
        coefficients: (S, K), or (N, S, K) where each image has its own.  Their negatives give upper bounds.

    Returns:
        (N, S), never NaN.

    Raises:
        UnsupportedOpError: as `margins`.
        InputError: as `margins`, or coefficients of another shape.
    """
    method = of_functions(checked(network, images, threat.norm, method))

    def functions_of(logits: Value) -> Tensor:
        count, classes = logits.centre.shape
        functions = coefficients.to(logits.centre)
        if functions.dim() == 2:
            functions = functions.expand(count, *functions.shape)
        shape = functions.shape
        if functions.dim() != 3 or shape[0] != count or shape[2] != classes or shape[1] == 0:
            found, wanted = tuple(coefficients.shape), f"(S, {classes}) or ({count}, S, {classes})"
            raise InputError(f"coefficients have shape {found}; expected {wanted}, S linear functions of the logits")
        return functions

    region = Region(images, threat.norm, _same(images, threat))
    bounds, _ = _lower(network, region, functions_of, method, keeps_clean=False)
    return reduce(torch.maximum, bounds)


def log_widths(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """Natural logarithms of how far `margins`, whose arguments these are, lie below the margins at the clean images.

    Finite at any depth: intervals are carried with an exponent (`scale.py`).  A width of 0 has the logarithm of the
    smallest number.
    """
    return log_widths_within(network, images, labels, threat.norm, _same(images, threat), method, targets)


def log_widths_within(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """As `log_widths`, with a radius for each image: epsilon (N,), pixel units, in which it is differentiable too."""
    return log_widths_and_logits(network, images, labels, norm, epsilon, method, targets)[0]


def log_widths_and_logits(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str | BoundMethod = "crown-ibp",
    targets: str = "all",
) -> tuple[Tensor, Tensor]:
    """As `log_widths_within`, and the logits (N, K) at the clean images, for which no pass of their own is made."""
    method = of_functions(checked(network, images, norm, method))
    check_labels(images, labels, targets)
    widths: list[Tensor] = []
    region, first = Region(images, norm, epsilon), None
    for kind in method.passes:
        logits = bounded_logits(Propagation(network, region, kind, rescales=True))
        first = logits if first is None else first
        logits = _before_logarithm(logits)
        for drop in drops_below_clean(logits, _margin_rows(logits, labels, targets)):
            width = drop.clamp_min(torch.finfo(drop.dtype).tiny).log()
            if logits.exponent is not None:
                width = width + math.log(2.0) * logits.exponent[:, None]
            widths.append(torch.where(width.isnan(), torch.inf, width))
    assert first is not None
    return reduce(torch.minimum, widths), _logits_at(network, images, first)


def _before_logarithm(logits: Value) -> Value:
    """The logits in front of a log-softmax, which has their margins; other logits as they are."""
    softmaxed = logits.softmaxed
    return softmaxed.value if softmaxed is not None and softmaxed.logarithm else logits


def _logits_at(network: Network, images: Tensor, logits: Value) -> Tensor:
    """The logits (N, K) at the clean images, of a pass that has kept them; else from a pass of their own."""
    if logits.clean is None:
        return network(images)
    return logits.clean if logits.propagation.differentiable else logits.clean.detach()


def _same(images: Tensor, threat: ThreatModel) -> Tensor:
    return torch.full((len(images),), threat.epsilon, dtype=images.dtype, device=images.device)


def _margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str | BoundMethod,
    targets: str,
    settled: Settled | None = None,
) -> tuple[list[Tensor], Value]:
    """What `_lower` finds for the margins."""
    method = checked(network, images, norm, method)
    check_labels(images, labels, targets)
    rows_of = partial(_margin_rows, labels=labels, targets=targets)
    region, keeps_clean = Region(images, norm, epsilon), targets == "strongest"
    return _lower(network, region, rows_of, method, keeps_clean=keeps_clean, settled=settled)


def _lower(
    network: Network,
    region: Region,
    functions_of: Callable[[Value], Tensor],
    method: BoundMethod,
    *,
    keeps_clean: bool,
    settled: Settled | None = None,
) -> tuple[list[Tensor], Value]:
    """(N, S) bounds of <c, f(x)> for the rows c, (N, S, K), that `functions_of` makes of the logits: one of every way
    of bounding that each pass has, and the logits of the first pass; `settled` keeps the intervals of one that
    tightens."""
    bounds: list[Tensor] = []
    first = None
    for kind in method.passes:
        keeps = settled if kind.tightens else None
        logits = bounded_logits(Propagation(network, region, kind, keeps_clean=keeps_clean, settled=keeps))
        first = logits if first is None else first
        for bound in lower_bounds(logits, functions_of(logits)):
            # a NaN comes of an overflow, and bounds nothing
            bounds.append(torch.where(bound.isnan(), -torch.inf, bound))
    assert first is not None
    return bounds, first


def _margin_rows(logits: Value, labels: Tensor, targets: str) -> Tensor:
    """(N, S, K) coefficients of the margins f_y - f_j."""
    classes = logits.centre.shape[1]
    if int(labels.max()) >= classes:
        raise InputError(f"label {int(labels.max())} for a network of {classes} classes; labels are 0 to {classes - 1}")
    true = labels[:, None].long()
    if targets == "strongest":
        wrong = other_logits(clean_logits(logits).detach(), labels).argmax(dim=1, keepdim=True)
    else:
        wrong = wrong_classes(labels, classes)
    unit = torch.eye(classes, dtype=logits.centre.dtype, device=logits.centre.device)
    return unit[true] - unit[wrong]


def wrong_classes(labels: Tensor, classes: int) -> Tensor:
    """(N, K - 1) all classes but the true one, in ascending order: the columns of margins."""
    index = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    return index + (index >= labels[:, None]).long()
