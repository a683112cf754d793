"""Several runs in one table: like with like, and what a table is in Python."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import robustnas
from robustnas.cli import main
from robustnas.errors import InputError, RunDirectoryError
from robustnas.run.directory import RunDirectory
from robustnas.table.forms import FORMS
from robustnas.table.rows import Comparison
from robustnas.table.several import _notes, compare, joined
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
    assert not any(line[table.titles.index("search s")][1] for line in table.body), "machines may be two"
    assert "several runs: each method is compared with those of all of them" in table.notes[0]
    assert "- training regime: standard" in repr(table)
    pairs = {(one["method"], one["against"]) for one in table.comparisons}
    assert pairs == {("darts of other", "darts of run")}, "an answer at chance is not compared"


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
    for line in ("threat.epsilon: 0.02 in run; 0.03 in other", "dataset.classes: 5 in other"):
        assert f"  {line}" in str(told.value).splitlines()


def test_runs_of_one_name_are_told_apart_and_of_one_path_refused(finished_copy, finished_run):
    table = compare(finished_copy / "run", finished_run / "run")
    assert {row["run"] for row in table} == {str(finished_copy / "run"), str(finished_run / "run")}
    for same in (finished_run / "run", finished_run / "run" / ".." / "run"):
        with pytest.raises(InputError, match="more than once; each run once would do"):
            compare(finished_run / "run", same)
    with pytest.raises(InputError, match="found no runs"):
        compare()


def changed(path: Path, file: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file of a run directory, as the run itself would."""
    data = RunDirectory(path).read_json(file)
    change(data)
    RunDirectory(path).write_json(file, data)


def test_other_seeds_are_shown_and_not_compared(finished_copy):
    table = compare(finished_copy / "run", other(finished_copy, ("seeds:\n- 0", "seeds:\n- 1")))
    said = (
        "several runs that differ: nothing is marked as best, no methods are compared; seeds: [0] in run; [1] in other"
    )
    assert table.notes[0] == said
    assert table.comparisons == []
    assert not any(best for line in table.body for _, best in line)


def test_an_attack_of_the_same_label_that_is_another_has_a_column_of_its_own(finished_copy):
    second = other(finished_copy, ("method: crown-ibp", "method: ibp"))
    changed(second, "layout.json", lambda layout: layout["attacks"][1]["options"].update(steps=30))
    found = joined(finished_copy / "run", second)
    table = Table.of(found)
    place = table.titles.index("after pgd-3 %")
    assert table.titles[place + 1] == "after pgd-3 of other %"
    darts, jac = (f"{100 * row['attacks']['pgd-3']['mean']:.2f}" for row in robustnas.open(second).table.rows)
    assert darts != jac
    assert [[line[at][0] for at in (place, place + 1)] for line in table.body] == [
        [darts, "-"], [jac, "-"], ["-", darts], ["-", jac]
    ]  # fmt: skip
    by = "method {}".format
    assert [note.partition(": ")[2] for note in table.notes if note.startswith("not marked or compared")] == [
        "robust, robust at; attacks: fgsm, pgd-3 in run; fgsm, pgd-3 of other in other",
        f"certified, certified at, certified radius; certify: {by('crown-ibp')} in run; {by('ibp')} in other",
    ]
    assert {one["column"][0] for one in table.comparisons} == {"clean", "attacks", "parameters"}
    assert json.loads(FORMS["json"](found))["rows"][0]["attacks"]["pgd-3 of other"] is None


def test_other_test_images_are_refused_though_the_recipes_are_alike(finished_copy):
    second = other(finished_copy)
    for folder in (second / "clean").iterdir():
        changed(folder, "result.json", lambda result: result["index"].reverse())
    with pytest.raises(InputError, match=r"\n  test images: those of digest [0-9a-f]{12} in run; those of"):
        compare(finished_copy / "run", second)


def test_a_recipe_that_no_run_writes_is_damaged(finished_copy):
    second = other(finished_copy)
    for text, why in {
        "a: &x [1]\nb: *x\n": "it has an alias",
        "a: [": "ParserError",
        "a: 1\n": "does not hold",
    }.items():
        RunDirectory(second).write_text("recipe.yaml", text)
        with pytest.raises(RunDirectoryError, match=f"other/recipe.yaml is damaged: .*{why}"):
            compare(finished_copy / "run", second)


def test_the_command_shows_several_runs_or_says_why_not(finished_copy, capsys):
    run, second = str(finished_copy / "run"), str(other(finished_copy, ("images: 40", "images: 50")))
    before = {file: file.stat().st_mtime_ns for file in Path(second).glob("table.*")}
    assert main(["table", run, second]) == 2
    said = capsys.readouterr()
    assert (said.out, "  evaluate.images: 40 in run; 50 in other\n  --force, in Python" in said.err) == ("", True)
    assert main(["table", run, second, "--force", "--columns", "clean", "--sort", "clean", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| run | method | seeds | clean % |"
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["darts", "darts", "jac (!)", "jac (!)"]
    assert main(["table", run, second, "--force", "--columns", "smoothed"]) == 2
    assert "a column that this table does not have; clean, fgsm" in capsys.readouterr().err
    assert main(["table", run, str(finished_copy)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in Path(second).glob("table.*")}, "nothing is written"


def test_a_run_half_finished_has_dashes_and_is_named(finished_copy):
    second = other(finished_copy)
    for kind in ("attack", "certify"):
        shutil.rmtree(second / kind)
    table = compare(finished_copy / "run", second)
    assert table[2]["robust_mean"] is None
    assert table[0]["robust_mean"] is not None
    assert any(note.startswith("other: without a result, as they failed or have not run: ") for note in table.notes)


def test_a_note_of_many_runs_names_some():
    tables = {f"r{place}": Comparison("t", [], [], [], ["all", *(["some"] if place else [])]) for place in range(7)}
    assert _notes(tables) == ["all", "r1, r2, r3, r4 and 2 more: some"]


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
