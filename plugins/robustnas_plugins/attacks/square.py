"""Square: a random search that paints squares into the ball, and sees nothing of the network but its logits.

    l_inf   a square of the perturbation becomes epsilon or -epsilon, a sign for each channel
    l_2     a square of the perturbation takes the mass of another, as a bump up beside a bump down
    l_1     the same in l_1, then to the nearest image that is in ball and box

A change stays if it lowers the margin f_y - max_{j != y} f_j.  Squares shrink as queries are used up.

On a small network the time goes into the many small operations around it, so random numbers come in blocks of many
iterations, and squares are looked up instead of drawn.

Sources: Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3; for l_1 Croce and Hein 2021, arXiv:2103.01208,
with the constants of the code published with it.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt, in_, instance_of, le
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.nn.margin import margin_to_best_other
from robustnas.options import option
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks import square_moves
from robustnas_plugins.attacks.gradient_steps import RESTARTS

VARIANTS = ("per-sample", "reference")
"""`reference` is what leaderboards of AutoAttack ran: its figures are not those of `per-sample`, which is stronger."""

BLOCK = 64
"""Iterations whose random numbers are made at once."""

SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations, of `PAPER_QUERIES`, after which the share of pixels that a square covers is halved."""

PAPER_QUERIES = 10000


@frozen
class Square(BallAttack):
    """Square attack in l_inf, l_2 or l_1.  Costs up to `queries` evaluations an image and restart, without gradients.

    With `variant: reference` all images share the places of their squares, which come from a stream of random numbers
    that knows no image and no seed: so an image's result is its own there too.
    """

    access = "black-box"

    queries: int = option(5000, "evaluations of an image in one restart, the start included", at_least=1)
    p_init: float = option(0.8, "share of the pixels that the first squares cover", gt(0.0), le(1.0), converter=float)
    restarts: int = option(1, RESTARTS, at_least=1)
    variant: str = option(
        "per-sample",
        "per-sample: every image has squares of its own, anywhere; reference: as the leaderboard's code, "
        "one square for all images, never in the last row or column",
        in_(VARIANTS),
    )
    rescaled: bool = option(
        True,
        "stretch the schedule of square sizes, which the paper gives for 10000 queries, over `queries`; "
        "AutoAttack does not",
        instance_of(bool),
    )

    @property
    def _shared(self) -> bool:
        """Whether all images have the same places, those of the reference: never in the last row and column."""
        return self.variant == "reference"

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return float(self.queries * self.restarts)

    def share(self, iteration: int) -> float:
        """Share of the pixels that a square covers in an iteration, counted from 0."""
        if self.rescaled:
            iteration = iteration * PAPER_QUERIES // self.queries
        return float(self.p_init / 2 ** sum(iteration > end for end in SHRINKS))

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """What the first restart that fools an image finds; of the last one where none does."""
        found = images.clone()
        standing = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            for restart in range(self.restarts):
                if len(standing):
                    standing = self._run(network, images, labels, threat, draws, restart, standing, found)
        return threat.project(found, images)

    def _run(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        draws: PerImageRandom,
        restart: int,
        standing: Tensor,
        found: Tensor,
    ) -> Tensor:
        """One restart on the images at `standing` (n,); writes into `found`, returns who still stands."""
        moves = square_moves.moves(images[standing], threat, self._shared)
        own = draws.of("square", restart).at(standing)
        common = PerImageRandom.of_images(0, "square", torch.full((1,), restart), images.device)
        labels = labels[standing]
        best, lowest = moves.clean, torch.full((len(standing),), float("inf"), device=images.device)
        numbers = torch.empty(0)
        for query in range(self.queries):
            if query == 0:
                candidate = moves.start(own.of("start"), (common if self._shared else own).of("start"))
            else:
                iteration = query - 1
                if iteration % BLOCK == 0:
                    numbers = self._numbers(own, common, iteration // BLOCK, moves.numbers, moves.shared)
                side = moves.side(self.share(iteration))
                candidate = moves.candidate(best, side, numbers[:, iteration % BLOCK])
            logits = network(candidate)
            margins = margin_to_best_other(logits, labels)
            lower = margins < lowest
            lowest = torch.where(lower, margins, lowest)
            best = torch.where(lower[:, None, None, None], candidate, best)
            if bool((lowest <= 0).any()):
                # at a margin of 0 the class of the first of two equal logits decides, as it does for the harness
                stands = ~fooled(logits, labels)
                if not bool(stands.all()):
                    found[standing[~stands]] = candidate[~stands]
                    standing, own, labels = standing[stands], own.at(stands), labels[stands]
                    moves, best, lowest = moves.at(stands), best[stands], lowest[stands]
                    numbers = numbers[stands] if len(numbers) else numbers
                    if not len(standing):
                        return standing
        found[standing] = best
        return standing

    def _numbers(self, own: PerImageRandom, common: PerImageRandom, block: int, count: int, shared: int) -> Tensor:
        """Uniform numbers for a block of iterations: (n, BLOCK, count)."""
        numbers = own.of("block", block).uniform(BLOCK, count)
        if self._shared:
            numbers[:, :, :shared] = common.of("block", block).uniform(BLOCK, shared)
        return numbers
