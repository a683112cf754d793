"""Bounds of linear functions of the logits, <c, f(x)>, from the intervals and the lines of one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.bounds.ascent import ascended
from robustnas.bounds.ball import Ball
from robustnas.bounds.passes import drop_below_clean, rows
from robustnas.bounds.propagation import Ascent
from robustnas.bounds.region import Region
from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.scale import portion
from robustnas.bounds.value import Value
from robustnas.bounds.walk import ENTRIES
from robustnas.bounds.walk import drops as walked
from robustnas.threat import DUAL_ORDER


def lower_bounds(logits: Value, functions: Tensor) -> list[Tensor]:
    """Bounds (N, S) of functions (N, S, K), one tensor for each way of bounding that the pass has.

    Margins of a softmax, or of its logarithm, follow from the margins of the logits in front of it.
    """
    propagation, softmaxed = logits.propagation, logits.softmaxed
    if softmaxed is not None and softmaxed.logarithm and bool((functions.sum(2) == 0).all()):
        return lower_bounds(softmaxed.value, functions)
    if softmaxed is not None and not softmaxed.logarithm and _are_differences(functions):
        with propagation.intervals():
            return [_of_probabilities(logits, functions, bound) for bound in lower_bounds(softmaxed.value, functions)]
    bounds = [] if propagation.kind.tightens else [interval_bound(logits, functions)]
    if propagation.backward:
        clean = (functions @ clean_logits(logits).unsqueeze(2)).squeeze(2)
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


def drops_below_clean(logits: Value, functions: Tensor) -> list[Tensor]:
    """How far each of `lower_bounds` lies below the clean value: (N, S) each, in the logits' units."""
    propagation = logits.propagation
    drops = [] if propagation.kind.tightens else [_interval_drop(logits, functions)]
    return drops + (_linear_drops(logits, functions) if propagation.backward else [])


def clean_logits(logits: Value) -> Tensor:
    assert logits.clean is not None
    return logits.clean


def interval_bound(logits: Value, functions: Tensor) -> Tensor:
    """Bound functions from intervals, (N, S): those in front of the last layer, where that is linear."""
    with logits.propagation.intervals():
        features = logits.features
        if features is None:
            return _over_interval(functions, logits.centre, logits.radius)
        if functions.shape[1] > 1 and len(functions) * functions.shape[1] * features.weight.shape[1] > ENTRIES:
            halves = functions.tensor_split([functions.shape[1] // 2], dim=1)
            return torch.cat([interval_bound(logits, half) for half in halves], dim=1)
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
    """How far `interval_bound` lies below the clean value, computed without the difference that rounding may lose."""
    with logits.propagation.intervals():
        value, folded = logits, functions
        if logits.features is not None:
            value, folded = logits.features.value, functions @ logits.features.weight
        drop = -_over_interval(folded, value.centre - portion(clean_logits(value), value), value.radius)
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
