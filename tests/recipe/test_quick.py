"""`quick: true`: every shipped recipe in a few steps, nothing refused, and a recipe that stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.recipe.document import text_of
from robustnas.recipe.load import load
from robustnas.recipe.resolved import resolved
from robustnas.table.statistics.ranking import FEWEST
from support.small_recipes import BASE, faults, recipe

REQUIRED_STEPS = """
dataset: digits
search_space: {name: darts, cells: 2, channels: 4, network_cells: 2, network_channels: 4}
threat: {norm: linf, epsilon: 0.03}
methods:
  short: {search: {epochs: 1}, train: {epochs: 1}}
  searched: {search: {epochs: 30, warmup_epochs: 20}, best_of: 3}
  certified: {genotype: DARTS_V2, train: {regime: {name: certified, warmup_epochs: 4, ramp_epochs: 5}}}
  best: {strategy: {name: random-search, samples: 8, epochs: 5}}
  "dotted.search": {metric: jacobian}
  dotted: null
seeds: {search: [5, 6], train: [7, 8]}
train: {epochs: 30, accumulate: 12}
evaluate: {images: 5, epsilons: [0.1, 0.2, 0.3]}
certify: true
smoothing: {alpha: 1e-40}
attacks: [{name: pgd, steps: 40, step_size: 0.01, runs: 5}, {name: pgd, steps: 20, step_size: 0.01}, autoattack]
"""


SLOW = ("cifar10", "evidence-digits", "imagenet-transfer", "mnist-certified", "paper/table1")
"""Each has something that the others have not; the default run looks at two more."""


@pytest.mark.parametrize(
    "name", ["ranking-digits", "methods-digits", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_every_shipped_recipe_is_quick_and_stays_so(name: str, folder: Path):
    quick = load(name, ["quick=true"])
    whole, small = load(name).recipe, quick.recipe
    assert (whole.quick, small.quick) == (False, True)
    assert list(small.methods) == list(whole.methods)
    assert [attack.label for attack in small.attacks] == [attack.label for attack in whole.attacks]
    assert len(small.seeds.all) == (FEWEST if small.rank is not None else 1), "whatever ranks may be quick too"
    assert small.train_images <= 2000
    assert small.evaluate.images <= 16
    assert small.certify is None or small.certify.images <= 2
    for method in small.methods.values():
        assert method.search.epochs <= 2
        assert method.train.epochs <= 2
        assert max(method.train.batch, method.search.batch) <= 32
    for attack in small.attacks:
        assert getattr(attack.use.plugin, "steps", 0) <= 3
    (folder / "again.yaml").write_text(text_of(resolved(quick)))
    assert resolved(load("again.yaml")) == resolved(quick)


def test_nothing_is_refused_that_the_whole_recipe_accepts(folder: Path):
    whole, small = recipe(REQUIRED_STEPS).recipe, recipe(REQUIRED_STEPS, "quick=true").recipe
    methods = small.methods
    assert (methods["short"].search.epochs, methods["short"].train.epochs) == (1, 1)
    assert (methods["searched"].search.epochs, methods["searched"].search.warmup_epochs) == (2, 1)
    assert methods["certified"].train.epochs == 16, "its regime takes no fewer than 9"
    assert [methods[name].best_of.samples for name in ("searched", "best")] == [2, 2]
    assert methods["best"].best_of.epochs == 2
    assert methods["dotted"].metric == ()
    assert methods["dotted.search"].metric[0][1].name == "jacobian"
    assert methods["dotted.search"].search == methods["dotted"].search
    assert small.train.batch >= 2 * small.train.accumulate
    assert small.seeds.plain() == {"search": [5], "train": [7]}
    assert small.evaluate.images == 5
    assert small.evaluate.epsilons == [0.1, 0.2]
    assert small.smoothing.samples == whole.smoothing.samples, "fewer certify nothing at this alpha"
    assert small.smoothing.images == 2
    assert [attack.label for attack in small.attacks] == ["pgd-40", "pgd-20", "autoattack"]
    assert small.attacks[0].runs == 2
    assert "quick" not in resolved(recipe(REQUIRED_STEPS))


@pytest.mark.usefixtures("small_plugins", "folder")
def test_verification_has_a_second_an_image():
    found = [
        recipe(f"{BASE}certify: {{method: bab{asked}}}\nquick: true\n").recipe.certify
        for asked in ("", ", seconds: 0.2")
    ]
    assert [certify.budget["seconds"] for certify in found] == [1.0, 0.2]


@pytest.mark.usefixtures("small_plugins")
def test_options_of_third_parties_stay_as_they_are(folder: Path):
    text = BASE + "attacks: [{name: steps, steps: 500}]\nquick: true\n"
    small = recipe(text).recipe
    assert small.attacks[0].use.plugin.steps == 500
    assert small.search_space.options == {"cells": 3}
    assert small.evaluate.images == 16


@pytest.mark.usefixtures("small_plugins")
def test_faults_are_those_of_the_whole_recipe(folder: Path):
    assert faults(BASE + "search: {epochs: 0}\nquick: true\n") == [
        "r.yaml:6:18: search.epochs: found 0; at least 1 would do"
    ]
    assert faults(BASE + "quick: fast\n") == ["r.yaml:6:8: quick: found 'fast' (text); true or false would do"]
