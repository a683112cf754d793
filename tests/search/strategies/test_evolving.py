"""Strategies that have candidates judged, on figures that are known: evolution, several objectives, one shot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attrs import Factory, define, evolve

from robustnas.contracts import Estimation
from robustnas.errors import InputError, RunError
from robustnas.search.strategies import multi_objective
from robustnas.search.strategies.evolution import Evolution, changed, drawn
from robustnas.search.strategies.judging import better
from robustnas.search.strategies.multi_objective import MultiObjective, pareto
from robustnas.search.strategies.one_shot import OneShot

COUNTS = (4, 3, 5, 2, 1, 6)
TARGET = (2, 1, 4, 0, 0, 3)


class Space:
    """Genotypes are their decisions."""

    decisions = COUNTS

    def decide(self, options):
        return {"options": [int(option) for option in options]}

    def sample(self, generator):
        return self.decide(drawn(COUNTS, generator))


@define
class Judged:
    """Known figures: how many decisions are those of `TARGET`, and the sum of the options as weights."""

    asked: list[Any] = Factory(list)
    failing: Any = lambda options: False

    def __call__(self, genotype, how):
        options = genotype["options"]
        self.asked.append((tuple(options), how))
        right = sum(option == wanted for option, wanted in zip(options, TARGET, strict=True))
        known = {"robust": right, "clean": right, "metric": -sum(options), "parameters": sum(options)}
        return {one: math.nan if self.failing(options) else float(known[one]) for one in how.objectives}


def context(judged: Judged, seed: int = 0) -> Any:
    class Context:
        space = Space()
        estimate = judged
        generator = torch.Generator().manual_seed(seed)

    Context.seed = seed
    return Context()


def test_a_change_is_one_decision_that_has_a_choice():
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        options = drawn(COUNTS, generator)
        other = changed(options, COUNTS, generator)
        (place,) = (n for n, pair in enumerate(zip(options, other, strict=True)) if pair[0] != pair[1])
        assert all(0 <= option < count for option, count in zip(other, COUNTS, strict=True))
        seen.add((place, (other[place] - options[place]) % COUNTS[place]))
    assert seen == {(place, step) for place, count in enumerate(COUNTS) for step in range(1, count)}
    assert changed((0, 0), (1, 1), generator) == (0, 0), "nothing is free"


def test_evolution_finds_what_is_best_and_asks_for_no_more_than_it_says():
    judged = Judged()
    found = Evolution(candidates=200, population=20, tournament=5).search(context(judged))
    assert found["genotype"]["options"] == [*TARGET]
    assert found["robust"] == len(TARGET)
    assert len(judged.asked) == 200
    # as often drawn blindly: one of 720 is the target, and drawing finds it in one of four such searches
    blind = [drawn(COUNTS, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert TARGET not in blind


def test_evolution_ages_out_the_oldest_and_changes_a_better_one_of_those_alive():
    judged, parents = Judged(), []
    Evolution(candidates=60, population=6, tournament=6).search(context(judged))
    asked = [options for options, _ in judged.asked]

    def right(options):
        return sum(a == b for a, b in zip(options, TARGET, strict=True))

    for place in range(6, 60):
        alive = asked[place - 6 : place]
        near = [one for one in alive if sum(a != b for a, b in zip(one, asked[place], strict=True)) == 1]
        assert near, "a child is one decision from one of those alive"
        parents.append(max(map(right, near)) - sum(map(right, alive)) / len(alive))
    assert sum(parents) > 0, "parents are better than those alive with them"


def test_what_is_few_is_better_where_weights_count():
    found = Evolution(objective="parameters", candidates=150, population=10).search(context(Judged()))
    assert found["genotype"]["options"] == [0] * len(COUNTS)


def test_candidates_that_cannot_be_judged_are_no_end_unless_all_are():
    judged = Judged(failing=lambda options: options[0] != 2)
    found = Evolution(candidates=100, population=10).search(context(judged))
    assert found["genotype"]["options"][0] == 2
    for strategy in (Evolution(), OneShot(candidates=3), MultiObjective()):
        with pytest.raises(RunError, match="no candidate could be judged"):
            strategy.search(context(Judged(failing=lambda options: True)))


@pytest.mark.parametrize(
    ("objective", "one", "other", "is_better"),
    [
        ("robust", 1.0, 0.0, True),
        ("robust", 1.0, 1.0, False),
        ("parameters", 1.0, 0.0, False),
        ("parameters", 0.0, 1.0, True),
        ("robust", 0.0, math.nan, True),
        ("robust", math.nan, 0.0, False),
        ("robust", math.nan, math.nan, False),
    ],
)
def test_better(objective: str, one: float, other: float, is_better: bool):
    assert better(objective, one, other) is is_better


def test_a_pareto_set_is_what_nothing_else_beats_in_everything():
    figures = [(3, 9), (3, 8), (5, 9), (1, 1), (5, 9), (4, 8)]
    judged = [({"n": n}, {"clean": float(a), "parameters": float(b)}) for n, (a, b) in enumerate(figures)]
    assert [one["n"] for one, _ in pareto(judged)] == [2, 3, 4, 5]
    for one, mine in pareto(judged):
        for _, other in judged:
            assert not (
                other["clean"] >= mine["clean"] and other["parameters"] <= mine["parameters"] and other != mine
            ), one
    assert pareto([judged[0], judged[0]]) == [judged[0]], "each genotype is there once"


class TestSeveralObjectives:
    pytestmark = pytest.mark.skipif(
        not multi_objective.importlib.util.find_spec("optuna"),
        reason="optuna is not installed: robustnas[multi-objective]",
    )

    def test_the_set_holds_the_best_of_each_and_the_row_is_the_preferred_one(self):
        judged = Judged()
        strategy = MultiObjective(objectives=["robust", "parameters"], candidates=200, population=20)
        found = strategy.search(context(judged))
        assert len(judged.asked) == 200
        assert {how.objectives for _, how in judged.asked} == {("robust", "parameters")}
        best = max(one["robust"] for one in found["pareto"])
        assert found["robust"] == best >= 5
        light = evolve(strategy, prefer="parameters").search(context(Judged()))
        assert light["parameters"] == min(one["parameters"] for one in light["pareto"]) <= 2

    def test_one_seed_one_search(self):
        def asked(seed):
            judged = Judged()
            MultiObjective(candidates=40).search(context(judged, seed))
            return judged.asked

        assert asked(1) == asked(1) != asked(2)

    def test_without_optuna_it_is_refused_with_the_extra(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(multi_objective.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'robustnas\[multi-objective\]'"):
            MultiObjective().check()


class TestOneShot:
    def test_the_best_of_those_drawn(self):
        judged = Judged()
        found = OneShot(candidates=30).search(context(judged))
        right = {options: sum(a == b for a, b in zip(options, TARGET, strict=True)) for options, _ in judged.asked}
        assert found["robust"] == max(right.values())
        assert found["filtered_out"] == 0
        assert {how for _, how in judged.asked} == {Estimation(("robust",), "inherited")}

    def test_the_filter_lets_the_metric_choose_who_is_tuned(self):
        judged = Judged()
        found = OneShot(candidates=20, keep=0.25, epochs=2).search(context(judged))
        scored, tuned = judged.asked[:20], judged.asked[20:]
        assert {how for _, how in scored} == {Estimation(("metric",), "inherited")}
        assert {how for _, how in tuned} == {Estimation(("robust",), "inherited", 2)}
        assert len(tuned) == 5
        sums = sorted(sum(options) for options, _ in scored)
        assert sorted(sum(options) for options, _ in tuned) == sums[:5], "the metric is the sum's negative"
        assert found["filtered_out"] == 15

    def test_it_asks_for_the_metric_where_it_filters(self):
        assert OneShot().estimation.objectives == ("robust",)
        assert OneShot(keep=0.5).estimation.objectives == ("robust", "metric")
        with pytest.raises(ValueError, match="nothing to choose among"):
            OneShot(keep=0.5, candidates=1)
