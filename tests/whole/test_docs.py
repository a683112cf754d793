"""What the documents say is so: names resolve, links lead somewhere, examples run, recipes load."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import runpy
import shutil
import sys
import tomllib
import types
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from test_layers import FLOORS

from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.data.selection import first
from robustnas.recipe.load import load
from robustnas.registry import REGISTRIES
from robustnas.search.settings import Search
from robustnas.train.settings import Train
from robustnas_plugins.datasets.digits import Digits
from support.places import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DOTTED = re.compile(r"\brobustnas(?:_plugins)?(?:\.[A-Za-z_]\w*)+")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(document: Path, language: str) -> list[str]:
    found = FENCE.findall(document.read_text(encoding="utf-8"))
    return [text for its_language, text in found if its_language == language]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            fields = {one.name for one in getattr(thing, "__attrs_attrs__", ())}
            if attribute in fields:
                return True
            if not hasattr(thing, attribute):
                return False
            thing = getattr(thing, attribute)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_dotted_name_resolves(document):
    groups = {registry.group for registry in REGISTRIES.values()}
    names = set(DOTTED.findall(document.read_text(encoding="utf-8"))) - groups
    wrong = sorted(name for name in names if not resolves(name))
    assert not wrong, f"{document.name} names what is not there: {wrong}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(document):
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (document.parent / link.partition("#")[0]).exists()]
    assert not missing, f"{document.name}: {missing}"


def test_the_walks_over_documents_are_not_empty():
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "plugins.md", "words.md", "architecture.md"} <= names
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    assert sum(len(DOTTED.findall(text)) for text in texts) > 20
    assert sum(len(LINK.findall(text)) for text in texts) > 10


@pytest.mark.parametrize(
    "name", ["robustnas.nothing", "robustnas.threat.Nothing", "robustnas.threat.ThreatModel.nothing"]
)
def test_a_name_that_is_not_there_is_found(name):
    assert not resolves(name)


def test_whole_recipes_in_the_documents_load(tmp_path):
    """A fenced block with a dataset and methods is a whole recipe; others are fragments, and are YAML."""
    loaded = 0
    for document in DOCUMENTS:
        for text in fenced(document, "yaml"):
            data = yaml.safe_load(text)
            if isinstance(data, dict) and {"dataset", "methods"} <= data.keys():
                file = tmp_path / f"{document.stem}-{loaded}.yaml"
                file.write_text(text, encoding="utf-8")
                load(file)
                loaded += 1
    assert loaded


def test_the_plugin_guide_runs():
    """Its examples in one namespace, then its tests: what a reader would do."""
    blocks = fenced(ROOT / "docs" / "plugins.md", "python")
    assert len(blocks) >= 3
    space: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, "docs/plugins.md", "exec"), space)
    tests = {name: thing for name, thing in space.items() if name.startswith("test_")}
    a_promise = tests.pop("test_promises")
    (mark,) = a_promise.pytestmark  # type: ignore[attr-defined]
    tests.update({promise: partial(a_promise, promise) for promise in mark.args[1]})  # type: ignore[call-overload]
    assert len(tests) > 10
    for test in tests.values():
        test()  # type: ignore[operator]


def test_the_engines_run_without_a_recipe_in_five_lines_each(tmp_path, monkeypatch):
    """The examples of docs/api.md: names, search, training, attack, certification."""
    monkeypatch.chdir(tmp_path)
    _, _, names, *engines = fenced(ROOT / "docs" / "api.md", "python")
    space: dict[str, object] = {}
    exec(compile(names, "docs/api.md", "exec"), space)
    few = {name: first(Digits().split(name), count) for name, count in (("train", 300), ("test", 64))}
    monkeypatch.setattr(Digits, "split", lambda self, name: few[name])
    space |= {name: space[name][:16] for name in ("images", "labels")}
    assert len(engines) == 4
    for engine in engines:
        assert len(engine.splitlines()) <= 5
        exec(compile(engine, "docs/api.md", "exec"), space)
    assert {"genotype", "network", "robust", "radii"} <= space.keys()
    assert space["certified"] <= space["robust"]  # type: ignore[operator]


def test_runs_are_opened_run_and_compared_in_python(finished_run, tmp_path, monkeypatch):
    """The examples of docs/api.md and README.md, with finished runs in their folders."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished_run / "r.yaml", "my.yaml")
    for name in ("quickstart", "my"):
        shutil.copytree(finished_run / "run", tmp_path / "runs" / name)
    readme = [block for block in fenced(ROOT / "README.md", "python") if "robustnas.open" in block]
    space: dict[str, Any] = {}
    for block in [*fenced(ROOT / "docs" / "api.md", "python")[:2], *readme]:
        exec(compile(block, "docs/api.md", "exec"), space)
    assert len(readme) == 1
    assert len(space["epochs"]) == 2
    assert len(space["fooled"]) == 80
    assert not space["network"].training
    assert [(row["run"], row["method"]) for row in space["both"]] == [
        ("quickstart", "darts"), ("quickstart", "jac"), ("my", "darts"), ("my", "jac")
    ]  # fmt: skip


def test_the_notebook_runs(finished_run, tmp_path, monkeypatch):
    """Its cells in order, on finished runs in their folders; a drawing needs matplotlib, which not everybody has."""
    monkeypatch.chdir(tmp_path)
    for name in ("small", "longer"):
        shutil.copytree(finished_run / "run", tmp_path / "runs" / name)
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    space: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if "matplotlib" not in source or importlib.util.find_spec("matplotlib"):
            exec(compile(source, "docs/notebook.ipynb", "exec"), space)
    assert len(space["searched"]) == len(space["trained"]) == 2
    assert len(space["both"]) == 4


def test_the_plugin_guide_registers_what_it_writes():
    (text,) = fenced(ROOT / "docs" / "plugins.md", "toml")
    registered = tomllib.loads(text)["project"]["entry-points"]
    assert set(registered) <= {registry.group for registry in REGISTRIES.values()}
    assert len(registered) >= 2
    written = "\n".join(fenced(ROOT / "docs" / "plugins.md", "python"))
    for group in registered.values():
        for target in group.values():
            module, _, name = target.partition(":")
            if module.startswith("my_plugins."):
                assert f'"""{module.partition(".")[2]}.py:' in written
                assert f"class {name}:" in written
            else:
                assert resolves_class(module, name)


def resolves_class(module: str, name: str) -> bool:
    return isinstance(getattr(importlib.import_module(module), name), type)


def test_the_map_shows_the_floors_that_are_enforced():
    """docs/architecture.md has the line of test_layers.py for people to read."""
    assert f"\n    {FLOORS}\n" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_map_lists_what_is_in_the_framework():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listing = text.partition("```\nframework/robustnas/\n")[2].partition("```")[0]
    listed = {line.split()[0].rstrip("/").removesuffix(".py") for line in listing.splitlines() if line.strip()}
    there = {path.name.removesuffix(".py") for path in (ROOT / "framework" / "robustnas").iterdir()}
    there -= {"__init__", "__init__.pyi", "__pycache__", "py.typed", "recipes"}
    assert listed == there


@pytest.mark.parametrize("cls", [Search, Train, Certify, Smoothing, Evaluate])
def test_every_key_of_a_section_is_documented_with_its_default(cls: type) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").split(f"\n## {cls.__name__.lower()}\n")[1]
    rows = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("| `")]
    assert len(rows) == len(attrs.fields(cls)) >= 5
    for row, found in zip(rows, attrs.fields(cls), strict=True):
        assert row.startswith(f"| `{found.name}` | `")
        assert row.endswith(f"` | {found.metadata['help']} |")
        if isinstance(found.default, int | float) and not isinstance(found.default, bool):
            assert f"| `{found.default}` |" in row


def test_no_link_on_a_package_index_is_relative(monkeypatch):
    """README as `docs/index_page.py` hands it to an index, without an address of the repository and with one."""
    hatchling = types.SimpleNamespace(MetadataHookInterface=object)  # which builds, and is not installed for tests
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", hatchling)
    page = runpy.run_path(str(ROOT / "docs" / "index_page.py"))["page"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([link for link in LINK.findall(readme) if "://" not in link]) > 5
    plain = page(readme, None)
    assert [link for link in LINK.findall(plain) if "://" not in link] == []
    assert "[" not in plain.partition("All keys of a recipe")[0].splitlines()[-1]
    linked = page(readme, "https://example.org/robustnas")
    assert "(https://example.org/robustnas/blob/main/docs/recipes.md)" in linked
    assert all("://" in link for link in LINK.findall(linked))
