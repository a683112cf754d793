"""Several runs in one table: like with like, and what a table is in Python."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import robustnas
from robustnas.errors import InputError
from robustnas.run.directory import RunDirectory
from robustnas.table.several import compare
from robustnas.table.tabulated import Table


def other(finished_copy: Path, *changes: tuple[str, str]) -> Path:
    """A second run beside the copy, with other texts in its recipe."""
    path = Path(shutil.copytree(finished_copy / "run", finished_copy / "other"))
    text = (path / "recipe.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    RunDirectory(path).write_text("recipe.yaml", text)
    return path


def test_runs_stand_in_one_table(finished_copy):
    run, second = finished_copy / "run", other(finished_copy, ("epochs: 2", "epochs: 3"))
    table = compare(run, robustnas.open(second))
    alone = robustnas.open(run).table
    assert len(table) == 4
    assert [{"run": "run", **one} for one in alone] == table.records[:2]
    assert table.rows[3] == {"run": "other", **alone.rows[1]}
    assert table.titles == ["run", *alone.titles]
    best, again = ([best for _, best in table.body[place]] for place in (1, 3))
    assert best == again
    assert best[table.titles.index("clean %")]
    assert not best[table.titles.index("search s")], "time is the machine's, and there may be two"
    assert "several runs: each method is compared with those of all of them" in table.notes[0]
    assert "- training regime: standard" in repr(table)
    pairs = {(one["method"], one["against"]) for one in table.comparisons if one["role"] == "reference"}
    assert pairs == {(method, "darts of run") for method in ("jac of run", "darts of other", "jac of other")}


def test_what_is_not_alike_is_refused_by_its_key(finished_copy):
    run = finished_copy / "run"
    adversarial = ("regime:\n        name: standard", "regime:\n        name: adversarial\n        steps: 7")
    second = other(finished_copy, adversarial, ("images: 40", "images: 50"))
    with pytest.raises(InputError) as told:
        compare(run, second)
    assert str(told.value).splitlines()[1:] == [
        "  evaluate.images: 40 in run; 50 in other",
        "  train.regime: standard in run; adversarial (steps 7) in other",
        "  --force, in Python force=True, shows them in one table all the same",
    ]
    forced = compare(run, second, force=True)
    assert forced.notes[0].endswith("no methods are compared; evaluate.images: 40 in run; 50 in other")
    assert forced.comparisons == []
    assert not any(best for line in forced.body for _, best in line)


def test_other_data_and_threats_are_refused(finished_copy):
    second = RunDirectory(other(finished_copy))
    identity = second.read_json("run.json")
    identity["threat"]["epsilon"] = 0.03
    identity["dataset"]["options"] = {"classes": 5}
    second.write_json("run.json", identity)
    with pytest.raises(InputError) as told:
        compare(finished_copy / "run", second.path)
    for line in ("threat.epsilon: 0.02 in run; 0.03 in other", "dataset.options.classes: 5 in other"):
        assert f"  {line}" in str(told.value).splitlines()


def test_runs_of_one_name_are_told_apart_and_of_one_path_refused(finished_copy, finished_run):
    table = compare(finished_copy / "run", finished_run / "run")
    assert {row["run"] for row in table} == {str(finished_copy / "run"), str(finished_run / "run")}
    for same in (finished_run / "run", finished_run / "r.yaml" / ".." / "run"):
        with pytest.raises(InputError, match="more than once; each run once would do"):
            compare(finished_run / "run", same)
    with pytest.raises(InputError, match="found no runs"):
        compare()


def test_a_notebook_shows_texts_and_no_markup_of_others():
    table = Table([{"method": "<i>"}], [], "t", ["method", "clean %"], [[("<i>", False), ("1 ± 2", True)]], ["a & b"])
    shown = table._repr_html_()
    assert '<th scope="row">&lt;i&gt;</th>' in shown
    assert "<strong>1</strong>" in shown
    assert "<li>a &amp; b</li>" in shown


def test_records_become_a_dataframe_where_pandas_is(monkeypatch):
    table = Table([{"method": "darts"}], [], "t", ["method"], [[("darts", False)]], [])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        table.dataframe()
    fake: Any = ModuleType("pandas")
    fake.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert table.dataframe() == [{"method": "darts"}]
