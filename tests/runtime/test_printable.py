"""Texts of other people are shown as they are, wherever they go: no character of them acts."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from robustnas.cli import main
from robustnas.plan import Seed, Stage
from robustnas.run.progress import Progress
from robustnas.runtime import printable
from robustnas.runtime.artifacts.files import write_json
from support.evaluated_digits import prepare
from support.fake_package import group, install

FRAMEWORK = Path(printable.__file__).parents[1]
ACTING = [
    "\x1b[2J", "a\nb", "a\rb", "\x00", "\x07", "\x7f",
    "\x9b31m", "\u202eabc", "\u2066", "\u200f", "\u2028", "\ufeff", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", ACTING)
def test_every_character_is_seen(text: str):
    for shown in (printable.line(text), printable.cell(text), printable.markdown(text)):
        assert shown.isprintable()
        assert "\\" in shown
    assert json.loads(printable.json_text({text: text}, 1)) == {text: text}
    assert all(c.isprintable() or c == "\n" for c in printable.json_text({text: text}, 1))


ROWS = """\
{
 "normal": [
  ["sep_conv_3x3", 0],
  ["a\\u2028", 1]
 ],
 "normal_concat": [2, 3],
 "more": {
  "deep": [
   [],
   {"x": null}
  ]
 },
 "name": "é"
}"""


def test_rows_of_json_have_a_line_each():
    data = json.loads(ROWS)
    assert data["normal"][1] == ["a\u2028", 1]
    assert printable.json_rows(data) == ROWS
    for one in ([], {}, 3, "a", [1], [[1]], {"1": [{}]}):
        assert json.loads(printable.json_rows(one)) == one
    assert printable.json_rows({"cell": "|a~0|"}) == '{"cell": "|a~0|"}'
    for refused in ([float("nan")], {"a": [float("inf")]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            printable.json_rows(refused)


@pytest.mark.parametrize("text", ["pgd-20", "a b", "é", "模型", "ε = 8/255", "می‌خواهم", "± 1", "\U0001f600"])
def test_what_acts_nowhere_stays(text: str):
    assert printable.line(text) == printable.lines(text) == printable.cell(text) == printable.markdown(text) == text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1+1", "'+1+1"),
        ("-2+3+cmd|'/c calc'!A0", "'-2+3+cmd|'/c calc'!A0"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\t=1"), ("\r=1", "\\r=1"), (" =1", "' =1"), ("a;=1", "a;'=1"), ("\uff1d1", "'\uff1d1"),
        ("-0.5", "-0.5"), ("+1e-3", "+1e-3"), ("-inf", "-inf"), (-0.5, -0.5), (3, 3), ("", ""), ("pgd-20", "pgd-20"),
    ],
)  # fmt: skip
def test_a_spreadsheet_computes_no_cell_and_numbers_stay_numbers(value: object, cell: object):
    assert printable.cell(value) == cell
    assert type(printable.cell(value)) is type(value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("`x`", "\\`x\\`"), ("<img src=x>", "&lt;img src=x&gt;"), ("a & b", "a &amp; b"), ("**b**", "\\*\\*b\\*\\*"),
        ("[l](u)",
         "\\[l\\](u)"),
        ("![i](u)", "!\\[i\\](u)"), ("snake_case", "snake_case"), ("_i_", "\\_i\\_"), ("60.00", "60.00"),
        ("-", "-"), ("\\", "\\\\"), ("~~a~~", "\\~\\~a\\~\\~"),
    ],
)  # fmt: skip
def test_markdown_shows_a_text(text: str, shown: str):
    assert printable.markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("# h", "\\# h"), ("- i", "\\- i"), ("1. i", "1\\. i"), ("12 of", "12 of")]
)
def test_a_paragraph_stays_one(text: str, shown: str):
    assert printable.paragraph(text) == shown


def test_nobody_writes_to_the_terminal_but_the_door():
    """No call prints, or fills a table of rich's, outside of `terminal`; `interrupt` says a fixed text."""
    ways = {"print", "add_row", "add_column", "status", "print_exception"}
    found = []
    for file in sorted(FRAMEWORK.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            to_stream = called == "write" and ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
            if called in ways or to_stream:
                found.append(f"{file.relative_to(FRAMEWORK)}: {ast.unparse(node)[:60]}")
    others = [one for one in found if not one.startswith("runtime/terminal.py: ")]
    assert [one.partition("(")[0] for one in others] == ["runtime/interrupt.py: print"]
    assert len(found) >= 6


def test_names_are_no_markup_in_the_live_view_and_its_lines():
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    progress = Progress(console=console)
    stage = Stage("search", "k", "g[final]", Seed(0))
    progress.plan(1, 0)
    progress.started(stage)
    progress.reporter(stage)(1, 2, "[/]", **{"[red]": 1.0})
    console.print(progress._render())
    progress.failed(stage, "[/nothing] \x1b[2J")
    for seen in ("g[final]", "[/] 1/2", "[red] 1", "[/nothing] \\x1b[2J"):
        assert seen in text.getvalue()
    assert "\x1b[2J" not in text.getvalue().replace("\x1b[2K", "")


ODD = """
    from attrs import field, frozen
    import torch

    @frozen
    class Odd:
        '''\x1b[31mAn attack\x1b[0m [bold]of[/] \u202eodd names.'''
        a: int = field(default=0, metadata={"help": "[/] \\x07 <b>"})
        def build(self, threat):
            raise ValueError("\\x1b[2J[/]\\u202e=1+1")
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "odd", {group("attacks"): {"odd[/]": "odd:Odd"}}, odd=ODD)
    return tmp_path


def acts(text: str) -> list[str]:
    return re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)


def test_plugins_are_shown_as_they_are(odd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for terminal_like in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda value=terminal_like: value, raising=False)
        assert main(["plugins", "list", "--load"]) == 0
        assert main(["plugins", "show", "attack", "odd[/]"]) == 0
        printed = capsys.readouterr()
        assert "odd[/]" in printed.out
        assert "[bold]of[/]" in printed.out
        assert "\\x1b[31mAn attack" in printed.out
        assert not acts(re.sub(r"\x1b\[[0-9;]*m", "", printed.out) + printed.err)  # but for rich's own bold


LABEL = "=HYPERLINK(1)|`x`<b>[/]- y"
"""What the loader lets pass: it refuses characters that are not printable."""


def test_a_table_of_odd_names_is_a_table(odd: Path, capsys: pytest.CaptureFixture[str]):
    prepare(odd, f'attacks: [{{name: fgsm, label: "{LABEL}"}}, gaussian-noise]\nevaluate: {{images: 8}}\n')
    out = str(odd / "r[/]\x1b")
    assert main(["run", "r.yaml", "--out", out, "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert not acts(printed.out + printed.err)
    assert "=HYPERLINK(1)|`x`<b>[/]" in printed.out
    directory = Path(out)
    markdown, table = (directory / "table.md").read_text(), (directory / "table.csv").read_text()
    assert main(["records", out]) == 0
    records = capsys.readouterr().out
    assert not acts(markdown + table + records + (directory / "table.json").read_text())
    first, second = markdown.splitlines()[:2]
    assert first.replace("\\|", "").count("|") == second.count("|")
    assert "<b>" not in markdown
    assert not re.search(r"(?<!\\)`", markdown)
    for text in (table, records):
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert any(cell.startswith("'=HYPERLINK") for cell in cells)
        assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r")]


def test_a_file_is_named_with_its_brackets(odd: Path, capsys: pytest.CaptureFixture[str]):
    recipe = "dataset: digits\nsearch_space: darts\nthreat: {norm: linf, epsilon: 0.1}\n"
    (odd / "r.yaml").write_text(f"{recipe}methods: {{a: {{genotype: 'g[final].json'}}}}\n")
    assert main(["plan", "r.yaml"]) == 2
    assert "g[final].json" in capsys.readouterr().err
    write_json(odd / "x.json", {"a": "\ud800"})
    assert json.loads((odd / "x.json").read_text()) == {"a": "\ud800"}
