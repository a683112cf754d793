"""Lower bounds of linear functions of the logits over all admissible images: the methods, and the larger of them.

    ibp          intervals, the last linear layer folded into the function (arXiv:1810.12715)
    crown-ibp    intervals in front of nonlinearities, one backward pass a function (arXiv:1906.06316)
    crown        backward passes in front of nonlinearities too (arXiv:1811.00866)
    alpha-crown  the same, with lower lines of rectifiers optimised for each function (arXiv:2011.13824)

A bound of a method is the larger of its own and its predecessors', so tightness grows with the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas.bounds.ascent import least_fall
from robustnas.bounds.ball import Ball
from robustnas.bounds.region import Region
from robustnas.bounds.scale import portion
from robustnas.bounds.value import Value
from robustnas.bounds.walk import ENTRIES, Network, Walk
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.nn.margin import other_logits
from robustnas.nn.wrappers import unwrapped
from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
TARGETS = ("all", "strongest")


def margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """Lower bounds of the margins f_y - f_j over the threat model's images.

    Differentiable in whatever the network computes with (weights, alpha, mixing weights), when gradients are
    enabled at the call.

    Args:
        network: in eval mode; maps images (N, C, H, W) to logits (N, K), every image for itself.
        images: (N, C, H, W) or (N, d), in [0, 1], float32 or float64.
        labels: (N,) true classes.
        method: one of METHODS.
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
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """As `margins`, with a radius for each image: epsilon (N,), pixel units, in which it is differentiable too."""
    _check(network, images, norm, method)
    _check_labels(images, labels, targets)

    def rows(logits: Value) -> Tensor:
        return _margin_rows(logits, labels, targets)

    return _lower(network, Region(images, norm, epsilon), rows, method, needs_clean=targets == "strongest")


def linear_bounds(
    network: Network, images: Tensor, coefficients: Tensor, threat: ThreatModel, method: str = "crown-ibp"
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
    _check(network, images, threat.norm, method)

    def rows(logits: Value) -> Tensor:
        count, classes = logits.centre.shape
        given = coefficients.to(logits.centre)
        if given.dim() == 2:
            given = given.expand(count, *given.shape)
        if given.dim() != 3 or given.shape[0] != count or given.shape[2] != classes or given.shape[1] == 0:
            found, wanted = tuple(coefficients.shape), f"(S, {classes}) or ({count}, S, {classes})"
            raise InputError(f"coefficients have shape {found}; expected {wanted}, S linear functions of the logits")
        return given

    return _lower(network, Region(images, threat.norm, _same(images, threat)), rows, method)


def log_widths(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """Natural logarithms of how far `margins` lie below the margins at the clean images; arguments as there.

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
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """As `log_widths`, with a radius for each image: epsilon (N,), pixel units, in which it is differentiable too."""
    _check(network, images, norm, method)
    _check_labels(images, labels, targets)
    found: Tensor | None = None
    for walk in _walks(network, Region(images, norm, epsilon), method, keeps_clean=True, rescales=True):
        logits = walk.run()
        if logits.softmaxed is not None and logits.softmaxed.logarithm:
            logits = logits.softmaxed.value  # with the same margins
        rows = _margin_rows(logits, labels, targets)
        for fall in _falls(logits, rows):
            width = fall.clamp_min(torch.finfo(fall.dtype).tiny).log()
            if logits.exponent is not None:
                width = width + math.log(2.0) * logits.exponent[:, None]
            width = torch.where(width.isnan(), torch.inf, width)
            found = width if found is None else torch.minimum(found, width)
    assert found is not None
    return found


def _same(images: Tensor, threat: ThreatModel) -> Tensor:
    return torch.full((len(images),), threat.epsilon, dtype=images.dtype, device=images.device)


def _check(network: Network, images: Tensor, norm: str, method: str) -> None:
    for given, known, what in (
        (method, METHODS, "method"),
        (norm, NORMS, "norm"),
    ):
        if given not in known:
            raise InputError(f"{what} {given!r} is unknown; known are {', '.join(known)}")
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


def _check_labels(images: Tensor, labels: Tensor, targets: str) -> None:
    if targets not in TARGETS:
        raise InputError(f"targets {targets!r} is unknown; known are {', '.join(TARGETS)}")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        found = f"labels have shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{found}; expected ({images.shape[0]},) integers")
    if int(labels.min()) < 0:
        raise InputError(f"label {int(labels.min())} is negative; labels are 0 to K - 1")


def _walks(network: Network, region: Region, method: str, keeps_clean: bool, rescales: bool = False) -> list[Walk]:
    """The passes whose bounds a method takes the larger of; not yet run."""
    walks = [Walk(network, region, method != "ibp", keeps_plain=keeps_clean, rescales=rescales)]
    if method in ("crown", "alpha-crown"):
        walks.append(Walk(network, region, True, True, True, rescales, optimises=method == "alpha-crown"))
    return walks


def _lower(
    network: Network, region: Region, rows: Callable[[Value], Tensor], method: str, needs_clean: bool = False
) -> Tensor:
    """(N, S) bounds of <c, f(x)> for the rows c that `rows` makes of the logits, (N, S, K)."""
    found: Tensor | None = None
    for walk in _walks(network, region, method, needs_clean):
        logits = walk.run()
        wanted = rows(logits)
        for bound in _bounds(logits, wanted):
            # NaN (an overflow somewhere) bounds nothing
            usable = torch.where(bound.isnan(), -torch.inf, bound)
            found = usable if found is None else torch.maximum(found, usable)
    assert found is not None
    return found


def _bounds(logits: Value, rows: Tensor) -> list[Tensor]:
    """(N, S) each; margins of a softmax or a log-softmax from those of what it was given."""
    walk, given = logits.walk, logits.softmaxed
    if given is not None and given.logarithm and bool((rows.sum(2) == 0).all()):
        return _bounds(given.value, rows)
    if given is not None and not given.logarithm and _are_differences(rows):
        with walk.intervals():
            return [_of_probabilities(logits, rows, bound) for bound in _bounds(given.value, rows)]
    found = [] if walk.tighten else [_interval_bound(logits, rows)]
    if walk.backward:
        clean = (rows @ _clean(logits).unsqueeze(2)).squeeze(2)
        found += [clean - fall for fall in _linear_falls(logits, rows)]
    return found


def _are_differences(rows: Tensor) -> bool:
    """Whether every row (N, S, K) is the difference of two entries."""
    return bool(((rows != 0).sum(2) == 2).all() and (rows.amax(2) == 1).all() and (rows.amin(2) == -1).all())


def _of_probabilities(softmax: Value, rows: Tensor, margins: Tensor) -> Tensor:
    """Bounds (N, S) of p_y - p_j from bounds m of the margins d = z_y - z_j in front of a softmax.

    p_y - p_j is p_y (1 - exp(-d)) and p_j (exp(d) - 1): so at least l_y (1 - exp(-m)) where m >= 0 and
    u_j (exp(m) - 1) elsewhere.  Where the rows name every class, 1 / (1 + sum of exp(-m)) bounds p_y too.
    """
    lower, upper = softmax.centre - softmax.radius, softmax.centre + softmax.radius
    least = (rows.clamp_min(0.0) @ lower.unsqueeze(2)).squeeze(2)
    most = -(rows.clamp_max(0.0) @ upper.unsqueeze(2)).squeeze(2)
    if bool(((rows.sum(1) - (rows.shape[1] + 1) * rows[:, 0].clamp_min(0.0)) == -1).all()):
        least = torch.maximum(least, 1 / (1 + torch.exp(-margins).sum(1, keepdim=True)))
    return torch.where(margins >= 0, -torch.expm1(-margins) * least, torch.expm1(margins) * most)


def _falls(logits: Value, rows: Tensor) -> list[Tensor]:
    """How far below its clean value every bound of a walk lies: (N, S) each, in the logits' units."""
    walk = logits.walk
    falls = [] if walk.tighten else [_interval_fall(logits, rows)]
    return falls + (_linear_falls(logits, rows) if walk.backward else [])


def _clean(logits: Value) -> Tensor:
    assert logits.plain is not None
    return logits.plain


def _margin_rows(logits: Value, labels: Tensor, targets: str) -> Tensor:
    """(N, S, K) coefficients of the margins f_y - f_j."""
    count, classes = logits.centre.shape
    if int(labels.max()) >= classes:
        raise InputError(f"label {int(labels.max())} for a network of {classes} classes; labels are 0 to {classes - 1}")
    true = labels[:, None].long()
    if targets == "strongest":
        wrong = other_logits(_clean(logits).detach(), labels).argmax(dim=1, keepdim=True)
    else:
        index = torch.arange(classes - 1, device=labels.device).expand(count, -1)
        wrong = index + (index >= true).long()
    unit = torch.eye(classes, dtype=logits.centre.dtype, device=logits.centre.device)
    return unit[true] - unit[wrong]


def _interval_bound(logits: Value, rows: Tensor) -> Tensor:
    """(N, S) from intervals; where the logits are a linear layer's, from the intervals in front of it."""
    walk = logits.walk
    with walk.intervals():
        features = logits.features
        if features is None:
            return _over_interval(rows, logits.centre, logits.radius)
        if rows.shape[1] > 1 and len(rows) * rows.shape[1] * features.weight.shape[1] > ENTRIES:
            half = rows.shape[1] // 2
            return torch.cat([_interval_bound(logits, some) for some in (rows[:, :half], rows[:, half:])], dim=1)
        value, folded = features.value, rows @ features.weight
        offset: Tensor | float = 0.0
        if features.bias is not None:
            offset = portion(rows @ features.bias, logits)
        bound = _over_interval(folded, value.centre, value.radius) + offset
        if value.ball is not None:
            clean = (folded @ value.ball.clean.unsqueeze(2)).squeeze(2) + offset
            bound = torch.maximum(bound, clean - _reach(value.ball, folded, walk.region))
        return bound


def _interval_fall(logits: Value, rows: Tensor) -> Tensor:
    """What `_interval_bound` lies below the clean value, not as a difference: it may be far below that's rounding."""
    walk = logits.walk
    with walk.intervals():
        value, folded = logits, rows
        if logits.features is not None:
            value, folded = logits.features.value, rows @ logits.features.weight
        fall = -_over_interval(folded, value.centre - _clean(value), value.radius)
        if value.ball is not None:
            fall = torch.minimum(fall, _reach(value.ball, folded, walk.region))
        return fall


def _reach(ball: Ball, rows: Tensor, region: Region) -> Tensor:
    """How far <c, x> may fall inside an unmixed ball: (N, S, F) rows -> (N, S)."""
    lengths: Tensor = torch.linalg.vector_norm(
        rows * ball.reach(region.norm)[:, None], ord=DUAL_ORDER[region.norm], dim=2
    )
    return region.epsilon[:, None] * lengths


def _over_interval(rows: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Least values of <c, x> over intervals: (N, S, F), (N, F) twice -> (N, S)."""
    return (rows @ centre.unsqueeze(2)).squeeze(2) - (rows.abs() @ radius.unsqueeze(2)).squeeze(2)


def _linear_falls(logits: Value, rows: Tensor) -> list[Tensor]:
    """(N, S) each, from backward passes through the lines."""
    walk = logits.walk
    parts = torch.split(rows.transpose(0, 1).contiguous(), walk.rows())
    falls = [torch.cat([walk.fall(logits, part) for part in parts]).T]
    if walk.optimises:
        falls.append(torch.cat([least_fall(walk, logits, part) for part in parts]).T)
    return falls
