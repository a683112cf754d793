"""Several objectives at once: genotypes of which none is better in every one (NSGA-II, by optuna).

All of them are in `result.json` (`pareto`), with their figures; the table's row is the one of them that is best in the
objective that is preferred.

Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II"; as used for architectures by
Lu et al. 2019 (NSGA-Net), arXiv:1810.03522.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cmp_to_key
from typing import Any

from attrs import Factory, field, frozen

from robustnas.contracts import OBJECTIVES, Estimation, Genotype, SearchContext, decisions
from robustnas.errors import InputError, RunError
from robustnas.options import option
from robustnas.search.strategies.judging import NONE_JUDGED, Judging, better, check_population


@frozen(kw_only=True)
class MultiObjective(Judging):
    """Keeps the genotypes of which none is better in every objective (NSGA-II); needs robustnas[multi-objective]."""

    objectives: list[str] = field(
        default=Factory(lambda: ["clean", "robust", "parameters"]),
        metadata={"help": "at least two of clean, robust, certified, metric, parameters and multiply_adds"},
    )
    prefer: str | None = option(None, "objective in which the genotype of the table's row is best; default the first")
    candidates: int = option(40, "genotypes that are judged", at_least=2)
    population: int = option(10, "genotypes of a generation", at_least=2)

    needs = ("decisions",)

    @objectives.validator
    def _judged_so(self, attribute: object, objectives: list[str]) -> None:
        if len(objectives) < 2 or len({*objectives}) < len(objectives):
            raise ValueError(f"found {objectives}; two or more, each once, would do")
        for one in objectives:
            self.check_objective(one)

    @prefer.validator
    def _of_objectives(self, attribute: object, prefer: str | None) -> None:
        if prefer is not None and prefer not in self.objectives:
            raise ValueError(f"found {prefer!r}; one of {', '.join(self.objectives)} would do")

    @population.validator
    def _of_candidates(self, attribute: object, population: int) -> None:
        check_population(population, self.candidates)

    @property
    def estimation(self) -> Estimation:
        """How candidates are judged."""
        return self.judged(self.objectives)

    def check(self) -> None:
        """Look whether optuna is there.

        Raises:
            InputError: it is not; names the extra.
        """
        if importlib.util.find_spec("optuna") is None:
            raise InputError(
                "found multi-objective, which needs the package optuna; "
                "pip install 'robustnas[multi-objective]' would do"
            )

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Find genotypes of which none is better in every objective, and choose one of them.

        Raises:
            RunError: no candidate could be judged.
        """
        found = decisions(context.space)
        assert found is not None
        counts, decide = found
        judged: list[tuple[Genotype, dict[str, float]]] = []

        def judge(options: tuple[int, ...]) -> list[float] | None:
            genotype = decide(options)
            figures = context.estimate(genotype, self.estimation)
            values = [float(figures[one]) for one in self.objectives]
            if any(map(math.isnan, values)):
                return None
            judged.append((genotype, dict(zip(self.objectives, values, strict=True))))
            return values

        evolve(
            counts, judge, [OBJECTIVES[one] for one in self.objectives], self.candidates, self.population, context.seed
        )
        front = pareto(judged)
        if not front:
            raise RunError(NONE_JUDGED)
        chosen = self._preferred(front)
        return {
            "genotype": chosen[0],
            **chosen[1],
            "pareto": [{"genotype": genotype, **figures} for genotype, figures in front],
        }

    def _preferred(self, front: list[tuple[Genotype, dict[str, float]]]) -> tuple[Genotype, dict[str, float]]:
        """The best in the preferred objective, of equals in the others in their order, of these the first."""
        first = self.prefer or self.objectives[0]
        order = [first, *(one for one in self.objectives if one != first)]

        def compare(one: tuple[Genotype, dict[str, float]], other: tuple[Genotype, dict[str, float]]) -> int:
            for objective in order:
                if one[1][objective] != other[1][objective]:
                    return -1 if better(objective, one[1][objective], other[1][objective]) else 1
            return 0

        return min(front, key=cmp_to_key(compare))


def evolve(
    counts: Sequence[int],
    judge: Callable[[tuple[int, ...]], list[float] | None],
    rising: list[bool],
    candidates: int,
    population: int,
    seed: int,
) -> None:
    """Let optuna's NSGA-II ask for options of the decisions, and tell it what became of each.

    Args:
        counts: options of each decision.
        judge: options -> a value for each objective; None where the candidate could not be judged.
        rising: by objective, whether more is better.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed % 2**32)
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [up if more else down for more in rising]
    study = optuna.create_study(directions=directions, sampler=sampler)
    named: dict[str, optuna.distributions.BaseDistribution] = {
        f"decision {place}": optuna.distributions.CategoricalDistribution(range(count))
        for place, count in enumerate(counts)
    }
    for _ in range(candidates):
        trial = study.ask(named)
        values = judge(tuple(int(trial.params[name]) for name in named))
        if values is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, values)


def pareto(judged: list[tuple[Genotype, dict[str, float]]]) -> list[tuple[Genotype, dict[str, float]]]:
    """Those that no other is at least as good as in every objective and better in one; each genotype once."""
    distinct: list[tuple[Genotype, dict[str, float]]] = []
    for one in judged:
        if all(one[0] != other[0] for other in distinct):
            distinct.append(one)

    def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
        worse = any(better(objective, other[objective], one[objective]) for objective in one)
        return not worse and one != other

    return [one for one in distinct if not any(dominates(other[1], one[1]) for other in distinct)]
