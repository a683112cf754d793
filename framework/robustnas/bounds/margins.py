"""Lower bounds of linear functions of the logits over all admissible images: the largest of a method's passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor, nn

from robustnas.bounds.ascent import ascended
from robustnas.bounds.ball import Ball
from robustnas.bounds.branching import Completed, complete
from robustnas.bounds.branching.bounding import in_front
from robustnas.bounds.branching.problem import Problem
from robustnas.bounds.fused import Fused
from robustnas.bounds.methods import METHODS, BoundMethod, Branching, CrownIBP, bound_method
from robustnas.bounds.passes import bounded_logits, drop_below_clean, rows
from robustnas.bounds.propagation import Ascent, Network, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.scale import portion
from robustnas.bounds.settled import Settled
from robustnas.bounds.value import Value
from robustnas.bounds.walk import ENTRIES
from robustnas.bounds.walk import drops as walked
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.nn.margin import other_logits
from robustnas.nn.wrappers import unwrapped
from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel

TARGETS = ("all", "strongest")


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
        right = (functions @ _clean(logits).detach().unsqueeze(2)).squeeze(2).amin(dim=1) > 0
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
    _checked(network, images, norm, CrownIBP())
    _check_labels(images, labels, "all")
    (kind,) = CrownIBP.passes
    logits = _before_logarithm(bounded_logits(Propagation(network, Region(images, norm, epsilon), kind)))
    functions = _margin_rows(logits, labels, "all")
    least, most = _interval_bound(logits, functions), -_interval_bound(logits, -functions)
    with logits.propagation.intervals():
        fused = Fused(least, most)
        row = fused.weights[:, None] @ functions
    _, line = _bounds(logits, row)
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
    method = _of_functions(_checked(network, images, threat.norm, method))

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
    method = _of_functions(_checked(network, images, norm, method))
    _check_labels(images, labels, targets)
    widths: list[Tensor] = []
    region, first = Region(images, norm, epsilon), None
    for kind in method.passes:
        logits = bounded_logits(Propagation(network, region, kind, rescales=True))
        first = logits if first is None else first
        logits = _before_logarithm(logits)
        for drop in _drops(logits, _margin_rows(logits, labels, targets)):
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


LIFTED = 32
"""Clean logits are multiplied by their exponent's factor up to this exponent: beyond, divided ones may have lost
digits to the end of the number format."""


def _logits_at(network: Network, images: Tensor, logits: Value) -> Tensor:
    """The logits (N, K) at the clean images, of a pass that has kept them; else from a pass of their own."""
    lost = logits.exponent is not None and bool((logits.exponent > LIFTED).any())
    if logits.clean is None or lost:
        return network(images)
    clean = logits.clean if logits.propagation.differentiable else logits.clean.detach()
    return clean if logits.exponent is None else clean * torch.exp2(logits.exponent)[:, None]


def _same(images: Tensor, threat: ThreatModel) -> Tensor:
    return torch.full((len(images),), threat.epsilon, dtype=images.dtype, device=images.device)


def _checked(network: Network, images: Tensor, norm: str, method: str | BoundMethod) -> BoundMethod:
    """Check network and images, and return the method as an object."""
    method = bound_method(method)
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown; known are {', '.join(NORMS)}")
    if images.dim() < 2 or images.numel() == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if images.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {images.dtype}; bounds need float32 or float64 in [0, 1]")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.detach().min()), float(images.detach().max())
        raise InputError(f"images reach from {low:g} to {high:g}; expected [0, 1] (normalisation is the network's job)")
    if isinstance(network, nn.Module):
        for name, module in unwrapped(network).named_modules():
            if module.training:
                raise UnsupportedOpError(
                    f"{name or 'the network'} ({type(module).__name__}) is in training mode, in which batch "
                    "norm mixes images and dropout draws; call network.eval() first"
                )
        for name, held in (*network.named_parameters(), *network.named_buffers()):
            if held.is_floating_point() and held.dtype != images.dtype:
                raise InputError(
                    f"images are {images.dtype} and the network's {name} is {held.dtype}; bounds need float32 or "
                    "float64 for both: network.float() or images.double(), say"
                )
    return method


def _of_functions(method: BoundMethod) -> BoundMethod:
    """Refuse a method that verifies margins where bounds of linear functions are asked for."""
    if isinstance(method, Branching):
        raise InputError(f"method {method.name} verifies margins; for this, {', '.join(METHODS)} would do")
    return method


def _check_labels(images: Tensor, labels: Tensor, targets: str) -> None:
    if targets not in TARGETS:
        raise InputError(f"targets {targets!r} is unknown; known are {', '.join(TARGETS)}")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        found = f"labels have shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{found}; expected ({images.shape[0]},) integers")
    if int(labels.min()) < 0:
        raise InputError(f"label {int(labels.min())} is negative; labels are 0 to K - 1")


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
    method = _checked(network, images, norm, method)
    _check_labels(images, labels, targets)
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
        for bound in _bounds(logits, functions_of(logits)):
            # a NaN comes of an overflow, and bounds nothing
            bounds.append(torch.where(bound.isnan(), -torch.inf, bound))
    assert first is not None
    return bounds, first


def _bounds(logits: Value, functions: Tensor) -> list[Tensor]:
    """Bounds (N, S) of functions (N, S, K), one tensor for each way of bounding that the pass has.

    Margins of a softmax, or of its logarithm, follow from the margins of the logits in front of it.
    """
    propagation, softmaxed = logits.propagation, logits.softmaxed
    if softmaxed is not None and softmaxed.logarithm and bool((functions.sum(2) == 0).all()):
        return _bounds(softmaxed.value, functions)
    if softmaxed is not None and not softmaxed.logarithm and _are_differences(functions):
        with propagation.intervals():
            return [_of_probabilities(logits, functions, bound) for bound in _bounds(softmaxed.value, functions)]
    bounds = [] if propagation.kind.tightens else [_interval_bound(logits, functions)]
    if propagation.backward:
        clean = (functions @ _clean(logits).unsqueeze(2)).squeeze(2)
        bounds += [clean - drop for drop in _linear_drops(logits, functions)]
    return bounds


def _are_differences(functions: Tensor) -> bool:
    """Whether every row (N, S, K) is the difference of two entries."""
    ends = (functions.amax(2) == 1).all() and (functions.amin(2) == -1).all()
    return bool(((functions != 0).sum(2) == 2).all() and ends)


def _of_probabilities(softmax: Value, functions: Tensor, margins: Tensor) -> Tensor:
    """Bounds (N, S) of p_y - p_j from bounds m of the margins d = z_y - z_j in front of a softmax.

    p_y - p_j is p_y (1 - exp(-d)) and p_j (exp(d) - 1): so at least l_y (1 - exp(-m)) where m >= 0 and
    u_j (exp(m) - 1) elsewhere.  Where the rows name every class, 1 / (1 + sum of exp(-m)) bounds p_y too.
    """
    lower, upper = softmax.lower, softmax.upper
    least = (functions.clamp_min(0.0) @ lower.unsqueeze(2)).squeeze(2)
    most = -(functions.clamp_max(0.0) @ upper.unsqueeze(2)).squeeze(2)
    rest = functions.sum(1) - (functions.shape[1] + 1) * functions[:, 0].clamp_min(0.0)
    if bool((rest == -1).all()):
        least = torch.maximum(least, 1 / (1 + torch.exp(-margins).sum(1, keepdim=True)))
    return torch.where(margins >= 0, -torch.expm1(-margins) * least, torch.expm1(margins) * most)


def _drops(logits: Value, functions: Tensor) -> list[Tensor]:
    """How far each of `_bounds` lies below the clean value: (N, S) each, in the logits' units."""
    propagation = logits.propagation
    drops = [] if propagation.kind.tightens else [_interval_drop(logits, functions)]
    return drops + (_linear_drops(logits, functions) if propagation.backward else [])


def _clean(logits: Value) -> Tensor:
    assert logits.clean is not None
    return logits.clean


def _margin_rows(logits: Value, labels: Tensor, targets: str) -> Tensor:
    """(N, S, K) coefficients of the margins f_y - f_j."""
    classes = logits.centre.shape[1]
    if int(labels.max()) >= classes:
        raise InputError(f"label {int(labels.max())} for a network of {classes} classes; labels are 0 to {classes - 1}")
    true = labels[:, None].long()
    if targets == "strongest":
        wrong = other_logits(_clean(logits).detach(), labels).argmax(dim=1, keepdim=True)
    else:
        wrong = wrong_classes(labels, classes)
    unit = torch.eye(classes, dtype=logits.centre.dtype, device=logits.centre.device)
    return unit[true] - unit[wrong]


def wrong_classes(labels: Tensor, classes: int) -> Tensor:
    """(N, K - 1) all classes but the true one, in ascending order: the columns of margins."""
    index = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    return index + (index >= labels[:, None]).long()


def _interval_bound(logits: Value, functions: Tensor) -> Tensor:
    """Bound functions from intervals, (N, S): those in front of the last layer, where that is linear."""
    with logits.propagation.intervals():
        features = logits.features
        if features is None:
            return _over_interval(functions, logits.centre, logits.radius)
        if functions.shape[1] > 1 and len(functions) * functions.shape[1] * features.weight.shape[1] > ENTRIES:
            halves = functions.tensor_split([functions.shape[1] // 2], dim=1)
            return torch.cat([_interval_bound(logits, half) for half in halves], dim=1)
        value, folded = features.value, functions @ features.weight
        offset: Tensor | float = 0.0
        if features.bias is not None:
            offset = portion(functions @ features.bias, logits)
        bound = _over_interval(folded, value.centre, value.radius) + offset
        if value.ball is not None:
            clean = (folded @ value.ball.clean.unsqueeze(2)).squeeze(2) + offset
            bound = torch.maximum(bound, clean - _reach(value.ball, folded, value.propagation.region))
        return bound


def _interval_drop(logits: Value, functions: Tensor) -> Tensor:
    """How far `_interval_bound` lies below the clean value, computed without the difference that rounding may lose."""
    with logits.propagation.intervals():
        value, folded = logits, functions
        if logits.features is not None:
            value, folded = logits.features.value, functions @ logits.features.weight
        drop = -_over_interval(folded, value.centre - _clean(value), value.radius)
        if value.ball is not None:
            drop = torch.minimum(drop, _reach(value.ball, folded, value.propagation.region))
        return drop


def _reach(ball: Ball, functions: Tensor, region: Region) -> Tensor:
    """How far <c, x> may fall inside an unmixed ball: (N, S, F) functions -> (N, S)."""
    scaled, order = functions * ball.reach(region.norm)[:, None], DUAL_ORDER[region.norm]
    lengths: Tensor = torch.linalg.vector_norm(scaled, ord=order, dim=2)
    return region.epsilon[:, None] * lengths


def _over_interval(functions: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Least values of <c, x> over intervals: (N, S, F), (N, F) twice -> (N, S)."""
    return (functions @ centre.unsqueeze(2)).squeeze(2) - (functions.abs() @ radius.unsqueeze(2)).squeeze(2)


def _linear_drops(logits: Value, functions: Tensor) -> list[Tensor]:
    """How far bounds by backward passes through the lines lie below the clean value, (N, S) each."""
    propagation = logits.propagation
    parts = torch.split(functions.transpose(0, 1).contiguous(), rows(propagation))
    by_tape = propagation.tape is not None and not propagation.differentiable
    below_clean = _drop_by_rows if by_tape else drop_below_clean
    drops = [torch.cat([below_clean(logits, part) for part in parts]).T]
    if (ascent := propagation.kind.ascent) is not None:
        drops.append(torch.cat([_least_drop(logits, part, ascent) for part in parts]).T)
    return drops


def _drop_by_rows(value: Value, coefficients: Tensor) -> Tensor:
    """As `drop_below_clean`, along the pass's tape, without a graph: (S, N, ...) -> (S, N)."""
    assert value.clean is not None
    (count, images), clean = coefficients.shape[:2], value.clean
    if not clean.requires_grad:
        return coefficients.new_zeros(count, images)
    image = torch.arange(images, device=clean.device).repeat_interleave(count)
    with torch.no_grad():
        given = Coefficients(coefficients.detach().transpose(0, 1).flatten(0, 1))
        return walked(value.propagation, clean, given, Rows(image, None, 1, images)).view(images, count).T


def _least_drop(value: Value, coefficients: Tensor, ascent: Ascent) -> Tensor:
    """Minimise `drop_below_clean` over slopes: (S, N, ...) coefficients -> (S, N), in the value's units.

    A gradient of the result takes the slopes for constants.
    """
    propagation = value.propagation
    assert value.clean is not None
    count, images = coefficients.shape[:2]
    image = torch.arange(images, device=coefficients.device).repeat(count)
    given = Coefficients(coefficients.detach().flatten(0, 1))
    best, kept = ascended(
        propagation, value.clean, given, lambda: Rows(image, None, 1, images), ascent.steps, ascent.rate
    )
    if not propagation.differentiable:
        return best.view(count, images)
    slopes = []
    for each in propagation.free_slopes:
        chosen = kept.get(-1 if each.step is None else each.step)
        if chosen is None:
            chosen = each.slopes.repeat(count, *[1] * (each.slopes.dim() - 1))
        slopes.append(chosen.reshape(count, images, *each.slopes.shape[1:]))
    return drop_below_clean(value, coefficients, slopes=slopes)
