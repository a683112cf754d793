"""Section `published`, and the recipes that have one: those of the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from robustnas.errors import RecipeError
from robustnas.plan import make
from robustnas.recipe import shelf
from robustnas.recipe.load import Loaded, load
from robustnas.recipe.resolved import resolved
from robustnas.recipe.schema import Reported
from support.tiny_plan import RECIPE

PUBLISHED = """
published:
  dsrna: {source: "A paper, table 1", clean: 97.5, pgd-2: 60.7, radius l2: 1/2, search: 34560}
  other: {source: "Nowhere"}
"""

TABLES = [f"paper/table{number}" for number in range(1, 7)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE + PUBLISHED)
    return tmp_path / "r.yaml"


def test_figures_are_those_of_printed_columns(file: Path, tmp_path: Path):
    rows = load(file).recipe.published
    figures = {"clean": 97.5, "pgd-2": 60.7, "radius l2": 0.5, "search": 34560.0}
    assert rows == (Reported("dsrna", "A paper, table 1", figures), Reported("other", "Nowhere"))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(resolved(load(file)), sort_keys=False))
    assert load(again).recipe.published == rows
    assert "published" not in resolved(load(file, ["published={}"]))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("published=[a]", "published: found a list; a mapping of names to figures would do"),
        ("published.dsrna=97.5", "published.dsrna: found 97.5; a mapping of its source and figures would do"),
        ("published.dsrna={clean: 97.5}", "published.dsrna.source: missing; who published"),
        ("published.dsrna.pgd-20=60", "published.dsrna.pgd-20: unknown column of this recipe's table; did you mean"),
        ("published.dsrna.robust=60", "published.dsrna.robust: unknown column"),
        ("published.dsrna.clean=975", "published.dsrna.clean: found 975; percent, from 0 to 100, would do"),
        ("published.dsrna.search=-1", "published.dsrna.search: found -1; at least 0 would do"),
        ("published.dsrna.clean=high", "published.dsrna.clean: found 'high' (text); a number"),
        ("certify=false", "published.dsrna.radius l2: unknown column"),
        ("methods.darts={published: {}}", "published is shared by all methods"),
    ],
)
def test_what_is_wrong_is_told_in_its_place(file: Path, override: str, told: str):
    with pytest.raises(RecipeError) as caught:
        load(file, [override])
    (fault,) = caught.value.faults
    assert told in fault
    assert fault.startswith("--set" if override.startswith(("published", "methods")) else f"{file}:")


def test_labels_of_attacks_that_could_not_be_read_are_not_missed(file: Path):
    with pytest.raises(RecipeError) as caught:
        load(file, ["attacks.1.steps=many"])
    assert [fault for fault in caught.value.faults if "attacks" not in fault] == []


def test_a_row_replaces_that_of_the_base_with_its_source_and_null_leaves_it_out(file: Path, tmp_path: Path):
    own = tmp_path / "own.yaml"
    own.write_text("extends: r.yaml\npublished:\n  dsrna: {source: B, clean: 1}\n  other: null\n  new: {source: C}\n")
    assert load(own).recipe.published == (Reported("dsrna", "B", {"clean": 1.0}), Reported("new", "C"))


def test_no_key_of_a_stage_depends_on_what_is_published(file: Path):
    assert make(load(file)).stages == make(load(file, ["published={}"])).stages


def test_the_recipes_of_the_papers_tables_are_on_the_shelf():
    assert [name for name in shelf.names() if "/" in name] == TABLES
    assert shelf.find("paper/table1") == shelf.files()["paper/table1"]
    with pytest.raises(RecipeError, match=r"paper/tabel1: no such file.*did you mean 'paper/table1'\?"):
        shelf.find("paper/tabel1")


@pytest.fixture(scope="module")
def tables() -> dict[str, Loaded]:
    return {name: load(name) for name in TABLES}


def of(loaded: Loaded, method: str) -> dict[str, Any]:
    """What a search and a training of a method depend on, as plain data."""
    data = resolved(loaded)
    found: dict[str, Any] = data["methods"][method]
    return {"search_space": data["search_space"], **found}


@pytest.mark.slow
def test_the_papers_settings_are_in_all_its_tables(tables: dict[str, Loaded]):
    assert {"pc-darts", "sdarts-adv", "pc-darts-adv", "dsrna-cb", "dsrna-jacobian-paper"} <= set(
        tables["paper/table3"].recipe.methods
    )
    for name in (name for name in TABLES if name != "paper/table3"):
        method = of(tables[name], "dsrna-jacobian-paper")
        assert method["search_space"]["name"] == "pc-darts"
        sizes = [method["search_space"][key] for key in ("cells", "channels", "network_cells", "network_channels")]
        assert sizes == [8, 16, 20, 36]
        assert (method["search"]["epochs"], method["search"]["gamma"], method["train"]["epochs"]) == (50, 0.01, 600)
        assert method["search"]["train_share"] == 0.5
        assert method["train"]["regime"]["name"] == "standard"
        assert of(tables[name], "sdarts-adv")["search"]["batch"] == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "others"), [("paper/table1", ["paper/table2", "paper/table6"]), ("paper/table4", ["paper/table5"])]
)
def test_tables_of_one_data_set_share_searches_and_trainings(tables: dict[str, Loaded], first: str, others: list[str]):
    for method in tables[first].recipe.methods:
        for other in others:
            assert of(tables[other], method) == of(tables[first], method)
            assert tables[other].recipe.threat == tables[first].recipe.threat


@pytest.mark.slow
def test_published_figures_are_those_of_the_notes(tables: dict[str, Loaded]):
    def published(table: int) -> dict[str, dict[str, float]]:
        return {row.name: row.figures for row in tables[f"paper/table{table}"].recipe.published}

    combined = {"clean": 97.51, "fgsm": 70.32, "pgd-100": 60.71, "cw l2": 64.76, "autoattack l2": 64.51}
    assert published(1) == {"dsrna-combined": combined}
    assert {name: row.get("search") for name, row in published(2).items() if name.startswith("dsrna")} == {
        "dsrna-cb": 4 * 86400, "dsrna-jacobian": pytest.approx(0.4 * 86400), "dsrna-combined": None,
    }  # fmt: skip
    assert published(4)["dsrna-combined"] == {"clean": 99.40}
    assert published(5) == {"dsrna-cb": {"radius l2": 0.4288}, "sdarts-adv": {"radius l2": 0.1767}}
    assert published(6) == {}
