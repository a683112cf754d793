"""The table as somebody asks for it: LaTeX and HTML, chosen columns, sorted rows, and the command that does so."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustnas.attack.column import Column
from robustnas.certify.verdicts import Verdicts
from robustnas.cli import main, parser
from robustnas.errors import InputError
from robustnas.plan import Seed
from robustnas.runtime import printable
from robustnas.table import comparisons
from robustnas.table.chosen import chosen
from robustnas.table.forms import ENDINGS, FORMS, json_data, show
from robustnas.table.grids import below, cells
from robustnas.table.latex import escaped
from robustnas.table.lines import under
from robustnas.table.rows import Comparison, SeedResult, name, row
from robustnas.threat import ThreatModel

THREAT = ThreatModel("linf", 8 / 255)
COLUMNS = [Column("pgd", THREAT), Column("cw, 9 steps (l2 0.5)", ThreatModel("l2", 0.5), worst_case=False)]
ODD = r"a_b & {50%} <i>[x]</i> #1 ~^\x $y$ é 中"


def result(seed: int, clean: int, robust: int, parameters: int) -> SeedResult:
    """Of a hundred images the first so many are right."""
    standing = [int(place < robust) for place in range(100)]
    attacks = Verdicts(
        standing={column.label: standing for column in COLUMNS},
        robust=[bool(one) for one in standing],
        variants={"pgd": {"fog_1": 0.5}},
        evaluations={"pgd": 11.0},
    )
    images = [place < clean for place in range(100)]
    return SeedResult(Seed(seed), clean=images, attacks=attacks, parameters=parameters, search_seconds=1.0)


def made(first: str = "first") -> Comparison:
    """Three methods over ten seeds, and one that was not measured under attack; `worse` is told apart from the rest."""
    measured = {
        first: [result(seed, 90, 60, 1000) for seed in range(10)],
        "worse": [result(seed, 91 + seed % 2, 50 + seed % 2, 2000) for seed in range(10)],
        "level": [result(seed, 89 + 3 * (seed % 2), 59 + 2 * (seed % 2), 500) for seed in range(10)],
        "failed": [SeedResult(Seed(seed)) for seed in range(10)],
    }
    rows = [row(method, results, COLUMNS) for method, results in measured.items()]
    found = Comparison(str(THREAT), rows, COLUMNS, [], ["100 % of a_note"])
    return evolve(found, comparisons=comparisons.compared(found, measured))


def of_runs(*runs: str) -> Comparison:
    """The same methods in several runs, worse by a hundredth in each run that follows."""
    rows, measured = [], {}
    for place, run in enumerate(runs):
        for method, robust in (("ours", 60), ("theirs", 50)):
            results = [result(seed, 90, robust + seed % 2 - place, 1000) for seed in range(10)]
            rows.append({"run": run, **row(method, results, COLUMNS)})
            measured[name(rows[-1])] = results
    found = Comparison(str(THREAT), rows, COLUMNS, [], [], apart=["search_seconds"])
    return evolve(found, comparisons=comparisons.compared(found, measured))


def methods(comparison: Comparison) -> list[str]:
    return [r["method"] for r in comparison.rows]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("clean", ["worse", "level", "first", "failed"]),
        ("Robust %", ["first", "level", "worse", "failed"]),
        ("parameters", ["level", "first", "worse", "failed"]),
    ],
)
def test_rows_are_sorted_the_best_first_and_what_was_not_measured_last(column: str, expected: list[str]):
    assert methods(chosen(made(), sort=column)) == expected
    assert methods(chosen(made(), ["clean"], sort=column)) == expected, "a column that is not shown sorts too"


def test_a_classifier_that_ignores_its_images_is_never_first():
    found = made()
    flag = {"name": "constant-answer", "text": "one class", "attack": None, "seed": 0}
    found = evolve(found, rows=[{**r, "flags": [flag] if r["method"] == "worse" else []} for r in found.rows])
    assert methods(chosen(found, sort="clean")) == ["level", "first", "worse", "failed"]


def test_chosen_columns_come_in_their_order_and_keep_their_marks():
    found = made()
    titles, body = cells(found)
    part, rows = cells(chosen(found, "robust, CW, 9 steps (l2 0.5),clean,robust %"))
    assert part == ["method", "seeds", "robust %", "cw, 9 steps (l2 0.5) %", "clean %"]
    places = [titles.index(title) for title in part]
    assert rows == [[line[place] for place in places] for line in body]
    data = json_data(chosen(found, "cw, 9 steps (l2 0.5)"))
    assert set(data["rows"][0]) == {"method", "seeds", "flags", "attacks"}
    assert data["rows"][0]["attacks"].keys() == {"cw, 9 steps (l2 0.5)"}
    assert {tuple(one["column"]) for one in data["comparisons"]} == {("attacks", "cw, 9 steps (l2 0.5)")}
    assert [title for title, *_ in below(chosen(found, "pgd"))] == ["pgd: percent right under each"]


def test_differences_are_from_the_recipes_first_method_however_rows_are_sorted():
    (title, _, body), *_ = below(chosen(made(), sort="clean"))
    assert title.startswith("less first: mean difference")
    assert [line[0][0] for line in body] == ["worse", "level", "failed"]


@pytest.mark.parametrize(
    ("columns", "sort", "words"),
    [
        ("clean,robst", None, "--columns: found 'robst', a column that this table does not have; clean, pgd, "),
        ("robst", None, "did you mean 'robust'?"),
        (None, "certified", "--sort: found 'certified', a column that this table does not have"),
        ("", None, "--columns: found ''"),
        ("clean,\x1b[31m", None, "--columns: found "),
    ],
)
def test_a_column_that_is_not_there_is_told_with_those_that_are(columns: str | None, sort: str | None, words: str):
    with pytest.raises(InputError) as fault:
        chosen(made(), columns, sort)
    assert words in str(fault.value)
    assert "\x1b" not in str(fault.value)


def test_every_form_says_who_cannot_be_told_apart_and_what_is_claimed():
    found = made()
    assert any(line.startswith("marked: the best mean and every method") for line in under(found))
    for form, best, apart in (
        ("rich", "60.00*", "-9.50* ("),
        ("markdown", "**60.00 ", "**-9.50 ("),
        ("latex", r"\textbf{60.00}", r"\textbf{$-$9.50} ("),
        ("html", "<strong>60.00<", "<strong>-9.50</strong> ("),
    ):
        text = FORMS[form](found)
        assert text.count(best) >= 2, f"{form}: the best, and who cannot be told apart from it"
        assert apart in text, f"{form}: differences"
        assert "less first: mean difference" in text
    (first, worse, level, failed) = csv.DictReader(io.StringIO(FORMS["csv"](found)))
    assert [line["marked"] for line in (worse, failed)] == ["clean", ""]
    assert "robust" in first["marked"].split("; ")
    assert "robust" in level["marked"].split("; ")
    marks = {tuple(one["column"]): one["methods"] for one in json.loads(FORMS["json"](found))["marked"]}
    assert marks["robust",] == ["first", "level"]
    assert ("search_seconds",) not in marks, "time is the machine's"


def test_every_form_has_the_runs_and_what_is_claimed_across_them():
    found = of_runs("first", "a_b & <i>|中")
    assert [cells(found)[0][:3], *[[text for text, _ in line[:2]] for line in cells(found)[1]]] == [
        ["run", "method", "seeds"], ["first", "ours"], ["first", "theirs"], ["a_b & <i>|中", "ours"],
        ["a_b & <i>|中", "theirs"],
    ]  # fmt: skip
    for form, run, head, best in (
        ("rich", "a_b & <i>|中", "  run ", "60.50*"),
        ("markdown", "a_b &amp; &lt;i&gt;\\|中", "| run | method |", "**60.50 "),
        ("latex", r"a\_b \& $<$i$>$$|$\textbackslash{}u4e2d", r"{llrrrrrrr}", r"\textbf{60.50}"),
        ("html", "a_b &amp; &lt;i&gt;|&#20013;", '<th scope="col">run</th>', "<strong>60.50<"),
    ):
        text = FORMS[form](found)
        assert all(part in text for part in (run, head, best, "less ours of first: mean difference")), form
        assert text.count(best) == 3, "pgd, cw and robust of the one best row"
    first, _, worse, _ = csv.DictReader(io.StringIO(FORMS["csv"](found)))
    assert list(first)[:3] == ["run", "method", "seeds"]
    assert first["marked"] == "pgd; cw,_9_steps_(l2_0.5); robust"
    assert first["robust_difference"] == ""
    assert float(worse["robust_difference"]) == pytest.approx(-0.01)
    assert float(worse["robust_p_holm"]) <= 0.05
    data = json.loads(FORMS["json"](found))
    assert (data["rows"][0]["run"], data["rows"][0]["method"]) == ("first", "ours")
    assert {one["column"][0] for one in data["comparisons"]} == {"clean", "attacks", "robust", "parameters"}
    assert {"column": ["robust"], "methods": ["ours of first"]} in data["marked"]
    assert json.loads(FORMS["json"](chosen(found, "clean")))["rows"][3]["run"] == "a_b & <i>|中"


def test_csv_of_one_run_has_differences_where_there_are_pairs_enough():
    first, worse, *_ = csv.DictReader(io.StringIO(FORMS["csv"](made())))
    (one,) = [
        c for c in made().comparisons if (c["role"], c["column"], c["method"]) == ("reference", ["robust"], "worse")
    ]
    assert [float(worse[f"robust_{key}"]) for key in ("difference", "low", "high", "p_holm")] == pytest.approx(
        [one["difference"], *one["interval"], one["p_holm"]]
    )
    assert (first["robust_low"], worse["marked"], list(worse)[-1]) == ("", "clean", "marked")


def balanced(text: str) -> bool:
    """Whether braces and environments of a LaTeX text are closed in order, comments aside."""
    depth, open_ones = 0, []
    text = re.sub(r"(?m)^%.*\n", "", text)
    for token, what, kind in re.findall(r"(\\(begin|end)\{(\w+)\}|\\.|[{}])", text, re.DOTALL):
        if what == "begin":
            open_ones.append(kind)
        elif what == "end":
            if not open_ones or open_ones.pop() != kind:
                return False
        elif token in "{}":
            depth += 1 if token == "{" else -1
            if depth < 0:
                return False
    return depth == 0 and not open_ones and len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


def test_latex_is_balanced_and_every_line_has_its_cells():
    for found in (of_runs(ODD, "b"), made(ODD), chosen(made(ODD), "clean", "clean")):
        text = FORMS["latex"](found)
        assert balanced(text)
        assert re.sub(r"(?m)^%.*\n", "", text).isascii()
        for block in re.findall(r"\\begin\{tabular\}\{(l*r*)\}\n\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
            lines = [line for line in block[1].splitlines() if line != r"\midrule"]
            assert all(line.endswith(r" \\") for line in lines)
            assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(block[0])}
        notes = [line for line in text.splitlines() if line.startswith("% ")]
        assert "% threat: linf 8/255" in notes
        assert all(f"% {printable.line(note)}" in notes for note in under(found))
    assert r"a\_b \& \{50\%\} $<$i$>${[}x{]}$<$/i$>$ \#1 \textasciitilde{}\textasciicircum{}" in text
    assert r"\'{e} \textbackslash{}u4e2d" in text
    assert not balanced(r"\textbf{a") and not balanced(r"\begin{a}\end{b}")  # noqa: PT018


@given(st.text())
def test_no_name_breaks_latex_or_html(name: str):
    text = escaped(name)
    assert balanced(text)
    assert text.isascii()
    assert not re.search(r"(?<!\\)[%&#_]", text.replace(r"\\", ""))
    read: list[str] = []
    reader = HTMLParser()
    reader.handle_data = read.append  # type: ignore[method-assign]
    reader.handle_starttag = lambda tag, attrs: pytest.fail(tag)  # type: ignore[method-assign]
    from robustnas.table import html

    reader.feed(html.escaped(name))
    reader.close()
    assert "".join(read) == printable.line(name)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path):
    long = evolve(made(ODD + "αλ"), notes=["a long note of 100 % & more " * 100])
    (tmp_path / "t.tex").write_text(FORMS["latex"](long), encoding="utf-8")
    (tmp_path / "s.tex").write_text(FORMS["latex"](of_runs(ODD, "läufe/ß")), encoding="utf-8")
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t}\input{s}\end{document}"
    (tmp_path / "p.tex").write_text(page)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "p.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_html_is_a_table_with_its_notes():
    text = FORMS["html"](made(ODD))
    assert text.isascii()
    seen: list[str] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    reader.handle_endtag = lambda tag: seen.append(f"/{tag}")  # type: ignore[method-assign]
    reader.feed(text)
    stack: list[str] = []
    for tag in seen:
        if tag.startswith("/"):
            assert stack.pop() == tag[1:]
        else:
            stack.append(tag)
    assert stack == []
    assert {"script", "style", "i"}.isdisjoint(seen)
    first = text.partition("</table>")[0]
    assert "<li>100 % of a_note</li>" in first
    assert "&lt;i&gt;[x]&lt;/i&gt;" in first


def test_a_grid_wider_than_the_table_is_not_cut_in_a_pipe():
    out = io.StringIO()
    show(chosen(made(), "clean"), Console(file=out, width=20))
    assert "…" not in out.getvalue()
    assert "+1.50* (" in out.getvalue()


def test_of_several_runs_a_narrow_terminal_cuts_no_name_and_no_figure():
    found = of_runs("a-run-of-a-rather-long-name-that-somebody-gave-to-it-0.125", "b")
    out = io.StringIO()
    show(found, Console(file=out, width=80, force_terminal=True, color_system=None, no_color=True))
    assert "…" not in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "1,000" in out.getvalue()


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_cuts_nothing_of_what_stands_below(width: int):
    out = io.StringIO()
    show(made("a-method-of-a-long-name"), Console(file=out, width=width, force_terminal=True, color_system=None))
    assert "…" not in out.getvalue()
    assert "fog_1" in out.getvalue()


def test_the_parser_knows_every_form():
    assert tuple(FORMS) == parser.FORMS
    assert set(ENDINGS.values()) == set(FORMS) - {"rich"}


def test_a_form_is_printed_or_written_to_a_new_file(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    run, file = str(finished_copy / "run"), finished_copy / "t.tex"
    assert main(["table", run, "--format", "csv"]) == 0
    assert capsys.readouterr().out == (finished_copy / "run" / "table.csv").read_text()
    asked = ["table", run, "--columns", "clean,pgd-3", "--sort", "pgd-3", "--output", str(file)]
    assert main(asked) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert r"clean \% & after pgd-3 \% \\" in file.read_text()
    assert "parameters" in (finished_copy / "run" / "table.md").read_text(), "what the directory holds stays whole"
    assert main(asked) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert main([*asked[:-1], str(finished_copy / "t.txt")]) == 0
    assert (finished_copy / "t.txt").read_text().startswith("threat: linf 0.02\n")
    capsys.readouterr()
    assert main(["table", run, "--sort", "clen"]) == 2
    said = capsys.readouterr()
    assert (said.out, "did you mean 'clean'?" in said.err) == ("", True)
    assert main(["table", run, "--format", "latx"]) == 2
    assert "did you mean 'latex'?" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_shown(finished_copy: Path, capsys: pytest.CaptureFixture[str]):
    file = finished_copy / "run" / "table.json"
    file.unlink()
    file.mkdir()
    assert main(["table", str(finished_copy / "run"), "--format", "markdown"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("| method | seeds |")
    assert f"the table is shown and not written: {file} cannot be written" in said.err
    assert said.err.count("\n") == 1
