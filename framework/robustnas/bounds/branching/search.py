"""Which parts are split next, how long, and what is proved, refuted or open of each image."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable
from itertools import count

import torch
from attrs import define, field, frozen
from torch import Tensor

from robustnas.bounds.branching.bounding import bound
from robustnas.bounds.branching.problem import Part, Problem
from robustnas.bounds.branching.witnesses import descend
from robustnas.bounds.propagation import Budget
from robustnas.runtime import interrupt

MORE = 1e-4
"""A margin is proved when its bound exceeds this share of the largest logit: less could be rounding."""


CLIMBS = 30
"""How often the multipliers of a part that cannot be split are optimised from where they are."""


@frozen(eq=False)
class Completed:
    """What was found of each image.

    Args:
        margins: (N, K - 1) lower bounds of the margins, columns in the order of the classes without the true one.
        refuted: (N,) bool: an admissible image that the network takes for another class is known.
        witnesses: (N, ...) that image; the clean one where none is known.
        parts: (N,) how many parts were bounded.
    """

    margins: Tensor
    refuted: Tensor
    witnesses: Tensor
    parts: Tensor


@define(eq=False)
class _Image:
    """The parts of one image's region that are neither proved nor split.

    Attributes:
        least: by column, the least bound of the parts that are done with.
        seconds: spent so far.
        count: of the parts bounded.
    """

    least: dict[int, float]
    heap: list[tuple[float, int, Part]] = field(factory=list)
    seconds: float = 0.0
    count: int = 0
    refuted: bool = False

    def close(self, part: Part) -> None:
        """Be done with a part."""
        self.least[part.column] = min(self.least.get(part.column, math.inf), part.bound)


def complete(problem: Problem, known: Tensor, right: Tensor, slack: Tensor, budget: Budget) -> Completed:
    """Verify every image of a problem, as far as the budget of each goes.

    Args:
        known: (N, K - 1) lower bounds of the margins by other methods.
        right: (N,) bool: the images worth verifying, which are classified rightly and not broken by an attack.
        slack: (N,) by how much bounds will be lowered for rounding; a margin is proved when its bound exceeds it twice.
        budget: of an image, and how parts are bounded.
    """
    with torch.no_grad():
        logits = problem.network(problem.images)
        enough = torch.maximum(MORE * logits.abs().amax(dim=1), 2 * slack.to(logits))
    work = _Work(problem, known, enough, budget)
    work.start(right)
    while work.round():
        pass
    return work.told()


class _Work:
    """The search over all images at once: each round bounds as many parts as go together."""

    def __init__(self, problem: Problem, known: Tensor, enough: Tensor, budget: Budget):
        self.problem, self.known, self.enough, self.budget = problem, known, enough, budget
        self.images = [_Image({}) for _ in range(len(known))]
        self.ticket = count()
        self.witnesses = problem.images.clone()

    def start(self, right: Tensor) -> None:
        """Queue the margins that are not proved, each with its whole region."""
        for image, column in ((self.known <= self.enough[:, None]) & right[:, None]).nonzero().tolist():
            self._queue(Part(image, column, bound=float(self.known[image, column])))

    def round(self) -> bool:
        """Bound the next parts; False where none is left within the budgets.

        Raises:
            Interrupted: the process was asked to stop; what is known of these images is lost.
        """
        interrupt.check()
        began = time.monotonic()
        parts = self._next()
        if not parts:
            return False
        numbers = self.problem.numbers(parts)
        found = bound(self.problem, parts, self.budget, self.enough[numbers])
        witnesses, broken = descend(self.problem, parts, found.images)
        for row, part in enumerate(found.parts):
            image = self.images[part.image]
            if bool(broken[row]) and not image.refuted:
                image.refuted = True
                self.witnesses[part.image] = witnesses[row]
                self._drop(image)
            if image.refuted or part.bound > float(self.enough[part.image]) or _spent(part):
                image.close(part)
            else:
                self._queue(part)
        spent = (time.monotonic() - began) / len(parts)
        for part in parts:
            self.images[part.image].seconds += spent
        return True

    def told(self) -> Completed:
        """Collect what is known of every image."""
        margins = self.known.clone()
        for number, image in enumerate(self.images):
            self._drop(image)
            for column, least in image.least.items():
                margins[number, column] = max(float(margins[number, column]), least)
        device = margins.device
        refuted = torch.tensor([image.refuted for image in self.images], device=device)
        counted = torch.tensor([image.count for image in self.images], device=device)
        return Completed(margins, refuted, self.witnesses, counted)

    def _queue(self, part: Part) -> None:
        heapq.heappush(self.images[part.image].heap, (part.bound, next(self.ticket), part))

    def _drop(self, image: _Image) -> None:
        """Be done with all parts of an image."""
        while image.heap:
            image.close(heapq.heappop(image.heap)[2])

    def _next(self) -> list[Part]:
        """Take the parts to bound next: of each image in turn the one whose bound is least, split in two."""
        taken: list[Part] = []
        while len(taken) < self.budget.batch:
            before = len(taken)
            for image in self._open():
                if len(taken) >= self.budget.batch:
                    break
                part = heapq.heappop(image.heap)[2]
                next_ = part.halves() if part.choice is not None else (part,)
                image.count += len(next_)
                taken.extend(next_)
            if len(taken) == before:
                break
        return taken

    def _open(self) -> Iterable[_Image]:
        """The images with parts to bound and a budget left."""
        for image in self.images:
            if image.heap and image.seconds < self.budget.seconds and image.count < self.budget.parts:
                yield image


def _spent(part: Part) -> bool:
    """Whether a part that cannot be split any more has been climbed often enough.

    Where rectifiers are the only nonlinearities all is linear in it, and its bound goes to its minimum, or beyond all
    bounds where the signs that it fixes contradict each other.
    """
    return part.choice is None and part.tries > CLIMBS
