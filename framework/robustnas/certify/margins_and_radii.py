"""Verification-based evaluation: certified margins and certified radii of a trained network.

An image is certified at a threat model when all its certified margins are above 0: then no admissible image
is classified otherwise.  `robustnas.bounds` computes the bounds; here the network is put into eval mode,
frozen, and put back, images go through in batches, and the radius is searched for.

Rounding.  What is certified is the network with its weights as they are, in exact arithmetic.  Every margin is first
lowered by a slack, for whoever computes the network in the same number format: units of rounding of the largest logit
or of the bound itself, whichever is larger, and several times the error that the forward pass of this very image makes
(measured against float64).  Then, what float32 has certified is computed again in float64, and that is the verdict; it
is rounded down to float32.  A float64 network has nothing finer to be checked by: its margins are lowered by the units
of rounding alone, which covers errors that are not amplified more than some 64 times on their way to the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from attrs import define, frozen
from torch import Tensor, nn

from robustnas.attack.pgd import ascend
from robustnas.bounds import BoundMethod, Branching, margins_within
from robustnas.bounds.margins import completed_within
from robustnas.bounds.methods import bound_method
from robustnas.bounds.propagation import Network
from robustnas.certify.bracket import Bracket
from robustnas.errors import InputError, UnsupportedOpError, VerdictError
from robustnas.nn.float64 import doubled
from robustnas.nn.margin import margin_to_best_other
from robustnas.nn.read_only import read_only
from robustnas.nn.wrappers import unwrapped
from robustnas.runtime.device import float64_here
from robustnas.runtime.precision import full_precision
from robustnas.runtime.report import Report, silent
from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel, largest_radius

ROUNDING = 64.0
"""Certified margins are lowered by this many units of rounding of the largest logit or of the margin, in the number
format the network computes in."""

MEASURED = 8.0
"""Certified margins are lowered by this many times the largest error of a logit at the clean image, if that is more."""

ANSWERS = 1024.0
"""Two answers to an image may differ by this many units of rounding of the largest logit: devices sum in any order."""

CLOSE = 2.0**-10
"""Margins below 0 by less than this share of the largest logit are computed again in float64 too."""

ATTEMPTS = 40
"""Steps of PGD that look for a misclassified image before anything is proved."""

FLOOR = 1e-12
"""A radius below this, in pixel units, is reported as 0."""


def margins(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str | BoundMethod = "crown-ibp",
    batch: int = 64,
    report: Report = silent,
) -> Tensor:
    """Certified lower bounds of the margins f_y - f_j.

    Args:
        network: (N, C, H, W) in [0, 1] -> (N, K) logits; left in the mode it was in.
        images: (N, C, H, W) in [0, 1], float32 or float64, on any device.
        labels: (N,) true classes.
        method: `ibp`, `crown-ibp`, `crown`, `alpha-crown` or `bab`, or an object such as `robustnas.bounds.Crown()`.
        batch: images at a time.

    Returns:
        (N, K - 1) in logits, on the images' device, columns in the order of the classes without the true one.
        -inf where no finite bound exists; never NaN.

    Raises:
        InputError: images or labels are not as above.
        UnsupportedOpError: the network uses a function without a bound rule, or answers one image in different ways.
    """
    network = unwrapped(network)

    def compute(part: Tensor, own: Tensor) -> Tensor:
        return _Batch(network, part, own, threat.norm, method).margins(threat.epsilon)

    return _in_batches(network, images, labels, compute, batch, report)


@frozen(eq=False)
class Verified:
    """What method `bab` found of each image.

    Args:
        margins: (N, K - 1) as those of `margins`.
        refuted: (N,) bool: an admissible image that the network takes for another class is known; it is not certified.
            An image that is neither refuted nor certified is open: the budget did not do.
        witnesses: (N, C, H, W) that admissible image, in float64 where the check was; the clean one where none is
            known.
    """

    margins: Tensor
    refuted: Tensor
    witnesses: Tensor

    @property
    def certified(self) -> Tensor:
        """(N,) bool: no admissible image is classified otherwise."""
        return (self.margins > 0).all(dim=1)


def verify(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: Branching | None = None,
    batch: int = 64,
    report: Report = silent,
) -> Verified:
    """Prove or refute every image, as far as the budget of each goes: by PGD, `crown`, and branch and bound.

    Args:
        network, images, labels, batch: as for `margins`.
        method: with the budget; default `Branching()`, 30 seconds an image.

    Raises:
        InputError, UnsupportedOpError: as `margins`; also of a network that ends in a softmax.
        VerdictError: a bound is wrong.
    """
    network, found = unwrapped(network), []

    def compute(part: Tensor, own: Tensor) -> Tensor:
        verified = _Batch(network, part, own, threat.norm, Branching() if method is None else method).verified(threat)
        found.append(verified)
        return verified.margins

    bounds = _in_batches(network, images, labels, compute, batch, report)
    told = [torch.cat([getattr(one, name).to(images.device) for one in found]) for name in ("refuted", "witnesses")]
    return Verified(bounds, *told)


def radius(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    method: str | BoundMethod = "crown-ibp",
    tolerance: float = 1e-3,
    batch: int = 64,
    report: Report = silent,
) -> Tensor:
    """Certified radius of each image: the largest epsilon found at which all margins are certified.

    A bound need not fall steadily with epsilon, so what is returned is always an epsilon that was verified
    itself. A search by bracketing, secants and bisection narrows the place where the bound crosses 0; images
    leave when they are done.

    Args:
        norm: `linf`, `l2` or `l1`.
        tolerance: relative width at which an image's search ends (an absolute width of 0.001 * tolerance
            ends it too: radii below that are of no interest).  What the number format cannot resolve is not
            asked of it: at least 16 units of rounding.

    Returns:
        (N,) in pixel units, on the images' device; 0 for a misclassified image; at most 1 (linf), sqrt(d) (l2) or
        d (l1), which means the whole box of images.

    Raises:
        InputError: images, labels, norm or tolerance are not as above.
        UnsupportedOpError: the network uses a function without a bound rule, or answers one image in different ways.
    """
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown; known are {', '.join(NORMS)}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance {tolerance} is not between 0 and 1")
    network = unwrapped(network)

    def compute(part: Tensor, own: Tensor) -> Tensor:
        return _Batch(network, part, own, norm, method).radius(tolerance)

    return _in_batches(network, images, labels, compute, batch, report)


def largest_certified(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilons: Sequence[float],
    method: str | BoundMethod = "crown-ibp",
    known: Tensor | None = None,
    batch: int = 64,
) -> Tensor:
    """Find the largest of several epsilons at which each image is certified.

    A ball that is certified holds the smaller ones, so an image certified at one of them needs no bound at the smaller
    ones, and an image that a cheaper method certifies needs none by a dearer one.  The reverse of the former is used
    nowhere: a bound that fails at one radius may hold at a larger one, because of these methods ibp alone is proved to
    fall with epsilon.

    Args:
        epsilons: in pixel units.
        known: (N,) float64 on the CPU, an epsilon at which each image is certified otherwise, 0 for none; default 0.

    Returns:
        (N,) float64 on the CPU: one of `epsilons`, or `known` where that is larger; 0 for none, and for an image that
        is misclassified.

    Raises:
        InputError: images or labels are not as for `margins`.
        UnsupportedOpError: the network uses a function without a bound rule, or answers one image in different ways.
    """
    network = unwrapped(network)
    right = _in_batches(network, images, labels, lambda part, own: network(part).argmax(dim=1) == own, batch, silent)
    found = torch.zeros(len(images), dtype=torch.float64) if known is None else known.clone()
    for epsilon in sorted(epsilons, reverse=True):
        for way in _ways(method):
            undecided = (right.cpu() & (found < epsilon)).nonzero().squeeze(1)
            if len(undecided) > 0:
                some, own, threat = images[undecided], labels[undecided], ThreatModel(norm, epsilon)
                least = margins(network, some, own, threat, way, batch).amin(dim=1)
                found[undecided[least.cpu() > 0]] = epsilon
    return found


def _ways(method: str | BoundMethod) -> list[str | BoundMethod]:
    """Methods to ask in turn whether an image is certified: what a cheaper one certifies, a dearer one does, too."""
    cheap: dict[str, list[str | BoundMethod]] = {"crown": ["crown-ibp"], "alpha-crown": ["crown-ibp", "crown"]}
    return [*cheap.get(bound_method(method).name, ()), method]


def _in_batches(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    compute: Callable[[Tensor, Tensor], Tensor],
    batch: int,
    report: Report,
) -> Tensor:
    """Apply `compute` to batches of images and labels on the network's device, without the caller's graph, and join
    the results on the images' device."""
    if batch < 1:
        raise InputError(f"batch {batch} is not a number of images; use at least 1")
    if images.dim() < 2 or len(images) == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{len(images)} images but labels of shape {tuple(labels.shape)}; expected ({len(images)},)")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), images.device)
    parts: list[Tensor] = []
    with read_only(network), full_precision(), torch.no_grad():
        for part, own in zip(images.detach().split(batch), labels.split(batch), strict=True):
            parts.append(compute(part.to(device), own.to(device)).to(images.device))
            report(sum(map(len, parts)), len(images), "image")
    return torch.cat(parts)


def _check_answers(network: nn.Module, images: Tensor) -> None:
    """Refuse a network whose answer to an image is not a function of that image: nothing can be proved of it.

    The network answers twice, the second time with the images in another order, so that answers which depend on the
    place in the batch are found too.
    """
    before = _random_state(images.device)
    first, second = network(images), network(images.flip(0)).flip(0)
    drawn = not all(map(torch.equal, before, _random_state(images.device)))
    most = (first - second).abs().amax()
    apart = bool(most > ANSWERS * torch.finfo(first.dtype).eps * first.abs().amax())
    if drawn or apart:
        cause = "it draws random numbers" if drawn else "it keeps a state, draws random numbers, or looks at the batch"
        raise UnsupportedOpError(
            f"the network answers the same image in different ways, its logits by up to {float(most):.3g} ({cause}), "
            "so no margin of it can be certified; take that out of its forward pass, or certify the classifier that it "
            "is under noise (section `smoothing` of a recipe)"
        )


def _random_state(device: torch.device) -> list[Tensor]:
    """Copy the states of torch's global generators, from which a forward pass may draw."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@define(eq=False)
class _Batch:
    """Images that are certified together, by one method in one norm."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    norm: str
    method: str | BoundMethod

    @property
    def rechecks(self) -> bool:
        """Whether float32 verdicts are confirmed in float64."""
        return self.images.dtype == torch.float32 and float64_here(self.images.device)

    @cached_property
    def size(self) -> Tensor:
        """The largest magnitude of a logit, for each clean image (N,)."""
        return self.network(self.images).abs().amax(dim=1)  # type: ignore[no-any-return]

    @cached_property
    def slack(self) -> Tensor:
        """By how much margins are lowered at least, (N,); to be read after the bounds have accepted the network."""
        _check_answers(self.network, self.images)
        slack = ROUNDING * torch.finfo(self.size.dtype).eps * self.size
        if self.rechecks:
            error = doubled(self.network)(self.images.double()) - self.network(self.images).double()
            slack = torch.maximum(slack, (MEASURED * error.abs().amax(dim=1)).to(slack))
        return slack

    def bound(self, epsilon: Tensor, method: str | BoundMethod, chosen: Tensor | None = None) -> Tensor:
        """Lowered margins (M, K - 1) of the chosen images within epsilon (M,), in the images' number format."""
        chosen = torch.arange(len(self.images), device=epsilon.device) if chosen is None else chosen
        bound = margins_within(self.network, self.images[chosen], self.labels[chosen], self.norm, epsilon, method)
        return self._lowered(bound, chosen)

    def wide(self, epsilon: Tensor, chosen: Tensor) -> Tensor:
        """Lowered margins (M, K - 1) of the chosen images within epsilon (M,), in float64."""
        network, images, labels = doubled(self.network), self.images[chosen].double(), self.labels[chosen]
        bound = margins_within(network, images, labels, self.norm, epsilon.double(), self.method)
        return self._lowered(bound, chosen)

    def _lowered(self, bound: Tensor, chosen: Tensor) -> Tensor:
        """Subtract from bounds (M, K - 1) of the chosen images what rounding may have added to them."""
        slack = self.slack[chosen, None].to(bound)
        slack = torch.maximum(slack, ROUNDING * torch.finfo(self.images.dtype).eps * bound.abs())
        lowered = bound - slack
        return torch.where(lowered.isnan(), -torch.inf, lowered)

    def verified(self, threat: ThreatModel) -> Verified:
        """Lowered margins and refutations by branch and bound, in float64 where margins are rechecked there."""
        assert isinstance(self.method, Branching)
        threats = torch.full((len(self.images),), threat.epsilon, dtype=torch.float64)
        narrow = torch.promote_types(self.images.dtype, torch.float32)
        self.bound(
            rounded(threats, narrow, up=True).to(self.images.device), "ibp"
        )  # refuses, first, what cannot be bounded
        wide = torch.float64 if self.rechecks else narrow
        network, images = doubled(self.network) if self.rechecks else self.network, self.images.to(wide)
        attacked = ascend(
            lambda some: -margin_to_best_other(network(some), self.labels),
            images,
            threat,
            steps=ATTEMPTS,
            generator=torch.Generator(images.device).manual_seed(0),
        )
        wrong = torch.stack([network(some).argmax(dim=1) != self.labels for some in (images, attacked)])
        # rounding epsilon down would certify a smaller ball than was claimed
        epsilon, worth = rounded(threats, wide, up=True).to(images.device), ~wrong.any(dim=0)
        ball = (self.norm, epsilon, self.method)
        done = completed_within(network, images, self.labels, *ball, worth=worth, slack=self.slack.to(wide))
        by_attack = wrong[1] & ~wrong[0]
        witnesses = torch.where(by_attack.view(-1, *[1] * (images.dim() - 1)), attacked, done.witnesses)
        lowered = self._lowered(done.margins, torch.arange(len(images), device=images.device))
        found = Verified(rounded(lowered, self.images.dtype, up=False), done.refuted | wrong.any(dim=0), witnesses)
        if bool((found.certified & found.refuted).any()):
            raise VerdictError(
                f"an image is proved robust within {threat} and classified otherwise there; a bound is wrong: please "
                "report it, with the network"
            )
        return found

    def margins(self, epsilon: float) -> Tensor:
        """Lowered margins (N, K - 1) within epsilon, from float64 where float32 certifies an image, or nearly so."""
        if isinstance(self.method, Branching):
            return self.verified(ThreatModel(self.norm, epsilon)).margins
        within = torch.full((len(self.images),), epsilon, dtype=torch.float64)
        # rounding epsilon down would certify a smaller ball than was claimed; bounds refuse images of bytes themselves
        dtype = torch.promote_types(self.images.dtype, torch.float32)
        narrow = rounded(within, dtype, up=True).to(self.images.device)
        bound = self.bound(narrow, self.method)
        again = (bound.amin(dim=1) > -CLOSE * self.size).nonzero().squeeze(1)
        if not self.rechecks or len(again) == 0:
            return bound
        wide = self.wide(within.to(self.images.device)[again], again)
        return bound.index_copy(0, again, rounded(wide, bound.dtype, up=False))

    def radius(self, tolerance: float) -> Tensor:
        """Search the largest radius (N,) at which all margins are certified."""
        margin = self.bound(self.images.new_zeros(len(self.images)), "ibp").amin(dim=1)
        tolerance = max(tolerance, 16 * torch.finfo(self.images.dtype).eps)
        active = (margin > 0).nonzero().squeeze(1)
        certified = torch.zeros_like(margin)
        most = math.log(largest_radius(self.norm, self.images[0].numel()))
        least = certified.new_full((len(active),), math.log(FLOOR))
        _, length = logits_and_steepness(self.network, self.images, self.labels, self.norm)
        first = radius_of_lines(margin, length)[active].log()
        bracket = Bracket(least, torch.full_like(least, most), first)
        while len(active) > 0:
            trial = bracket.guess(tolerance)
            bound = self.bound(trial.exp(), self.method, active).amin(dim=1)
            verified = bound > 0
            certified[active[verified]] = trial[verified].exp()
            width = (margin[active] - bound) / margin[active]
            bracket.note(trial, width.clamp_min(torch.finfo(width.dtype).tiny).log(), verified)
            wide = bracket.above - bracket.below > tolerance
            left = (wide & (bracket.above > math.log(1e-3 * tolerance))).nonzero().squeeze(1)
            active, bracket = active[left], bracket.part(left)
        return self._confirmed(certified, tolerance)

    def _confirmed(self, radius: Tensor, tolerance: float) -> Tensor:
        """Shrink radii that float32 has verified until float64 verifies them too."""
        radius, step = radius.clone(), tolerance / 2
        pending = (radius > 0).nonzero().squeeze(1)
        while self.rechecks and len(pending) > 0:
            pending = pending[~(self.wide(radius[pending], pending).amin(dim=1) > 0)]
            shrunk = radius[pending] * (1 - step)
            radius[pending] = torch.where(shrunk > FLOOR, shrunk, 0.0)
            pending, step = pending[radius[pending] > 0], min(2 * step, 0.5)
        return radius


def rounded(values: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """Convert values to a coarser number format, always rounding up or always down."""
    nearest = values.to(dtype)
    wrong = nearest.to(values.dtype) < values if up else nearest.to(values.dtype) > values
    end = torch.full_like(nearest, torch.inf if up else -torch.inf)
    return torch.where(wrong, torch.nextafter(nearest, end), nearest)


def logits_and_steepness(network: Network, images: Tensor, labels: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Logits (N, K) without a graph, and the dual norm (N,) of the gradient of the margin to the best other class, in
    logits per pixel unit."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = network(leaf)
        lead = margin_to_best_other(logits, labels).sum()
        (gradient,) = torch.autograd.grad(lead, leaf, allow_unused=True, materialize_grads=True)
    return logits.detach(), torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL_ORDER[norm], dim=1)


def radius_of_lines(margin: Tensor, length: Tensor) -> Tensor:
    """Certified radius (N,), pixel units, of a network that is linear: its margin over the dual norm of its gradient.

    The network's own certified radius tends to it as the margin shrinks; elsewhere it says where to look first.
    """
    guess = margin / length.clamp_min(torch.finfo(length.dtype).tiny)
    return torch.nan_to_num(guess, nan=1e-3, posinf=1e6).clamp_min(1e-6)
