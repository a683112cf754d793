"""Recipes that are good: what is read, extended, overridden and resolved."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from robustnas.certify.settings import Certify
from robustnas.recipe.document import parse
from robustnas.recipe.faults import Faults
from robustnas.recipe.resolved import resolved
from robustnas.recipe.seeds import Seeds
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas.train.regimes.adversarial import Adversarial
from robustnas.train.regimes.trades import Trades
from support.small_recipes import BASE, faults, recipe

pytestmark = pytest.mark.usefixtures("small_plugins")


# What is read


def test_the_form_of_a_recipe(folder: Path) -> None:
    loaded = recipe("""\
dataset: data
search_space: {name: space, cells: 3}
threat: {norm: linf, epsilon: 8/255}
seeds: [0, 1]
search: {epochs: 50, batch: 64, order: first, gamma: 1e-2}
methods:
  darts:
  cb: {metric: {name: bound, method: crown-ibp}}
  plain: {metric: bound}
  both: {metric: [{name: bound, weight: 0.5}, {name: inner, radius: 2/255}]}
  off: {metric: bound, search: {gamma: 0}, search_space: {cells: 5}, train: {regime: {steps: 3}}}
  given: {genotype: DARTS_V1, threat: {epsilon: 0.1}}
train: {epochs: 600, regime: adversarial}
attacks:
  - fast
  - {name: steps, steps: 20, step_size: 0.5/255, size: 2/255}
  - {name: steps, threat: {epsilon: 4/255}}
""")
    found = loaded.recipe
    assert loaded.name == "r"
    assert loaded.path == Path("r.yaml")
    assert loaded.source.startswith("dataset: data")
    assert found.dataset.plugin.classes == 2
    assert found.search_space.plugin.cells == 3
    assert found.threat == ThreatModel("linf", 8 / 255)
    assert found.seeds == Seeds((0, 1))
    assert found.search.gamma == 0.01
    assert found.train.regime == Adversarial()
    assert found.certify == Certify()
    methods = found.methods
    assert list(methods) == ["darts", "cb", "plain", "both", "off", "given"]
    assert methods["darts"].metric == ()
    assert methods["darts"].search == found.search
    assert methods["cb"].metric[0][1].plugin.method == "crown-ibp"
    assert [(weight, use.name) for weight, use in methods["both"].metric] == [(0.5, "bound"), (1.0, "inner")]
    assert methods["both"].metric[1][1].plugin.radius == pytest.approx(2 / 255)
    off = methods["off"]
    assert off.search == Search(epochs=50, batch=64, gamma=0.0)
    assert isinstance(off.search.gamma, float)
    assert off.search_space is not None
    assert off.search_space.plugin.cells == 5
    assert off.train.regime == Adversarial(steps=3)
    assert off.train.epochs == 600
    assert methods["given"].genotype == "DARTS_V1"
    assert methods["given"].threat == ThreatModel("linf", 0.1)
    assert [attack.label for attack in found.attacks] == ["fast", "steps-20", "steps (linf 4/255)"]
    assert found.attacks[1].use.plugin.step_size == pytest.approx(0.5 / 255)
    assert found.attacks[1].threat is None
    assert found.attacks[2].threat == ThreatModel("linf", 4 / 255)


def test_the_scalars_are_those_of_yaml_1_2() -> None:
    text = (
        "[1e-3, 1.5, .5, -3, 0x1F, 0o17, 010, yes, no, on, off, true, False, ~, null, 2026-01-02, 8/255, "
        "'3', .inf, 1_000]"
    )
    node = parse(text, "f", Faults())
    assert node is not None
    wanted = [1e-3, 1.5, 0.5, -3, 31, 15, 10, "yes", "no", "on", "off", True, False, None, None, "2026-01-02", "8/255"]
    assert node.plain() == [*wanted, "3", float("inf"), "1_000"]


def test_attacks_of_other_threats_have_labels_that_say_so(folder: Path) -> None:
    text = """\
certify: {norms: [l1, linf]}
attacks:
  - fast
  - {name: fast, threat: {norm: l2, epsilon: 0.5}}
  - {name: fast, threat: {norm: linf}, label: x}
  - {name: fast, threat: {norm: l1, epsilon: 12}}
  - {name: lib-l2, steps: 3, threat: {norm: l2, epsilon: 1}}
"""
    found = recipe(BASE + text).recipe
    assert [attack.label for attack in found.attacks] == [
        "fast",
        "fast (l2 0.5)",
        "x",
        "fast (l1 12)",
        "lib-l2-3 (l2 1)",
    ]
    threats = [None, ThreatModel("l2", 0.5), None, ThreatModel("l1", 12), ThreatModel("l2", 1.0)]
    assert [attack.threat for attack in found.attacks] == threats
    assert found.attacks[4].use.plugin.steps == 3
    assert found.certify is not None
    assert found.certify.norms == ["l1", "linf"]


@pytest.mark.parametrize("off", ["false", "null", ""])
def test_certification_can_be_switched_off(folder: Path, off: str) -> None:
    assert recipe(f"{BASE}certify: {off}\n").recipe.certify is None
    assert recipe(f"{BASE}certify:\n  norms: []\n").recipe.certify == Certify(norms=[])


# Resolved


def test_the_resolved_recipe_is_a_recipe_that_resolves_to_itself(folder: Path) -> None:
    loaded = recipe(
        BASE
        + """\
  cb:
    metric: [{name: bound, low: 0.1, high: 0.2, weight: 2}, {name: inner, radius: 0.1}]
    threat: {epsilon: 0.5}
  given: {genotype: a.json#B, search_space: {wide: true}}
train: {regime: {name: trades, beta: 2}}
attacks: [fast, {name: steps, threat: {epsilon: 0}, label: none}]
certify: false
"""
    )
    data = resolved(loaded)
    assert data["search_space"] == {"name": "space", "cells": 3, "ops": ["skip"], "wide": False}
    assert data["methods"]["cb"]["metric"][0]["weight"] == 2.0
    assert "weight" not in data["methods"]["cb"]["metric"][1]
    assert data["certify"] is None
    again = recipe(yaml.safe_dump(data, sort_keys=False), name="again.yaml")
    assert resolved(again) == data
    assert again.recipe.methods["cb"].search == loaded.recipe.methods["cb"].search
    assert again.recipe.attacks[1].threat == loaded.recipe.attacks[1].threat == ThreatModel("linf", 0.0)


# extends


def test_a_method_of_the_base_that_is_null_is_left_out(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    kept = recipe("extends: base.yaml\nmethods: {more: {metric: bound}}\n").recipe.methods
    gone = next(name for name in kept if name != "more")
    left = recipe(f"extends: base.yaml\nmethods: {{more: {{metric: bound}}, {gone}: null}}\n").recipe.methods
    assert list(left) == [name for name in kept if name != gone]


def test_extends_merges_mappings_and_replaces_the_rest(folder: Path) -> None:
    (folder / "sub").mkdir()
    Path("sub/base.yaml").write_text(BASE + "search: {epochs: 3, gamma: 0.5}\nseeds: [1, 2, 3]\nattacks: [fast]\n")
    loaded = recipe(
        "extends: base.yaml\nseeds: [7]\nsearch: {epochs: 4}\nmethods: {more: {metric: bound}}\n"
        "search_space: {cells: 9}\nthreat: {epsilon: 0.5}\n",
        name="sub/r.yaml",
    )
    found = loaded.recipe
    assert found.seeds == Seeds((7,))
    assert (found.search.epochs, found.search.gamma) == (4, 0.5)
    assert list(found.methods) == ["darts", "more"]
    assert found.search_space.plugin.cells == 9
    assert found.threat == ThreatModel("linf", 0.5)
    assert len(found.attacks) == 1
    assert loaded.name == "r"


def test_options_do_not_pass_to_a_plugin_of_another_name(folder: Path) -> None:
    Path("base.yaml").write_text(BASE + "  m: {metric: {name: inner, radius: 1}}\n")
    loaded = recipe("extends: base.yaml\nmethods: {m: {metric: {name: bound, share: 0}}}\n")
    assert loaded.recipe.methods["m"].metric[0][1].plugin.share == 0


@pytest.mark.parametrize(
    ("base", "name", "told"),
    [
        ("", "r.yaml", ["r.yaml:2:10: extends: ", "cannot extend itself"]),
        ("", "nothing.yaml", ["r.yaml:2:10: extends: ", "no such file"]),
        ("", "3", ["r.yaml:2:10: extends: ", "found 3; text would do"]),
        ("extends: r.yaml\n", "base.yaml", ["r.yaml:2:10: extends: ", "cycle: r.yaml -> base.yaml -> r.yaml"]),
        ("search: {epochs: x}\n", "base.yaml", ["base.yaml:1:18: search.epochs: "]),
    ],
)
def test_a_base_that_cannot_be_extended_is_told_in_its_place(
    folder: Path, base: str, name: str, told: list[str]
) -> None:
    Path("base.yaml").write_text(base + BASE)
    (fault,) = faults(f"seeds: [1]\nextends: {name}\n{BASE}")
    assert fault.startswith(told[0])
    assert told[-1] in fault


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (None, "r.yaml:1:10: extends: base.yaml: no such file"),
        ("", "r.yaml:1:10: extends: base.yaml:1:1: found nothing in the file"),
        ("dataset: [\n", "base.yaml:2:1: not YAML"),
        (f"extends: third.yaml\n{BASE}", "r.yaml:1:10: extends: found 'base.yaml', which extends a recipe itself"),
    ],
)
def test_what_a_base_that_cannot_be_had_may_hold_is_not_missing(folder: Path, base: str | None, told: str) -> None:
    if base is not None:
        Path("base.yaml").write_text(base)
    found = faults(
        "extends: base.yaml\nserch: {}\nthreat: {epsilon: 1/255}\nsearch_space: {cells: 3}\n"
        "attacks: [{name: steps, step: 3}]\nmethods: {m: {metric: {radius: 1}}}\n"
    )
    assert sum(told in fault for fault in found) == 1
    assert sum("serch: unknown section" in fault for fault in found) == 1
    assert sum("attacks.0.step: unknown option" in fault for fault in found) == 1
    assert len(found) == 3


# --set


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.regime={name: trades, beta: 3}", lambda r: r.train.regime == Trades(beta=3.0)),
        # in l2 a radius of 8 is none beyond the range of pixels
        (
            "methods.darts={threat: {norm: l2, epsilon: 9}, train: {regime: {name: certified, epsilon: 8}}}",
            lambda r: getattr(r.methods["darts"].train.regime, "epsilon", 0) == 8.0,
        ),
        ("search.epochs=7", lambda r: r.search.epochs == 7),
        ("search.gamma=1/4", lambda r: r.search.gamma == 0.25),
        ("search={epochs: 2}", lambda r: r.search == Search(epochs=2)),
        ("seeds=[4, 5]", lambda r: r.seeds == Seeds((4, 5))),
        ("attacks.0.steps=3", lambda r: r.attacks[0].label == "steps-3"),
        ("attacks.1=fast", lambda r: r.attacks[1].label == "fast"),
        ("search_space.cells=2", lambda r: r.search_space.plugin.cells == 2),
        ("dataset.first=5", lambda r: r.dataset.plugin.first == 5),
        ("methods.darts.search.epochs=2", lambda r: r.methods["darts"].search.epochs == 2),
        ("methods.v0.5.metric.share=0.25", lambda r: r.methods["v0.5"].metric[0][1].plugin.share == 0.25),
        ("methods.new.metric=bound", lambda r: r.methods["new"].metric[0][1].name == "bound"),
        ("train.regime=trades", lambda r: r.train.regime == Trades()),
        ("certify=false", lambda r: r.certify is None),
    ],
)
def test_set_overrides_a_key(folder: Path, override: str, value) -> None:  # type: ignore[no-untyped-def]
    text = (
        BASE
        + "  v0.5: {metric: bound}\nattacks: [steps, {name: steps, label: x}]\n"
        + "search: {epochs: 3, gamma: 0.1}\n"
    )
    if "new" not in override and override != "attacks.1=fast":
        assert not value(recipe(text).recipe)
    assert value(recipe(text, override).recipe)
    assert value(recipe(text + "seeds: [0, 0]\n", override, "seeds=[4, 5]").recipe), "a fault that --set mends is none"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("search.epochs=two", "--set search.epochs=two: search.epochs: found 'two' (text); an integer would do"),
        ("search.epocs=2", "--set search.epocs=2: search.epocs: unknown key of search; did you mean 'epochs'?"),
        ("attacks.7.steps=2", "--set attacks.7.steps=2: attacks.7: found '7' as an index"),
        ("search.epochs", "--set search.epochs: found no dotted key before '='"),
        ("=3", "found no dotted key"),
        ("search..epochs=3", "found no dotted key"),
        ("seeds=[1", "--set seeds=[1: not YAML"),
        ("threat.epsilon=-1", "--set threat.epsilon=-1: threat.epsilon: epsilon must be at least 0"),
        ("threat.epsilon.x=1", "threat.epsilon"),
        ("extends=other.yaml", "it belongs in the file"),
        ("serch.epochs=2", "--set serch.epochs=2: serch: unknown section; did you mean 'search'?"),
    ],
)
def test_set_is_checked_as_strictly(folder: Path, override: str, told: str) -> None:
    (fault,) = faults(BASE + "attacks: [fast]\n", override)
    assert told in fault
