"""AutoPGD: projected gradient ascent that chooses its own steps, image by image.

Its three forms raise the cross-entropy, the difference of logits ratio, and the same towards target classes.

In l_inf and l_2, with eta the step, x the iterate and P the projection into ball and box:

    z      = P(x_k + eta * unit(gradient))
    x_k+1  = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_k-1))

eta begins at 2 epsilon.  At checkpoints, of which the first is after 22 % of the steps and the windows between them
shrink by 3 % of the steps down to 6 %, eta is halved, and the search goes on from the best iterate so far, where

    at most 75 % of the window's steps raised the loss, or
    eta was not halved at the checkpoint before, and the best loss is what it was there.

In l_1 a step of length eta goes along the signs of the gradient at the pixels where it is largest, of those that the
box lets follow it: two thirds as many as the best iterate has changed.  At a checkpoint where that number has shrunk
to under 95 % of what it was at the one before, eta is set back to epsilon and the search goes on from the best
iterate; elsewhere eta is divided by 1.5, down to epsilon / 10.  There is no momentum, checkpoints are 4 % of the steps
apart, and the search runs in balls of 3, 2 and 1 epsilon for 30, 30 and 40 % of the steps, each from the best iterate
of the one before.

Sources: Croce and Hein 2020, arXiv:2003.01690, section 3 and algorithm 1; in l_1 Croce and Hein 2021,
arXiv:2103.01208, section 3 and algorithm 1.  Starts, ties ("at most", "under") and the distance of checkpoints in l_1
are those of the reference implementation.  Ours: an image leaves with the first iterate that fools, and the first step
is counted as rising if it rises above the start (there, if it rises above 0); in l_1 two thirds are rounded down, and
pixels at the border of the box are passed over.  (Rounded up, two thirds of two pixels are two: both move, the
projection takes the same off both, and the search stands still.  So it does where the steepest pixel is at its border.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch
from attrs import define, field, fields, frozen
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import along, per_image
from robustnas.nn.margin import other_logits
from robustnas.options import option
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.gradient_steps import RESTARTS, shares
from robustnas_plugins.attacks.losses import cross_entropy, dlr, targeted_dlr
from robustnas_plugins.attacks.random_images import far

LOOKS = 3
"""Evaluations of a run beyond its steps, one at each start: of one ball in l_inf and l_2, of three in l_1."""

MOMENTUM = 0.75
"""Weight of the new direction against that of the step before."""

RISING = 0.75
"""Share of a window's steps: more of them must raise the loss, or the step is halved."""

SAMPLES = "passes whose gradients are averaged, for networks whose answers are random"
"""Help of the option `eot_samples`."""


def windows(steps: int) -> Iterator[int]:
    """Steps from one checkpoint to the next, without end: 22, 19, 16, 13, 10, 7, 6, 6, ... for 100."""
    window, least, less = (max(percent * steps // 100, 1) for percent in (22, 6, 3))
    while True:
        yield window
        window = max(window - less, least)


def radii(norm: str, steps: int) -> list[tuple[float, int]]:
    """Radii in which the search runs, in units of epsilon, each with its steps; the sum of these is `steps`."""
    if norm != "l1":
        return [(1.0, steps)]
    wide = min(-(-3 * steps // 10), (steps - 1) // 2)
    return [(3.0, wide), (2.0, wide), (1.0, steps - 2 * wide)] if wide else [(1.0, steps)]


def _ball(threat: ThreatModel, share: float) -> ThreatModel:
    """The threat with epsilon times `share`."""
    return ThreatModel(threat.norm, share * threat.epsilon)


@define(eq=False)
class _Search:
    """The images of one search that still stand, n of them, each with its own step and history.

    Args:
        rows: (n,) int64, their places in the batch.
        clean: (n, C, H, W).
        labels: (n,) int64.
        targets: (n,) int64, target classes; the labels where the loss has none.
        at: (n, C, H, W), the iterate.
        before: the iterate before it.
        gradient: (n, C, H, W), of the loss at the iterate.
        loss: (n,), there.
        best: (n, C, H, W), the iterate of highest loss.
        best_gradient: the gradient there.
        best_loss: (n,).
        length: (n,), the step eta in pixel units.
        rises: (n,), steps since the last checkpoint that raised the loss.
        checked: (n,), the best loss at the last checkpoint.
        shortened: (n,) bool, whether the step was halved there.
        changed: (n,), in l_1 the pixels that the best iterate changed there.
    """

    rows: Tensor
    clean: Tensor
    labels: Tensor
    targets: Tensor
    at: Tensor
    before: Tensor = field(init=False)
    gradient: Tensor = field(init=False)
    loss: Tensor = field(init=False)
    best: Tensor = field(init=False)
    best_gradient: Tensor = field(init=False)
    best_loss: Tensor = field(init=False)
    length: Tensor = field(init=False)
    rises: Tensor = field(init=False)
    checked: Tensor = field(init=False)
    shortened: Tensor = field(init=False)
    changed: Tensor = field(init=False)

    def begin(self, length: float) -> None:
        """All history starts at the iterate `at`, with steps of `length`; gradient and loss are looked at next."""
        self.before = self.best = self.at
        self.gradient = self.best_gradient = torch.zeros_like(self.at)
        self.loss = self.best_loss = self.checked = self.at.new_full((len(self.at),), float("-inf"))
        self.length = torch.full_like(self.loss, length)
        self.rises = torch.zeros_like(self.loss)
        self.shortened = torch.ones_like(self.loss, dtype=torch.bool)
        self.changed = self.pixels_changed(self.at)

    def keep(self, chosen: Tensor) -> None:
        """Keep the chosen images, (n,) bool, and drop the others."""
        for part in fields(_Search):
            setattr(self, part.name, getattr(self, part.name)[chosen])

    def pixels_changed(self, images: Tensor) -> Tensor:
        """Count the pixel values in which `images` differ from the clean ones, (n,)."""
        return (images != self.clean).flatten(1).sum(dim=1).to(images.dtype)

    def remember(self) -> None:
        """Take the iterate as the best where its loss is higher."""
        better = per_image(self.loss > self.best_loss, self.at)
        self.best = torch.where(better, self.at, self.best)
        self.best_gradient = torch.where(better, self.gradient, self.best_gradient)
        self.best_loss = torch.maximum(self.best_loss, self.loss)

    def back_to_best(self, chosen: Tensor) -> None:
        """Go on from the best iterate where chosen, (n,) bool."""
        chosen = per_image(chosen, self.at)
        self.at = torch.where(chosen, self.best, self.at)
        self.gradient = torch.where(chosen, self.best_gradient, self.gradient)


@frozen
class AutoPGDCrossEntropy(BallAttack):
    """AutoPGD on the cross-entropy, in l_inf, l_2 or l_1."""

    loss = staticmethod(cross_entropy)

    steps: int = option(100, "steps of one run; 100 in the source", at_least=1)
    restarts: int = option(1, RESTARTS, at_least=1)
    eot_samples: int = option(1, SAMPLES, at_least=1)

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return float(self.restarts * (self.steps + LOOKS) * self.eot_samples)

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """The first iterate that fools, or the best of the last run."""
        found = images.clone()
        if threat.epsilon == 0 or not len(images):
            return found
        targets = self._targets(network, images, labels)
        rows = torch.arange(len(images), device=images.device)
        for rank in range(targets.shape[1]):
            for restart in range(self.restarts):
                if not len(rows):
                    return found
                first = _ball(threat, radii(threat.norm, self.steps)[0][0])
                start = far(images[rows], first, draws.of("start", rank, restart).at(rows))
                search = _Search(rows, images[rows], labels[rows], targets[rows, rank], start)
                self._run(network, search, threat, found)
                rows = search.rows
        return found

    def _targets(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Target classes of each image in the order they are tried, (N, T) int64; the label where there are none."""
        return labels[:, None]

    def _run(self, network: Network, search: _Search, threat: ThreatModel, found: Tensor) -> None:
        """Take all steps from one start, in one ball after another.

        Args:
            network: as in `perturbed`.
            search: at its start; afterwards it holds the images that still stand.
            threat: the ball in which an image counts as fooled.
            found: (N, C, H, W), of the whole batch; what the run ends with is written into it.
        """
        for share, steps in radii(threat.norm, self.steps):
            ball = _ball(threat, share)
            search.at = ball.project(search.at, search.clean)
            search.begin(ball.epsilon if threat.norm == "l1" else 2 * ball.epsilon)
            self._climb(network, search, ball, steps, threat, found)
            if not len(search.rows):
                return
            search.at = search.best
        found[search.rows] = search.best

    def _climb(
        self,
        network: Network,
        search: _Search,
        ball: ThreatModel,
        steps: int,
        threat: ThreatModel,
        found: Tensor,
    ) -> None:
        """Take the steps in one ball; images that are fooled inside the threat's leave with the iterate."""
        sparse = ball.norm == "l1"
        lengths = repeat(max(4 * steps // 100, 1)) if sparse else windows(steps)
        window, since = next(lengths), 0
        for number in range(steps + 1):
            if number:
                ahead = self._few_pixels(search, ball) if sparse else self._ahead(search, ball, first=number == 1)
                search.before, search.at = search.at, ahead
            previous = search.loss
            fell = self._look(network, search, slopes=number < steps)
            if ball.epsilon > threat.epsilon:
                fell &= threat.distance(search.at, search.clean) <= threat.epsilon
            search.remember()
            if number:
                search.rises = search.rises + (search.loss > previous)
                since += 1
            else:
                search.checked = search.best_loss
            if bool(fell.any()):
                found[search.rows[fell]] = search.at[fell]
                search.keep(~fell)
                if not len(search.rows):
                    return
            if since == window:
                if sparse:
                    self._check_sparsity(search, ball)
                else:
                    self._check_progress(search, window)
                window, since = next(lengths), 0

    def _look(self, network: Network, search: _Search, slopes: bool) -> Tensor:
        """Write the loss, and with `slopes` its gradient, at the iterate; (n,) bool, whether the mean logits fool."""
        at = search.at.detach().requires_grad_(slopes)
        answers, heights, gradient = [], [], torch.zeros_like(search.at)
        with torch.set_grad_enabled(slopes):
            for _ in range(self.eot_samples):
                logits = network(at)
                height = self.loss(logits, search.labels, search.targets)
                if slopes:
                    gradient = gradient + torch.autograd.grad(height.sum(), at)[0]
                answers.append(logits.detach())
                heights.append(height.detach())
        search.loss, search.gradient = torch.stack(heights).mean(dim=0), gradient / self.eot_samples
        return fooled(torch.stack(answers).mean(dim=0), search.labels)

    @staticmethod
    def _ahead(search: _Search, ball: ThreatModel, first: bool) -> Tensor:
        """Take a step in l_inf or l_2, mixed with the step before it."""
        length = per_image(search.length, search.at)
        if ball.norm == "linf":
            ahead = search.at + length * search.gradient.sign()
        else:
            ahead = search.at + length * along(shares(search.gradient))
        ahead = ball.project(ahead, search.clean)
        if first:
            return ahead
        mixed = search.at + MOMENTUM * (ahead - search.at) + (1 - MOMENTUM) * (search.at - search.before)
        return ball.project(mixed, search.clean)

    @staticmethod
    def _few_pixels(search: _Search, ball: ThreatModel) -> Tensor:
        """Take a step in l_1: along the signs of the gradient, at the pixels where it is largest."""
        slopes, at = search.gradient.flatten(1), search.at.flatten(1)
        size = torch.where(torch.where(slopes > 0, at < 1, at > 0), slopes.abs(), 0.0)
        values = size.shape[1]
        # the least of those that move is found by its place from below
        place = values - (search.changed / 1.5).long().clamp(1, values)
        least = size.sort(dim=1).values.gather(1, place[:, None])
        signs = torch.where(size >= least, size.sign() * slopes.sign(), 0.0)
        push = signs * (search.length[:, None] / signs.abs().sum(dim=1, keepdim=True).clamp_min(1.0))
        return ball.project(search.at + push.view(search.at.shape), search.clean)

    @staticmethod
    def _check_progress(search: _Search, window: int) -> None:
        """At a checkpoint in l_inf and l_2, halve the step where the search does not get on."""
        stuck = ~search.shortened & (search.checked >= search.best_loss)
        search.shortened = (search.rises <= RISING * window) | stuck
        search.length = torch.where(search.shortened, search.length / 2, search.length)
        search.checked = search.best_loss
        search.rises = torch.zeros_like(search.rises)
        search.back_to_best(search.shortened)

    @staticmethod
    def _check_sparsity(search: _Search, ball: ThreatModel) -> None:
        """At a checkpoint in l_1, set the step back where the best iterate changes fewer pixels, else shorten it."""
        changed = search.pixels_changed(search.best)
        sparser = changed < 0.95 * search.changed
        shorter = (search.length / 1.5).clamp_min(ball.epsilon / 10)
        search.length = torch.where(sparser, ball.epsilon, shorter)
        search.changed = changed
        search.back_to_best(sparser)


@frozen
class AutoPGDLogitsRatio(AutoPGDCrossEntropy):
    """AutoPGD on the difference of logits ratio, in l_inf, l_2 or l_1; with two classes on the difference."""

    loss = staticmethod(dlr)


@frozen
class AutoPGDTargeted(AutoPGDCrossEntropy):
    """AutoPGD on the ratio towards one target class after another, in l_inf, l_2 or l_1.

    The ratio needs four classes: with fewer it is the difference of the two logits.
    """

    loss = staticmethod(targeted_dlr)

    steps: int = option(100, "steps of one run; 100 in the source", at_least=1)
    restarts: int = option(1, "runs towards each target; images already fooled are left out of the next", at_least=1)
    target_classes: int = option(9, "likeliest wrong classes that are targets, at most all", at_least=1)
    eot_samples: int = option(1, SAMPLES, at_least=1)

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most; one is for finding the targets."""
        targets = min(self.target_classes, classes - 1)
        return float((targets * self.restarts * (self.steps + LOOKS) + 1) * self.eot_samples)

    def _targets(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """The wrong classes that are likeliest for the clean image."""
        with torch.no_grad():
            logits = torch.stack([network(images) for _ in range(self.eot_samples)]).mean(dim=0)
        likely = other_logits(logits, labels).argsort(dim=1, descending=True, stable=True)
        return likely[:, : min(self.target_classes, logits.shape[1] - 1)]
