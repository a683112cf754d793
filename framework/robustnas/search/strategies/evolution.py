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
from robustnas.options import option
from robustnas.search.strategies.judging import OneObjective, best, better, check_population

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
        check_population(population, self.candidates)

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
        alive: deque[tuple[Options, float]] = deque()
        judged: list[tuple[Options, float]] = []
        for number in range(min(self.candidates, prod(counts))):
            if number < self.population:
                options = drawn(counts, context.generator)
            else:
                options = changed(self._parent(alive, context.generator), counts, context.generator)
                alive.popleft()
            one = options, context.estimate(decide(options), self.estimation)[self.objective]
            alive.append(one)
            judged.append(one)
        options, figure = best(self.objective, judged)
        return {"genotype": decide(options), self.objective: figure}

    def _parent(self, alive: Sequence[tuple[Options, float]], generator: torch.Generator) -> Options:
        """The best of a tournament; of equals the first, also where none has a figure."""
        first, *others = torch.randint(len(alive), (self.tournament,), generator=generator).tolist()
        parent = alive[int(first)]
        for place in map(int, others):
            parent = alive[place] if better(self.objective, alive[place][1], parent[1]) else parent
        return parent[0]


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
