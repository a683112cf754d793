"""Square's random search: a candidate an image and query, kept if it lowers the margin.

Source: Andriushchenko et al. 2020, arXiv:1912.00049, algorithm 1.

On a small network the time goes into the many small operations around it, so random numbers come in blocks of many
iterations, and squares are looked up instead of drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.nn.margin import margin_to_best_other
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks import square_moves

BLOCK = 64
"""Iterations whose random numbers are made at once."""

SHRINKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations, of `PAPER_QUERIES`, after which the share of pixels that a square covers is halved."""

PAPER_QUERIES = 10000


class SquareSearch(BallAttack):
    """Square attack.

    Args:
        norm: `linf`, `l2` or `l1`.
        queries: evaluations of an image in a restart.
        p_init: share of the pixels that the first squares cover.
        restarts: runs from new starts.
        shared: the reference's places: one for all images, never in the last row and column.  They are drawn from a
            stream that knows no image, so that an image has the same ones in any batch.
        rescaled: stretch the schedule of shares over `queries`.
    """

    access = "black-box"

    def __init__(self, norm: str, *, queries: int, p_init: float, restarts: int, shared: bool, rescaled: bool):
        super().__init__(norm)
        self.queries = queries
        self.p_init = p_init
        self.restarts = restarts
        self.shared = shared
        self.rescaled = rescaled

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
        moves = square_moves.moves(images[standing], threat, self.shared)
        own = draws.of("square", restart).at(standing)
        common = PerImageRandom.of_images(0, "square", torch.full((1,), restart), images.device)
        labels = labels[standing]
        best, lowest = moves.clean, torch.full((len(standing),), float("inf"), device=images.device)
        numbers = torch.empty(0)
        for query in range(self.queries):
            if query == 0:
                candidate = moves.start(own.of("start"), (common if self.shared else own).of("start"))
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
        if self.shared:
            numbers[:, :, :shared] = common.of("block", block).uniform(BLOCK, shared)
        return numbers
