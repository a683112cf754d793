"""Verification-based evaluation: certified margins and certified radii of a trained network.

An image is certified at a threat model when all its certified margins are above 0: then no admissible image
is classified otherwise.  `robustnas.bounds` computes the bounds; here the network is put into eval mode,
frozen, and put back, images go through in batches, and the radius is searched for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustnas.bounds import margins_within
from robustnas.device import full_precision
from robustnas.errors import InputError
from robustnas.frozen import frozen
from robustnas.report import Report, silent
from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel

ROUNDING = 64.0
"""Certified margins are lowered by this many units of rounding of the largest logit, against close calls."""


def margins(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str = "crown-ibp",
    batch: int = 64,
    report: Report = silent,
) -> Tensor:
    """Certified lower bounds of the margins f_y - f_j.

    Args:
        network: (N, C, H, W) in [0, 1] -> (N, K) logits; left in the mode it was in.
        images: (N, C, H, W) in [0, 1], float32 or float64, on any device.
        labels: (N,) true classes.
        method: `ibp`, `crown-ibp` or `crown`.
        batch: images at a time.

    Returns:
        (N, K - 1) in logits, on the images' device, columns in the order of the classes without the true one.
        -inf where no finite bound exists; never NaN.

    Raises:
        InputError: images or labels are not as above.
        UnsupportedOpError: the network uses a function without a bound rule.
    """
    _check(images, labels, batch)
    parts: list[Tensor] = []
    with frozen(network), full_precision(), torch.no_grad():
        for part, part_labels in _batches(network, images, labels, batch):
            epsilon = torch.full((len(part),), threat.epsilon, dtype=part.dtype, device=part.device)
            parts.append(_certified(network, part, part_labels, threat.norm, epsilon, method).to(images.device))
            report(sum(map(len, parts)), len(images), "image")
    return torch.cat(parts)


def radius(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    method: str = "crown-ibp",
    tolerance: float = 1e-3,
    batch: int = 64,
    report: Report = silent,
) -> Tensor:
    """Certified radius of each image: the largest epsilon found at which all margins are certified.

    A bound need not fall steadily with epsilon, so what is returned is always an epsilon that was verified
    itself. A search by bracketing, secants and bisection narrows the place where the bound crosses 0; images
    leave when they are done.

    Args:
        norm: `linf` or `l2`.
        tolerance: relative width at which an image's search ends (an absolute width of 0.001 * tolerance
            ends it too: radii below that are of no interest).  What the number format cannot resolve is not
            asked of it: at least 16 units of rounding.

    Returns:
        (N,) in pixel units, on the images' device; 0 for a misclassified image; at most 1 (linf) or sqrt(d)
        (l2), which means the whole box of images.

    Raises:
        InputError: images, labels, norm or tolerance are not as above.
        UnsupportedOpError: the network uses a function without a bound rule.
    """
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown; known are {', '.join(NORMS)}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance {tolerance} is not between 0 and 1")
    _check(images, labels, batch)
    parts: list[Tensor] = []
    with frozen(network), full_precision(), torch.no_grad():
        for part, part_labels in _batches(network, images, labels, batch):
            parts.append(_radius(network, part, part_labels, norm, method, tolerance).to(images.device))
            report(sum(map(len, parts)), len(images), "image")
    return torch.cat(parts)


def _check(images: Tensor, labels: Tensor, batch: int) -> None:
    if batch < 1:
        raise InputError(f"batch {batch} is not a number of images; use at least 1")
    if images.dim() < 2 or len(images) == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{len(images)} images but labels of shape {tuple(labels.shape)}; expected ({len(images)},)")


def _batches(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches on the network's device, without the caller's graph."""
    held = next((tensor for tensor in (*network.parameters(), *network.buffers())), images)
    parts = zip(torch.split(images.detach(), batch), torch.split(labels, batch), strict=True)
    for part, part_labels in parts:
        yield part.to(held.device), part_labels.to(held.device)


def _certified(network: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: Tensor, method: str) -> Tensor:
    """(N, K - 1) bounds, lowered by a slack for rounding."""
    bound = margins_within(network, images, labels, norm, epsilon, method)
    size = network(images).abs().amax(dim=1, keepdim=True)
    lowered = bound - ROUNDING * torch.finfo(bound.dtype).eps * size
    return torch.where(lowered.isnan(), -torch.inf, lowered)


def _radius(network: nn.Module, images: Tensor, labels: Tensor, norm: str, method: str, tolerance: float) -> Tensor:
    """(N,) for one batch; see `radius`."""
    reach = 1.0 if norm == "linf" else math.sqrt(images[0].numel())
    tolerance = max(tolerance, 16 * torch.finfo(images.dtype).eps)
    margin = _certified(network, images, labels, norm, images.new_zeros(len(images)), "ibp").amin(dim=1)
    right = margin > 0
    # below is verified; above is not, inf while nothing has failed
    below, above = images.new_zeros(len(images)), images.new_full((len(images),), torch.inf)
    at_below, at_above = margin.clone(), torch.full_like(margin, -torch.inf)
    active = right.nonzero().squeeze(1)
    trial = _first_order(network, images, labels, norm, margin)[active].clamp(max=reach)
    while len(active) > 0:
        bound = _certified(network, images[active], labels[active], norm, trial, method).amin(dim=1)
        verified = bound > 0
        good, bad = active[verified], active[~verified]
        # the Illinois rule: an end that stays counts half, so that the secant comes to lie beyond the
        # crossing
        at_above[good] = torch.where(below[good] > 0, at_above[good] / 2, at_above[good])
        at_below[bad] = torch.where(above[bad].isfinite(), at_below[bad] / 2, at_below[bad])
        below[good], at_below[good] = trial[verified], bound[verified]
        above[bad], at_above[bad] = trial[~verified], bound[~verified]
        width = above[active] - below[active]
        done = (width <= tolerance * below[active]) | (width <= 1e-3 * tolerance) | (below[active] >= reach)
        active = active[~done]
        ends = below[active], above[active], at_below[active], at_above[active]
        trial = _next_trial(*ends, tolerance).clamp_max(reach)
    return torch.where(right, below, 0.0)


def _next_trial(below: Tensor, above: Tensor, at_below: Tensor, at_above: Tensor, tolerance: float) -> Tensor:
    """Where to look next: the secant between a verified and an unverified epsilon.

    Where nothing has failed yet, twice as far; where the bound above has no finite value, or is so low that
    a secant says nothing, the middle.  A trial keeps a distance of half the tolerance from both ends, so
    that the last one closes the interval.
    """
    width = above - below
    middle = torch.where(below > 0, below + width / 2, above / 8)
    secant = below + width * at_below / (at_below - at_above)
    vague = ~at_above.isfinite() | (secant - below < 0.01 * width) & (width > 0.1 * below)
    trial = torch.where(vague, middle, secant)
    step = torch.minimum(0.6 * tolerance * above, width / 2)
    trial = torch.clamp(trial, below + step, above - step)
    return torch.where(above.isinf(), 2 * below, trial)


def _first_order(network: nn.Module, images: Tensor, labels: Tensor, norm: str, margin: Tensor) -> Tensor:
    """(N,) margin / dual norm of its gradient, the radius of the network's linearisation: where to look
    first."""
    with torch.enable_grad():
        leaf = images.clone().requires_grad_()
        logits = network(leaf)
        true = logits.gather(1, labels[:, None].long()).squeeze(1)
        wrong = logits.scatter(1, labels[:, None].long(), -torch.inf).amax(dim=1)
        (gradient,) = torch.autograd.grad((true - wrong).sum(), leaf, allow_unused=True, materialize_grads=True)
    length = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL_ORDER[norm], dim=1)
    guess = margin / length.clamp_min(torch.finfo(length.dtype).tiny)
    return torch.nan_to_num(guess, nan=1e-3, posinf=1e6).clamp_min(1e-6)
