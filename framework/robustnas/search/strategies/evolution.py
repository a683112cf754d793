"""Regularised evolution: a good genotype is changed in one decision, and the oldest of the population goes.

    population of P drawn at random;  then, until enough are judged:
        parent  <- the best of S of the population, drawn at random with replacement
        child   <- the parent with one decision changed, judged
        the child comes into the population, and the oldest of it goes

The best of all that were judged is kept.  It needs no gradients, so that every metric and every objective will do.
Source: Real et al. 2019, arXiv:1802.01548.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from attrs import frozen

from robustnas.contracts import Estimation, SearchContext, decisions
from robustnas.errors import RunError
from robustnas.options import option
from robustnas.search.strategies.judging import NONE_JUDGED, OneObjective, better

Options = tuple[int, ...]


@frozen(kw_only=True)
class Evolution(OneObjective):
    """Changes one decision of a good genotype at a time; ages out the oldest (regularised evolution)."""

    candidates: int = option(30, "genotypes that are judged, those of the first population among them", at_least=2)
    population: int = option(10, "genotypes of the population", at_least=2)
    tournament: int = option(
        3, "genotypes of the population that are drawn, the best of which is the parent", at_least=1
    )

    needs = ("decisions",)

    @population.validator
    def _of_candidates(self, attribute: object, population: int) -> None:
        if population > self.candidates:
            raise ValueError(
                f"found {population} beside candidates: {self.candidates}, of which the population is a part; at most "
                f"{self.candidates} would do"
            )

    @tournament.validator
    def _of_population(self, attribute: object, tournament: int) -> None:
        if tournament > self.population:
            raise ValueError(f"found {tournament} of a population of {self.population}; at most that would do")

    @property
    def estimation(self) -> Estimation:
        """How candidates are judged."""
        return self.judged([self.objective])

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Find the best genotype of those that evolve.

        Raises:
            RunError: no candidate could be judged.
        """
        found = decisions(context.space)
        assert found is not None
        counts, decide = found
        population: deque[tuple[Options, float]] = deque()
        best: tuple[Options, float] | None = None
        for number in range(min(self.candidates, prod(counts))):
            if number < self.population:
                options = drawn(counts, context.generator)
            else:
                several = torch.randint(len(population), (self.tournament,), generator=context.generator).tolist()
                options = changed(self._best([population[place] for place in several])[0], counts, context.generator)
                population.popleft()
            one = options, context.estimate(decide(options), self.estimation)[self.objective]
            population.append(one)
            best = one if best is None or better(self.objective, one[1], best[1]) else best
        if best is None or best[1] != best[1]:
            raise RunError(NONE_JUDGED)
        return {"genotype": decide(best[0]), self.objective: best[1]}

    def _best(self, several: Sequence[tuple[Options, float]]) -> tuple[Options, float]:
        """The best of some; of equals the first."""
        best = several[0]
        for one in several[1:]:
            best = one if better(self.objective, one[1], best[1]) else best
        return best


def drawn(counts: Sequence[int], generator: torch.Generator) -> Options:
    """An option for each decision, uniformly."""
    return tuple(int(torch.randint(count, (), generator=generator)) for count in counts)


def changed(options: Options, counts: Sequence[int], generator: torch.Generator) -> Options:
    """The same options but for one decision, of those that have a choice, which has another."""
    free = [place for place, count in enumerate(counts) if count > 1]
    if not free:
        return options
    place = free[int(torch.randint(len(free), (), generator=generator))]
    further = 1 + int(torch.randint(counts[place] - 1, (), generator=generator))
    return (*options[:place], (options[place] + further) % counts[place], *options[place + 1 :])
