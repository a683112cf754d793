"""Every command and code block of README and of the documents is run, or read by what would run it.

Commands that answer at once are run, on a finished run.  Those that would compute for minutes are only parsed, and the
recipe that they name is loaded with what they `--set`.  Other programs' commands are held to the files they name.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_docs import DOCUMENTS, FENCE, fenced
from torch import nn

import robustnas
from robustnas.cli import main
from robustnas.cli.parser import parse
from robustnas.recipe import shelf
from robustnas.recipe.load import load
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.search_spaces.darts import Darts
from support.finished_run import RECIPE, run
from support.places import ROOT

QUICK = ("plugins", "recipes", "table", "records", "draw", "report", "completion", "doctor")
"""Commands that are run as they stand; the others are parsed, and their recipes loaded."""

THEIRS = {"my-metric", "basic-iterative", "--figures"}
"""Plugins that the reader of a page writes, and what needs an extra: parsed here, and run by other tests."""

OURS = re.compile(r"(?:\S*/)?robustnas|torchrun .*?-m robustnas|python3? -m robustnas")
FILE = re.compile(r"python3? ((?:tests|docs)/\S+\.py)")

IN_TEST_DOCS = {"plugins.md", "api.md"}
"""Documents whose code `test_docs` runs, in an order of its own."""


def commands(text: str) -> Iterator[str]:
    """Find our commands in the blocks of a document, and between its back quotes those that are whole."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "sh")]
    blocks += re.findall(r"^    (\S.*)$", FENCE.sub("", text), re.MULTILINE)
    whole = r"`(robustnas (?:plugins \w+|recipes \w+|[a-z]+) [^-`][^`]*)`"
    spans = [" ".join(span.split()) for span in re.findall(whole, FENCE.sub("", text))]
    spans = [span for span in spans if not re.search(r"\b[A-Z]{3,}\b", span)]
    for block in [*blocks, *spans]:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r" (?:&&|\||>) ", re.sub(r"\s#.*", "", line)):
                part = " ".join(part.removeprefix("exec ").split())
                if re.match(rf"({OURS.pattern}|{FILE.pattern})( |$)", part):
                    yield part


NOW = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
EVERY = {document.name: list(commands(document.read_text(encoding="utf-8"))) for document in NOW}
TYPED = list(dict.fromkeys(command for some in EVERY.values() for command in some))


@pytest.fixture(scope="module")
def here(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipes and finished runs that the documents speak of."""
    folder = tmp_path_factory.mktemp("examples")
    made = Path(shutil.copytree(finished_run, folder / "made"))
    (made / "r.yaml").write_text(RECIPE.replace("jac:", "dsrna-combined:"))
    assert run(made, "--quiet") == 0  # the same stages under another name
    for name in ("quickstart", "my", "mine", "other"):
        shutil.copytree(made / "run", folder / "runs" / name)
        shutil.copy(made / "r.yaml", folder / f"{name}.yaml")
    shutil.copy(made / "r.yaml", folder / "recipe.yaml")  # as `plugins new` writes one
    return folder


def test_every_command_is_run_or_parsed(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    loaded = set()
    for command in TYPED:
        file = FILE.match(command)
        if file is not None:
            assert (ROOT / file[1]).is_file(), command
            continue
        argv = shlex.split(OURS.sub("", command, count=1))
        try:
            typed = parse(argv)
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")
        monkeypatch.chdir(here)
        if argv[:2] == ["recipes", "copy"]:
            monkeypatch.chdir(tmp_path)
            for copied in tmp_path.iterdir():
                copied.unlink()
        if argv[0] in QUICK and not THEIRS & set(argv):
            assert main(argv) == 0, command
            assert capsys.readouterr().out.strip(), command
            Path("table.tex").unlink(missing_ok=True)
        elif argv[0] in ("run", "plan", "rank"):
            asked = "my.yaml" if typed.recipe == "RECIPE" else typed.recipe, tuple(typed.set)
            if asked not in loaded:
                load(*asked)
            loaded.add(asked)
    assert len(loaded) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", shelf.names())
def test_a_recipe_runs_by_the_command_in_its_first_lines(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The commands in its comment are parsed, and itself and its copy are loaded with what they set."""
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^#\s+(robustnas .*)$", shelf.read(name), re.MULTILINE)
    for typed in [parse(shlex.split(re.split(r"  +", line)[0])[1:]) for line in lines]:
        assert typed.recipe in shelf.names()
        load(typed.recipe, typed.set)
    assert lines
    assert main(["recipes", "copy", name, "copy.yaml"]) == 0
    assert load("copy.yaml").recipe == load(name).recipe


def test_the_walk_over_commands_is_not_empty():
    assert {"README.md", "tutorial.md", "howto.md", "results.md", "evaluation.md", "evidence.md"} <= {
        name for name, some in EVERY.items() if some
    }
    assert len(TYPED) > 30
    with pytest.raises(SystemExit):
        parse(["run", "quickstart", "--job", "2"])


WITH_CODE = [one for one in DOCUMENTS if fenced(one, "python") and one.name not in IN_TEST_DOCS]


@pytest.mark.usefixtures("rules_put_back")
@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_the_code_of_a_document_runs(document: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    """In one namespace, block by block, in which is what its text speaks of."""
    monkeypatch.chdir(here)
    split = Digits().split("test")
    given: dict[str, Any] = {
        "robustnas": robustnas,
        "network": nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(),
        "supernet": Darts(cells=1, channels=2).supernet((1, 8, 8), 10),
        "images": split.take(torch.arange(2)),
        "labels": split.labels[:2],
    }
    space = {"__name__": document.stem, **given}
    for block in fenced(document, "python"):
        space |= given if document.name == "README.md" else {}  # its blocks are about one network each
        exec(compile(block, document.name, "exec"), space)


def test_the_walk_over_code_is_not_empty():
    assert {"README.md", "bounds.md", "evaluation.md", "performance.md", "tutorial.md", "howto.md"} == {
        one.name for one in WITH_CODE
    }
