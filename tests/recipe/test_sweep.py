"""Section `sweep`: rows that differ in a key, and faults at the places of its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.plan import make
from robustnas.recipe.document import text_of
from robustnas.recipe.load import load
from robustnas.recipe.resolved import resolved
from support.small_recipes import faults, recipe

BASE = """\
dataset: digits
search_space: {name: darts, cells: 2, channels: 4, network_cells: 2, network_channels: 4}
threat: {norm: linf, epsilon: 0.03}
methods:
  plain: null
  drawn: {strategy: random}
  mixed: {metric: [{name: jacobian, rows: 1}, {name: certified-bound, epsilon: 0.001}], search: {batch: 8}}
"""


def test_a_row_a_value_in_the_place_of_the_method(folder: Path):
    text = BASE + "sweep: {search.gamma: [0.01, 8/255, {balance: 1}]}\n"
    swept = recipe(text).recipe
    rows = ["gamma_0.01", "gamma_8-255", "gamma_balance-1"]
    names = [*(f"plain_{row}" for row in rows), "drawn", *(f"mixed_{row}" for row in rows)]
    assert list(swept.methods) == names
    by_hand = BASE.replace("search: {batch: 8}", "search: {batch: 8, gamma: 8/255}")
    made, same = swept.methods["mixed_gamma_8-255"], recipe(by_hand).recipe.methods["mixed"]
    assert (made.search, made.metric) == (same.search, same.metric)
    assert made.swept == {"of": "mixed", "search.gamma": "8/255"}
    assert swept.methods["drawn"].swept is None
    assert swept.methods["drawn"] == recipe(BASE).recipe.methods["drawn"], "it has no use for gamma"


def test_several_keys_make_the_product_and_equal_stages_are_shared(folder: Path):
    rows = "sweep: {methods: [mixed], search: {epochs: [1, 2]}, train.epochs: [1, 2], metric.1.epsilon: [1/255]}\n"
    loaded = recipe(BASE + rows)
    names = [f"mixed_search.epochs_{s}_train.epochs_{t}_epsilon_1-255" for s in (1, 2) for t in (1, 2)]
    assert list(loaded.recipe.methods) == ["plain", "drawn", *names]
    assert all(loaded.recipe.methods[name].metric[1][1].plugin.epsilon == 1 / 255 for name in names)
    plan = make(loaded)
    assert len({stage.key for stage in plan.stages if stage.kind == "search" and stage.method in names}) == 2
    assert len({stage.key for stage in plan.stages if stage.kind == "train" and stage.method in names}) == 4


def test_the_recipe_of_the_run_holds_the_result(folder: Path):
    first = resolved(recipe(BASE + "sweep: {search.gamma: [0.01, {balance: 1}]}\n"))
    assert "sweep" not in first
    assert first["methods"]["plain_gamma_balance-1"]["search"]["gamma"] == {"balance": 1.0}
    Path("again.yaml").write_text(text_of(first))
    assert resolved(load("again.yaml")) == first


def test_a_genotype_has_no_use_for_a_search_and_a_long_value_is_called_by_its_place(folder: Path):
    long = "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat=[2], reduce=[('skip_connect', 1), ('skip_connect', 0)], reduce_concat=[2])"  # noqa: E501
    text = BASE + f'sweep: {{methods: [plain], genotype: [DARTS_V2, "{long}"]}}\n'
    assert list(recipe(text).recipe.methods)[:2] == ["plain_genotype_DARTS_V2", "plain_genotype_2"]
    named = BASE.replace("strategy: random", "genotype: DARTS_V2")
    kept = recipe(named + "sweep: {search.gamma: [1, 2], train.epochs: [3]}\n").recipe.methods
    assert "drawn_epochs_3" in kept


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("3", "8:8: sweep: found 3; a mapping of keys to values would do: {search.gamma: [0.1, 1]}"),
        ("{}", "8:8: sweep: found no key; one would do, such as search.gamma: [0.1, 1]"),
        ("{methods: [mixed]}", "8:8: sweep: found no key; one would do, such as search.gamma: [0.1, 1]"),
        ("{search.gamma: 3}", "8:23: sweep.search.gamma: found 3; a list of values would do, such as [0.1, 1]"),
        ("{search.gamma: []}", "8:23: sweep.search.gamma: found an empty list; a list of values would do"),
        ("{search.gamma: [1, 1]}", "8:27: sweep.search.gamma.1: found 1, and a value before it is called 1 in rows"),
        ("{search.gamma: [1, -1]}", "8:27: methods.plain_gamma_-1.search.gamma: found -1.0; at least 0, or {balance"),
        ("{search.gama: [1]}", "8:9: methods.plain_gama_1.search.gama: unknown key of search; did you mean 'gamma'?"),
        ("{saerch.gamma: [1]}", "8:9: sweep.saerch.gamma: unknown key of a method; did you mean 'search'?"),
        ("{network: [a]}", "8:9: sweep.network: unknown key of a method"),
        ("{search..gamma: [1]}", "8:9: sweep.search..gamma: unknown key of a method"),
        ("{evaluate.images: [1, 2]}", "8:9: sweep.evaluate.images: evaluate is shared by all methods, a table"),
        ("{methods: [mixd], search.gamma: [1]}", "8:19: sweep.methods.0: found 'mixd', which is no method; did you"),
        ("{methods: mixed, search.gamma: [1]}", "8:18: sweep.methods: found 'mixed'; a list of methods would do"),
        ("{methods: [drawn], search.gamma: [1]}", "8:27: sweep.search.gamma: drawn has no use for it, and sweep.meth"),
        ("{methods: [mixed], metric.7.rows: [1]}", "8:27: methods.mixed.metric.7: found '7' as an index; the list"),
        ("{search.epochs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], train.epochs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}",
         "8:8: sweep: found 11 x 10 = 110 rows of a method; at most 100 would do"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(sweep: str, told: str, folder: Path):
    found = faults(f"{BASE}sweep: {sweep}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"r.yaml:{told}")


def test_a_row_never_takes_the_place_of_another_method(folder: Path):
    text = BASE.replace("drawn:", "plain_gamma_1:") + "sweep: {search.gamma: [1]}\n"
    assert faults(text) == [
        "r.yaml:8:8: sweep: found two methods that would be called plain_gamma_1; another name for one of them would do"
    ]
    nobody = BASE.replace("plain: null", "").replace("  mixed:", "  other: {strategy: random}\n# ")
    assert "no method has a use for search.gamma" in faults(nobody + "sweep: {search.gamma: [1]}\n")[0]
    assert "section sweep makes it" in faults(BASE.replace("plain: null", "plain: {swept: {of: 3, a: 1}}"))[0]
