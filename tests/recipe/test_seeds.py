"""Section `seeds` in one list or two, and the keys `strategy` and `best_of` of a method."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.errors import RecipeError
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.recipe.resolved import resolved
from robustnas.recipe.seeds import Seed, Seeds
from robustnas.search.candidates import BestOf
from support.tiny_plan import RECIPE

NESTED = "seeds={search: [0, 5], train: [1, 2]}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def faults(recipe: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(recipe, overrides)
    return "\n".join(caught.value.faults)


def test_one_list_searches_and_trains_and_two_are_nested(recipe: Path):
    assert load(recipe).recipe.seeds.all == (Seed(0), Seed(1))
    nested = load(recipe, [NESTED]).recipe.seeds
    assert nested == Seeds((0, 5), (1, 2))
    assert list(map(str, nested.all)) == ["0.1", "0.2", "5.1", "5.2"]
    assert list(map(str, nested.of_one_genotype)) == ["0.1", "0.2"]
    assert all(Seed.of(str(seed)) == seed for seed in (*nested.all, Seed(3)))
    assert resolved(load(recipe, [NESTED]))["seeds"] == {"search": [0, 5], "train": [1, 2]}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seeds={search: [0]}", "seeds.train: missing; a list of integers would do, such as train: [0, 1, 2]"),
        ("seeds={search: [], train: [0]}", "seeds.search: found an empty list"),
        ("seeds={search: [0, 0], train: [-1]}", "seeds.train.0: found -1; at least 0 would do"),
        ("seeds={search: [0], train: [0], test: [0]}", "unknown key of seeds"),
        ("methods.darts={strategy: randon}", "no strategy is called 'randon'; did you mean 'random'?"),
        ("methods.darts={strategy: {name: random, samples: 3}}", "unknown option of strategy 'random'"),
        ("methods.darts={strategy: random-search}", "methods.darts.strategy.samples: missing; integer would do"),
        ("methods.darts={strategy: {name: random-search, samples: 1}}", "strategy.samples: found 1"),
        (
            "methods.darts={strategy: {name: evolution, objective: speed}}",
            "methods.darts.strategy.objective: found 'speed'; clean, robust, certified, metric",
        ),
        (
            "methods.darts={strategy: {name: evolution, network: untrained}}",
            "found the objective robust beside network: untrained, which gets no image right",
        ),
        (
            "methods.darts={strategy: {name: evolution, population: 9, candidates: 3}}",
            "methods.darts.strategy.population: found 9 beside candidates: 3",
        ),
        (
            "methods.darts={strategy: {name: evolution, objective: metric}}",
            "methods.darts.strategy: evolution asks for a metric with score, and the method has none; metric: jacobian",
        ),
        (
            "methods.darts={strategy: {name: evolution}, metric: jacobian, search: {epochs: 3}}",
            "methods.darts.metric: found beside strategy: evolution; no search would use it",
        ),
        (
            "methods.darts={strategy: {name: projection, criterion: outer}, metric: jacobian}",
            "methods.darts.strategy: projection asks for a metric with outer loss, and the method has none",
        ),
        (
            "methods.darts={strategy: {name: multi-objective, objectives: [clean]}}",
            "methods.darts.strategy.objectives: found ['clean']; two or more",
        ),
        (
            "methods.darts={strategy: {name: multi-objective, prefer: certified}}",
            "methods.darts.strategy.prefer: found 'certified'; one of clean, robust, parameters would do",
        ),
        ("methods.darts={best_of: 1}", "methods.darts.best_of: found 1"),
        ("methods.darts={best_of: {samples: 2, holdout: 1}}", "methods.darts.best_of.holdout: found 1"),
        ("methods.darts={strategy: random, metric: jacobian}", "darts.metric: found beside strategy: random; no"),
        ("methods.darts={genotype: DARTS_V2, best_of: 2}", "methods.darts.best_of: found beside genotype"),
        (
            "methods.darts={strategy: {name: random-search, samples: 2}, best_of: 3}",
            "methods.darts.best_of: found beside strategy: random-search, whose options say it",
        ),
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_in_its_place(recipe: Path, override: str, told: str):
    assert told in faults(recipe, override)


def test_random_search_is_the_best_of_random_genotypes(recipe: Path):
    methods = "methods={a: {strategy: {name: random-search, samples: 4, epochs: 2}}, b: {best_of: 3}, c: {}}"
    loaded = load(recipe, [methods])
    a, b, c = loaded.recipe.methods.values()
    assert (a.strategy.name, a.best_of) == ("random-search", BestOf(4, epochs=2))
    assert (b.strategy.name, b.best_of, c.best_of) == ("bilevel", BestOf(3), None)
    written = resolved(loaded)["methods"]
    assert written["a"]["strategy"] == {"name": "random-search", "samples": 4, "epochs": 2, "holdout": 0.1}
    assert not {"search", "best_of"} & {*written["a"]}
    assert "strategy" not in written["b"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "methods.darts={strategy: one-shot, metric: jacobian}",
            "methods.darts.metric: found 'jacobian', of which one-shot uses nothing; a metric with inner loss would do",
        ),
        (
            "methods.darts={strategy: one-shot, search: {alpha_lr: 3}}",
            "methods.darts.search.alpha_lr: found beside strategy: one-shot, which has no alpha",
        ),
        (
            "methods.darts={strategy: {name: evolution, objective: metric}, metric: [jacobian, adversarial-training]}",
            "found 'adversarial-training', of which evolution uses nothing; a metric with score would do",
        ),
    ],
    ids=["score", "alpha", "inner loss"],
)
def test_what_a_strategy_would_ignore_is_refused(recipe: Path, override: str, told: str):
    assert told in faults(recipe, override)


def test_projections_by_other_metrics_are_other_searches(recipe: Path):
    one = "{strategy: {name: projection, criterion: metric}, metric: METRIC, search: {gamma: 0}}"
    metrics = ("jacobian", "lipschitz")
    methods = ", ".join(f"{name}: {one.replace('METRIC', name)}" for name in metrics)
    plan = make(load(recipe, [f"methods={{{methods}, darts: {{search: {{gamma: 0}}}}}}"]))
    keys = {stage.key for stage in plan.stages if stage.kind == "search"}
    assert len(keys) == 3 * len(plan.seeds.search)


def test_a_sweep_leaves_methods_alone_whose_strategy_has_no_use_for_the_key(recipe: Path):
    methods = "methods={a: {metric: jacobian}, e: {strategy: evolution}, s: {strategy: one-shot}}"
    loaded = load(recipe, [methods, "sweep={search.w_lr: [0.1, 0.2]}"])
    assert list(loaded.recipe.methods) == ["a_w_lr_0.1", "a_w_lr_0.2", "e", "s_w_lr_0.1", "s_w_lr_0.2"]
