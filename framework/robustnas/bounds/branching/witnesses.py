"""Images that refute a margin, sought from where a linear bound is least.

From there a few steps of Frank and Wolfe (1956) go down the margin itself: towards the image where its linear part is
least over the region, which is convex, so every image on the way is admissible, in any norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustnas.bounds.branching.problem import Part, Problem

STEPS = 4


def descend(problem: Problem, parts: Sequence[Part], images: Tensor) -> tuple[Tensor, Tensor]:
    """Go down each part's margin from an image of its region, and stop at the first that is classified otherwise.

    Args:
        images: (D, ...) admissible.

    Returns:
        The images (D, ...), and which of them (D,) the network takes for another class.
    """
    region, rows, margins = problem.region(parts), problem.margins(parts), problem.functions[problem.numbers(parts)]
    found, broken = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for step in range(STEPS + 1):
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = problem.network(leaf)
            (slope,) = torch.autograd.grad((rows @ logits.unsqueeze(2)).sum(), leaf)
        wrong = (margins @ logits.detach().unsqueeze(2)).squeeze(2).amin(dim=1) < 0
        found = torch.where((wrong & ~broken).view(-1, *[1] * (images.dim() - 1)), images, found)
        broken = broken | wrong
        if bool(broken.all()) or step == STEPS:
            break
        images = torch.lerp(images, region.lowest(slope), 2 / (step + 2))
    return found, broken
