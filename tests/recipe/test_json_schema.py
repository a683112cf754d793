"""The JSON Schema of recipes takes what the loader takes, and refuses nothing else than what the loader refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from robustnas.cli import main
from robustnas.errors import RecipeError
from robustnas.recipe import shelf
from robustnas.recipe.document import read, text_of
from robustnas.recipe.faults import Faults
from robustnas.recipe.json_schema import recipe_schema
from robustnas.recipe.load import SECTIONS, load
from robustnas.recipe.methods import KEYS
from robustnas.recipe.resolved import resolved
from robustnas.registry import ATTACKS, DATASETS, METRICS, SEARCH_SPACES
from support.fake_package import install

RECIPE: dict[str, Any] = {
    "dataset": {"name": "digits", "train_images": 100},
    "search_space": {"name": "darts", "cells": 2},
    "threat": {"norm": "linf", "epsilon": "8/255"},
    "seeds": {"search": [0, 1], "train": [0]},
    "search": {"epochs": 2, "gamma": {"balance": 0.5}, "order": {"name": "neumann", "terms": 3}},
    "methods": {
        "darts": None,
        "jac": {"metric": {"name": "jacobian", "weight": "1/2"}, "search_space": {"cells": 3}, "best_of": 2},
        "both": {"metric": ["jacobian", "certified-bound"], "threat": {"epsilon": 0.01}, "train": {"epochs": 3}},
        "known": {"genotype": "DARTS_V2"},
        "drawn": {"strategy": {"name": "random-search", "samples": 3}},
    },
    "train": {"regime": {"name": "trades", "steps": 2}},
    "attacks": ["fgsm", {"name": "pgd", "steps": 3, "step_size": "2/255", "runs": 2, "threat": {"epsilon": 0.02}}],
    "certify": False,
    "smoothing": {"sigma": 0.5},
    "evaluate": {"images": 10, "epsilons": ["1/255", 0.01]},
    "rank": {"metrics": ["jacobian", {"name": "certified-bound", "label": "bound"}]},
    "published": {"theirs": {"source": "a paper", "clean": 97.5}, "others": {"source": "another"}},
    "sweep": {"methods": ["both"], "search.gamma": [0.1, {"balance": 2}], "train": {"epochs": [1, 2]}},
    "quick": False,
    "trackers": [],
    "resources": {"every": {"cpus": 8}, "search": {"gpus": 4, "hours": 8}, "train": {"memory": "1/2"}},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def faults(validator: Draft202012Validator, data: Any) -> list[str]:
    return [fault.message for fault in validator.iter_errors(data)]


@pytest.mark.parametrize("name", shelf.names())
def test_every_shipped_recipe_is_valid(validator: Draft202012Validator, name: str) -> None:
    _, root = read(shelf.find(name), Faults())
    assert root is not None
    assert faults(validator, root.plain()) == []


def test_a_recipe_of_every_form_is_valid_and_with_all_defaults_written_too(
    validator: Draft202012Validator, tmp_path: Path
) -> None:
    assert faults(validator, RECIPE) == []
    (tmp_path / "r.yaml").write_text(text_of(RECIPE))
    for recipe in (tmp_path / "r.yaml", "quickstart"):
        written = json.loads(json.dumps(resolved(load(recipe))))
        assert faults(validator, written) == []


WRONG = {
    "sedes": [1],
    "search.epocs": 3,
    "search.epochs": "3",
    "search.batch": 1,
    "search.order.term": 3,
    "search.gamma": {"balanced": 0.5},
    "search_space.cell": 3,
    "threat.norm": "linfty",
    "threat.epsilon": "8/x",
    "methods.jac.metrics": "jacobian",
    "methods.jac.metric.name": "jacobain",
    "methods.both.metric": [{"name": "jacobian", "weight": -1}],
    "methods.both.search_space": {"cell": 3},
    "methods.known.attacks": [],
    "methods.drawn.strategy.samples": 1,
    "methods.a b": {},
    "train.regime.step": 3,
    "train.precision": "float16",
    "attacks.1.step": 3,
    "attacks.1.runs": 0,
    "attacks.1.label": "",
    "attacks.0": "pgd",
    "certify": "yes",
    "smoothing.alpha": 1,
    "evaluate.images": 0,
    "evaluate.epsilons": 0.1,
    "rank.metrics": [],
    "rank.image": 3,
    "published.theirs.clean": -1,
    "published.others": {"clean": 3},
    "dataset.name": "digitss",
    "dataset.train_images": 0,
    "sweep.methods": "both",
    "quick": "yes",
    "trackers": ["tensorbord"],
    "resources.search.gpus": -1,
    "resources.every.cpus": 0,
    "resources.train.hours": 0,
    "resources.serch": {},
}
"""What stands at a key that the loader refuses for itself."""


def set_at(recipe: dict[str, Any], key: str) -> None:
    """Put what is wrong at a key."""
    *way, last = key.split(".")
    holder: Any = reduce(lambda data, part: data[int(part) if isinstance(data, list) else part], way, recipe)
    holder[int(last) if isinstance(holder, list) else last] = WRONG[key]


def test_what_is_wrong_is_refused_by_both(validator: Draft202012Validator, tmp_path: Path) -> None:
    everything = copy.deepcopy(RECIPE)
    for key in WRONG:
        recipe = copy.deepcopy(RECIPE)
        set_at(recipe, key)
        assert faults(validator, recipe), key
        set_at(everything, key)
    (tmp_path / "r.yaml").write_text(text_of(everything))
    with pytest.raises(RecipeError) as told:
        load(tmp_path / "r.yaml")
    lines = "\n".join(told.value.faults)
    assert [key for key in WRONG if f": {key}" not in lines and f": {key.rpartition('.')[0]}: " not in lines] == []
    assert faults(validator, {**RECIPE, "methods": {}})
    assert faults(validator, [])


@pytest.mark.parametrize("key", ["dataset", "threat", "methods", "threat.epsilon", "attacks.1.step_size"])
def test_what_has_to_be_there_is_missed_but_for_what_a_base_has(validator: Draft202012Validator, key: str) -> None:
    recipe = copy.deepcopy(RECIPE)
    *way, last = key.split(".")
    del reduce(lambda data, part: data[int(part) if isinstance(data, list) else part], way, recipe)[last]
    assert faults(validator, recipe)
    assert bool(faults(validator, {**recipe, "extends": "quickstart"})) == key.startswith("attacks")


def options(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that has a default."""
    if isinstance(schema, dict):
        if "default" in schema and "properties" not in schema:
            yield schema
        for part in schema.values():
            yield from options(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from options(part)


def test_every_key_is_there_with_its_default_and_its_help(schema: dict[str, Any]) -> None:
    walked = 0
    for option in options(schema):
        own = Draft202012Validator({**option, "$defs": schema["$defs"]})
        assert faults(own, option["default"]) == [], option
        walked += 1
    assert walked > 200
    assert list(schema["properties"]) == ["extends", *SECTIONS]
    assert [*schema["$defs"]["method"]["properties"]] == list(KEYS)
    names = {
        kind: [way["title"] for way in schema["$defs"][kind]["anyOf"][1:]] for kind in ("attack", "metric", "dataset")
    }
    assert names == {"attack": ATTACKS.names(), "metric": METRICS.names(), "dataset": DATASETS.names()}
    (darts,) = [way for way in schema["$defs"]["search_space"]["anyOf"] if way.get("title") == "darts"]
    cells = SEARCH_SPACES.load("darts")().cells
    assert darts["properties"]["cells"]["default"] == cells
    assert darts["properties"]["cells"]["description"]


def test_plugins_of_others_are_there_and_of_one_that_does_not_load_any_option_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, file = tmp_path / "site", tmp_path / "schema.json"
    mine = """
    from attrs import field, frozen

    @frozen
    class Mine:
        width: int = field(metadata={"help": "how wide"})
        def score(self, network, images, labels, threat): ...
    """
    points = {"robustnas.metrics": {"mine": "mine_metric:Mine", "broken": "broken_metric:Broken"}}
    install(site, "mine", points, mine_metric=mine, broken_metric="assert False")
    monkeypatch.syspath_prepend(str(site))
    assert main(["recipes", "schema", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    validator = Draft202012Validator(json.loads(file.read_text()))

    def wrong(metric: Any) -> bool:
        return bool(faults(validator, {**RECIPE, "methods": {"a": {"metric": metric}}}))

    assert not wrong({"name": "mine", "width": 3})
    assert wrong({"name": "mine", "width": "wide"})
    assert wrong({"name": "mine", "widht": 3})
    assert wrong("mine"), "it has no width"
    assert not wrong({"name": "broken", "anything": [1]})
