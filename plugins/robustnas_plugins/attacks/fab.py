"""FAB: the nearest image that fools, by steps to linearised boundaries that stay close to the clean image.

    x <- (1 - alpha) (x + eta d(x)) + alpha (x_0 + eta d(x_0)),
    alpha = min(||d(x)|| / (||d(x)|| + ||d(x_0)||), alpha_max)

d(.) is the shortest way to the boundary of the network made linear at x, inside the box; x_0 is the clean image.  Where
x fools, it is kept if it is the nearest so far, and the search goes on at x_0 + beta (x - x_0).

Source: Croce and Hein 2020, arXiv:1907.02044, algorithm 1; towards given classes as in Croce and Hein 2020,
arXiv:2003.01690.  In the paper an epsilon bounds how far away random starts are; here there is none, and half the
distance of the nearest image found does.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import ge, gt, le, lt
from torch import Tensor
from torch.linalg import vector_norm

from robustnas.attack.foolbox_attack import NearestAttack, Network
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.nn.margin import margin_to_best_other, other_logits
from robustnas.options import option
from robustnas.threat import DUAL_ORDER, largest_radius
from robustnas_plugins.attacks.hyperplane import nearest_step

FINAL = 4
"""Evaluations of the last search, between the nearest image found and the clean one: of that image, and three more."""

VALUES = 1024 * 3 * 32 * 32
"""Pixel values at which several classes go through the network together: about a thousand CIFAR images, fewer larger
ones, so that memory stays that of the batch where images are large.  What is found does not depend on it."""

CLEAR = 1e-5
"""Lead of a wrong class, as a part of the largest |logit|, that the rounding of another batch does not turn."""

RESTARTS = "runs; those after the first start at random, half as far away as the nearest image found"
"""Help of the option `restarts`."""

JUST_BEYOND = 0.02
"""Part of the lead at which the final search aims: at the boundary itself rounding decides who is fooled."""


class FastAdaptiveBoundary(NearestAttack):
    """FAB, untargeted or towards given classes.  Its two plugins have what they leave to their users as fields."""

    steps: int
    """Steps of one run."""

    restarts: int
    """Runs; the second and later start at random."""

    target_classes: int | None = None
    """Wrong classes tried, those of the largest logits on the clean image; None is the untargeted attack."""

    alpha_max: float = 0.1
    """Largest alpha."""

    eta: float = 1.05
    """Overshoot."""

    beta: float = 0.9
    """Share of the perturbation that is kept after an image that fools."""

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """The nearest image found over classes and restarts; the clean one where none fools."""
        count = len(images)
        with torch.no_grad():
            logits = network(images)
            targets = self._targets(logits, labels)
            best, sizes = images.clone(), torch.full((count,), float("inf"), device=images.device)
            together = max(VALUES // max(images.numel(), 1), 1)
            for restart in range(self.restarts):
                known = sizes
                for first in range(0, len(targets), together):
                    ranks = range(first, min(first + together, len(targets)))
                    starts = [
                        self._start(images, known, draws.of("fab", restart, rank)) if restart else images
                        for rank in ranks
                    ]
                    goals = targets[first : ranks.stop]
                    found, far = self._run(network, images, labels, goals, torch.cat(starts))
                    far, which = far.view(len(ranks), count).min(dim=0)
                    found = found.view(len(ranks), *images.shape)[which, torch.arange(count, device=images.device)]
                    best = torch.where((far < sizes)[:, None, None, None], found, best)
                    sizes = torch.minimum(sizes, far)
            near, _ = _leads(logits, labels)
            done = sizes.isfinite()
            if bool(done.any()):
                best[done] = _closer(network, images[done], labels[done], near[done], best[done])
        return best

    def _targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Wrong classes by falling logit, (T, N) int64; in the untargeted attack -1 for any, (1, N)."""
        if self.target_classes is None:
            return torch.full_like(labels, -1)[None]
        likely = other_logits(logits, labels).argsort(dim=1, descending=True)
        return likely[:, : min(self.target_classes, logits.shape[1] - 1)].T

    def _start(self, images: Tensor, sizes: Tensor, draws: PerImageRandom) -> Tensor:
        """Images half as far away as those of `sizes` (N,), in random directions; in the box."""
        shape = images.shape[1:]
        direction = draws.uniform(*shape) * 2 - 1 if self.norm == "linf" else draws.normal(*shape)
        radius = torch.where(sizes.isfinite(), sizes, largest_radius(self.norm, shape.numel())) / 2
        scale = radius / self.size(direction).clamp_min(torch.finfo(direction.dtype).tiny)
        return (images + scale[:, None, None, None] * direction).clamp(0.0, 1.0)

    def _run(
        self, network: Network, images: Tensor, labels: Tensor, targets: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run once towards T classes: targets (T, N), start (T * N, C, H, W) -> nearest images found, their sizes."""
        times = len(targets)
        clean, truth, goals = images.repeat(times, 1, 1, 1), labels.repeat(times), targets.flatten()
        origin, step = clean.flatten(1), nearest_step(self.norm)
        best, sizes = clean, torch.full((len(clean),), float("inf"), device=images.device)
        here = start.flatten(1)
        for _ in range(self.steps):
            leads, normals = self._boundary(network, here.view_as(clean), truth, goals)
            gaps = torch.cat([-leads, -leads - ((origin - here) * normals).sum(dim=1)])
            ways = step(torch.cat([here, origin]), torch.cat([normals, normals]), gaps)
            own, anchored = ways.chunk(2)
            near, far = (self.size(way).clamp_min(1e-8) for way in (own, anchored))
            alpha = (near / (near + far)).clamp_max(self.alpha_max)[:, None]
            here = (1 - alpha) * (here + self.eta * own) + alpha * (origin + self.eta * anchored)
            here = here.clamp(0.0, 1.0)
            tried = here.view_as(clean)
            leads, rounding = _leads(network(tried), truth)
            size = self.size(here - origin)
            nearer = (leads > rounding) & (size < sizes)
            best = torch.where(nearer[:, None, None, None], tried, best)
            sizes = torch.where(nearer, size, sizes)
            # also from the boundary itself, where the next step would have nowhere to go
            there = leads >= -rounding
            here = torch.where(there[:, None], origin + self.beta * (here - origin), here)
        return best, sizes

    def _boundary(self, network: Network, here: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The lead of a class over the label, and its gradient: (n,) and (n, C * H * W).

        The class is the target; in the untargeted attack the one whose boundary, made linear here, is nearest.
        """
        with torch.enable_grad():
            here = here.detach().requires_grad_()
            logits = network(here)
            own = logits.gather(1, labels[:, None])
            if self.target_classes is not None:
                leads = (logits.gather(1, targets[:, None]) - own).squeeze(1)
                (normals,) = torch.autograd.grad(leads.sum(), here)
                return leads.detach(), normals.flatten(1)
            every = logits - own
            slopes = [
                torch.autograd.grad(every[:, other].sum(), here, retain_graph=True)[0].flatten(1)
                for other in range(logits.shape[1])
            ]
        leads, normals = every.detach(), torch.stack(slopes, dim=1)
        lengths = vector_norm(normals, DUAL_ORDER[self.norm], dim=2).clamp_min(1e-12)
        distances = (leads.abs() / lengths).scatter(1, labels[:, None], float("inf"))
        which = distances.argmin(dim=1, keepdim=True)
        return leads.gather(1, which).squeeze(1), normals.gather(1, which[:, :, None].expand_as(normals[:, :1]))[:, 0]


@frozen
class FAB(FastAdaptiveBoundary):
    """Untargeted FAB: every step goes to the nearest of all boundaries and differentiates every logit.

    A part of AutoAttack's version `plus`.
    """

    steps: int = option(100, "steps of one run", at_least=1)
    restarts: int = option(1, RESTARTS, at_least=1)

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs, as for `FABT`; one of two is differentiated once for every class."""
        return float(1 + 2 * self.steps * self.restarts + FINAL)


@frozen
class FABT(FastAdaptiveBoundary):
    """Targeted FAB in l_inf, l_2 or l_1.  Costs `2 * steps * restarts` evaluations an image and class.

    It minimises, so it runs once and serves every epsilon.  Where there are fewer classes than asked for, all wrong
    ones are tried.
    """

    steps: int = option(100, "steps towards each class", at_least=1)
    restarts: int = option(1, RESTARTS, at_least=1)
    target_classes: int = option(9, "wrong classes tried, those of the largest logits on the clean image", at_least=1)
    alpha_max: float = option(
        0.1, "largest weight of the clean image's own step in a step", ge(0.0), le(1.0), converter=float
    )
    eta: float = option(1.05, "factor by which a step overshoots the boundary", ge(1.0), converter=float)
    beta: float = option(
        0.9, "share of the perturbation that is kept after an image that fools", gt(0.0), lt(1.0), converter=float
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs: two a step, one that ranks the classes, and the last search."""
        targets = min(self.target_classes, classes - 1)
        return float(1 + 2 * self.steps * self.restarts * targets + FINAL)


def _leads(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the largest other logit leads the label's, and how much may be rounding: (n, K) -> (n,) both."""
    return -margin_to_best_other(logits, labels), CLEAR * logits.abs().amax(dim=1)


def _closer(network: Network, clean: Tensor, labels: Tensor, near: Tensor, found: Tensor) -> Tensor:
    """Images that fool, between those found and the clean ones: (n, C, H, W) both -> the same.

    The paper's final search: three times to where the lead of the wrong classes, taken as linear between the nearest
    image known to fool and the farthest known not to, is 0 (here as little above as rounding allows).

    Args:
        network: takes any number of images.
        clean: where the search ends.
        labels: (n,) int64.
        near: (n,) leads on the clean images.
        found: images that fool.
    """
    right, wrong = clean, found
    far, rounding = _leads(network(found), labels)
    for _ in range(FINAL - 1):
        aim = torch.maximum(JUST_BEYOND * far, 2 * rounding)
        share = ((aim - near) / (far - near).clamp_min(torch.finfo(far.dtype).tiny)).clamp(0.0, 1.0)
        tried = right + share[:, None, None, None] * (wrong - right)
        lead, rounding = _leads(network(tried), labels)
        fools = lead > rounding
        wrong, far = torch.where(fools[:, None, None, None], tried, wrong), torch.where(fools, lead, far)
        right, near = torch.where(fools[:, None, None, None], right, tried), torch.where(fools, near, lead)
    return wrong
