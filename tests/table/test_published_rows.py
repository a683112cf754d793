"""Published figures beside measured ones: in every form, in no mark and in no test."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import robustnas
from robustnas.errors import RunDirectoryError
from robustnas.run import layout
from robustnas.table import finished
from robustnas.table.chosen import chosen
from robustnas.table.forms import FORMS
from robustnas.table.lines import PUBLISHED, under
from robustnas.table.rows import Comparison
from support.finished_run import RECIPE, results, run

SECTION = """
published:
  paper: {source: "A paper of 2021, table 1", clean: 97.51, pgd-3: 60.71, radius l2: 0.4288, parameters: 1, search: 0}
  silent: {source: "A paper of 2021, table 1"}
"""


@pytest.fixture(scope="module")
def beside(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, to whose recipe published figures were added, all better than what was measured."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("published") / "c"))
    (folder / "r.yaml").write_text(RECIPE + SECTION)
    before = results(folder)
    assert run(folder, "--quiet") == 0
    assert results(folder) == before, "nothing is computed again"
    return folder


def measured(found: Comparison) -> dict[str, object]:
    data = json.loads(FORMS["json"](found))
    return {key: data[key] for key in ("rows", "marked", "comparisons")}


def test_every_form_has_the_rows_and_what_was_measured_is_as_it_was(beside: Path, finished_run: Path):
    found = finished.rebuilt(beside / "run")
    plain = finished.rebuilt(finished_run / "run")
    assert measured(found) == measured(plain)
    for form in FORMS.keys() - {"json", "csv"}:
        text = FORMS[form](found)
        lines = text.replace("<tr>", "\n<tr>").splitlines()
        (row,) = [line for line in lines if f"paper {PUBLISHED}" in line and "A paper" not in line]
        assert "97.51" in row
        assert "60.71" in row
        assert "**" not in row
        assert "<strong>" not in row
        assert "textbf" not in row
        assert (
            f"{PUBLISHED}, not measured here, in no test and no mark: paper, silent: A paper of 2021, table 1" in text
        )
        assert PUBLISHED not in FORMS[form](plain)
    lines = list(csv.DictReader(io.StringIO(FORMS["csv"](found))))
    assert [line["method"] for line in lines] == ["darts", "jac", f"paper {PUBLISHED}", f"silent {PUBLISHED}"]
    assert (lines[2]["clean_mean"], lines[2]["seeds"], lines[2]["marked"]) == ("0.9751", "", "")
    assert not any(text for name, text in lines[3].items() if name != "method")
    data = json.loads(FORMS["json"](found))
    figures = {tuple(one["column"]): one["value"] for one in data["published"][0]["figures"]}
    assert figures["attacks", "pgd-3"] == 0.6071
    assert figures["certified_radius", "l2"] == 0.4288
    assert data["published"][1] == {"method": "silent", "source": "A paper of 2021, table 1", "figures": []}
    assert "published" not in json.loads(FORMS["json"](plain))


def test_published_rows_stay_last_and_have_the_columns_that_are_shown(beside: Path):
    found = chosen(finished.rebuilt(beside / "run"), "clean", "clean")
    lines = [line for line in FORMS["markdown"](found).splitlines() if line.startswith("| ")]
    assert [line.split(" |")[-2].strip() for line in lines[-2:]] == ["97.51", "-"]
    assert len(json.loads(FORMS["json"](found))["published"][0]["figures"]) == 1


def test_they_are_records_in_python_and_in_a_table_of_several_runs(beside: Path, finished_run: Path):
    table = robustnas.open(beside / "run").table
    assert [record["method"] for record in table][2:] == [f"paper {PUBLISHED}", f"silent {PUBLISHED}"]
    assert [row["method"] for row in table.rows] == ["darts", "jac"], "rows are what was measured"
    both = robustnas.compare(finished_run / "run", beside / "run")
    assert [record["method"] for record in both][2:] == [record["method"] for record in table]
    assert [name for (name, _), *_ in [line[1:] for line in both.body]][-1] == f"silent {PUBLISHED}"


def test_a_layout_with_other_figures_is_damaged(beside: Path, tmp_path: Path):
    directory = finished.opened(Path(shutil.copytree(beside / "run", tmp_path / "run")))
    data = directory.read_json("layout.json")
    data["published"][0]["figures"] = [97.5]
    directory.write_json("layout.json", data)
    with pytest.raises(RunDirectoryError, match=r"layout\.json"):
        layout.read(directory)


def test_a_source_stands_under_the_table_once(beside: Path):
    assert sum(PUBLISHED in line for line in under(finished.rebuilt(beside / "run"))) == 1
