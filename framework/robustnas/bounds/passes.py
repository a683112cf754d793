"""The forward pass of a network on bounded values, and the backward passes that bound linear functions of a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustnas.bounds.ball import Ball
from robustnas.bounds.entries import entry_drops
from robustnas.bounds.propagation import Propagation
from robustnas.bounds.scale import portion
from robustnas.bounds.steps.images import Images
from robustnas.bounds.steps.local import batched
from robustnas.bounds.value import Value, midpoint
from robustnas.bounds.walk import ENTRIES
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.nn.wrappers import eager
from robustnas.runtime.strangers import text_of

Matters = Callable[[Tensor, Tensor], Tensor]
"""(lower, upper) -> bool tensor: where a tighter interval would give tighter lines."""


def bounded_logits(propagation: Propagation) -> Value:
    """Run the forward pass, and return bounded logits (N, K) of all admissible images."""
    region = propagation.region
    with torch.set_grad_enabled(propagation.backward or propagation.differentiable):
        clean = region.images + propagation.probe if propagation.keeps_clean else None
        images = Value(propagation, clean, region.centre, region.radius)
        images.ball = Ball.of(region.images) if region.norm != "linf" else None
        propagation.note(clean, (), Images)
        with torch.autocast(region.images.device.type, enabled=False), eager():
            try:
                logits = propagation.network(images)
            except RuntimeError as fault:
                if "TorchScript" not in text_of(fault):
                    raise
                raise UnsupportedOpError(
                    "the network calls a function that is TorchScript (torch.jit.script), whose operations can be run, "
                    "not looked into; the function itself, without the decorator, would do"
                ) from fault
    if not isinstance(logits, Value):
        raise InputError(f"the network returned {type(logits).__name__}, not logits that depend on the images")
    if logits.centre.dim() != 2 or logits.centre.shape[1] < 2:
        raise InputError(f"logits have shape {tuple(logits.centre.shape)}; expected (N, K) with at least 2 classes")
    return logits


def interval(value: Value, matters: Matters | None = None) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of every entry, for the lines of a nonlinearity, after `tighten`."""
    tighten(value, matters)
    with value.propagation.intervals():
        return value.lower, value.upper


def tighten(value: Value, matters: Matters | None = None, *, partly: bool = False) -> None:
    """Shrink the value's interval, where its pass bounds intermediate values by backward passes too.

    The entries for which `matters(lower, upper)` is true are bounded.  Those bounds are constants to a
    gradient: a graph of theirs would lead back to the probe through the clean values, and the next backward pass would
    take slopes along it that belong to no line.

    Args:
        partly: other entries may matter later, to the same nonlinearity or to another one.
    """
    propagation = value.propagation
    if not propagation.kind.tightens or value.tightened or value.clean is None or not value.clean.requires_grad:
        return
    value.tightened = not partly
    settled = propagation.settled
    given = None if settled is None else settled.meet(value, value.clean)
    if given is not None:
        with propagation.intervals():
            value.centre, value.radius = midpoint(*given)
        return
    _shrink(value, matters)
    if settled is not None:
        settled.keep(value.lower, value.upper)


def _shrink(value: Value, matters: Matters | None) -> None:
    """Bound the entries of a value that matter by backward passes."""
    propagation = value.propagation
    assert value.clean is not None
    if propagation.region.norm == "linf" and propagation.tape is not None and propagation.tape.exact(value.clean):
        return
    with propagation.intervals():
        lower, upper = value.lower, value.upper
    entries = torch.ones_like(lower, dtype=torch.bool) if matters is None else matters(lower, upper)
    before = value.bounded
    if before is not None:
        entries = entries & ~before
    image, entry = entries.flatten(1).nonzero(as_tuple=True)
    if len(image) == 0:
        return
    if propagation.tape is not None and (propagation.tape.joint or not propagation.tape.wholly):
        # images in turn: where a step takes all images at once, every part of the rows has its share of each
        order = entries.flatten(1).cumsum(1)[image, entry].argsort(stable=True)
        image, entry = image[order], entry[order]
    with torch.no_grad():
        clean = portion(value.clean.detach(), value).flatten(1)[image, entry]
        drops = entry_drops(propagation, value.clean, image, entry)
        ascent = propagation.kind.ascent
        if ascent is not None and ascent.inner > 0 and propagation.free_slopes:
            still = torch.ones_like(clean, dtype=torch.bool)
            if matters is not None:
                ends = (lower.flatten(1), clean - drops[0]), (upper.flatten(1), clean + drops[1])
                known = (whole.index_put((image, entry), end).view_as(lower) for whole, end in ends)
                still = matters(*known).flatten(1)[image, entry]
            if bool(still.any()):
                drops[:, still] = entry_drops(propagation, value.clean, image[still], entry[still], ascent)
        low, high = clean - drops[0], clean + drops[1]
        low = torch.where(low.isnan(), -torch.inf, low)
        high = torch.where(high.isnan(), torch.inf, high)
    with propagation.intervals():
        flat_lower, flat_upper = lower.flatten(1), upper.flatten(1)
        low = torch.maximum(low, flat_lower[image, entry])
        high = torch.minimum(high, flat_upper[image, entry])
        # where both bounds meet, rounding may let them cross
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        lower = flat_lower.index_put((image, entry), low).view_as(lower)
        upper = flat_upper.index_put((image, entry), high).view_as(upper)
        value.centre, value.radius = midpoint(lower, upper)
    value.bounded = entries if before is None else entries | before


def rows(propagation: Propagation) -> int:
    """How many linear functions one batched backward pass may bound."""
    held = sum(free.slopes[0].numel() for free in propagation.free_slopes)
    return max(1, ENTRIES // (max(propagation.widest, held) * max(propagation.images, 1)))


def drop_below_clean(
    value: Value,
    coefficients: Tensor,
    *,
    differentiable: bool = True,
    slopes: Sequence[Tensor] = (),
    multipliers: Sequence[tuple[Tensor, Tensor]] = (),
) -> Tensor:
    """How far linear functions <c, x> of a value may fall below <c, z>: (S, N, ...) coefficients -> (S, N).

        <c, x>  >=  <c, z> + min <A, x - x0> + sum_i <A_i, line_i(z_i) - f_i(z_i)>

    in the value's units, with z at the clean images x0; A and the sum are gradients with respect to the pass's `probe`
    and `gap_input`.

    Args:
        differentiable: the result carries a graph, if the pass does.
        slopes: (S, N, ...) of the lower lines that may be chosen, of the rectifiers passed so far; the bound is
            differentiable in those that require it.
        multipliers: clean values z_j (N, ...) in front, and coefficients b_j (S, N, ...) by which they are added to the
            functions: the drop is that of <c, x> + sum_j <b_j, x_j>, and differentiable in those that require it.
    """
    propagation = value.propagation
    assert value.clean is not None
    chosen = (*slopes, *(factor for _, factor in multipliers))
    differentiable = (differentiable and propagation.differentiable) or any(each.requires_grad for each in chosen)
    if not value.clean.requires_grad:
        return coefficients.new_zeros(coefficients.shape[:2])
    with torch.set_grad_enabled(differentiable):
        slope, gaps = pulled_back(value, coefficients, slopes, multipliers)
        return -propagation.region.minimum(slope) - gaps


def pulled_back(
    value: Value,
    coefficients: Tensor,
    slopes: Sequence[Tensor] = (),
    multipliers: Sequence[tuple[Tensor, Tensor]] = (),
    also: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Pull linear functions of a value back through lines: A (S, N, ...) and gaps (S, N) of `drop_below_clean`.

    They carry a graph where gradients are enabled.

    Args:
        also: clean values (N, ...) on the way; the coefficients (S, N, ...) that reach them are returned too.
    """
    propagation = value.propagation
    assert value.clean is not None
    several, differentiable = coefficients.shape[0] > 1, torch.is_grad_enabled()
    controls = [free.control for free, _ in zip(propagation.free_slopes, slopes, strict=False)]
    outputs = [value.clean, *controls, *(clean for clean, _ in multipliers)]
    cotangents = [coefficients, *slopes, *(factor for _, factor in multipliers)]

    def pull(*vectors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs,
            (propagation.probe, propagation.gap_input, *also),
            vectors,
            retain_graph=True,
            create_graph=differentiable,
            allow_unused=True,
            materialize_grads=True,
        )

    propagation.mode.relaxing = True
    try:
        pulled = batched(pull, cotangents) if several else pull(*(each[0] for each in cotangents))
    finally:
        propagation.mode.relaxing = False
    return pulled if several else tuple(each[None] for each in pulled)
