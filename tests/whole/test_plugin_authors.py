"""What a stranger does with a plugin of their own: `plugins new`, an installed package, a file of one class."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.cli.new_plugin import DIFFERENT, EXAMPLES, written
from robustnas.errors import InputError
from robustnas.recipe.load import load
from robustnas.registry import REGISTRIES
from robustnas.testing import CHECKS
from support.fake_package import install
from support.given_files import forget
from support.places import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "robustnas-curvature"

SMALL = [
    "search_space={name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}",
    "dataset={name: digits, train_images: 100}", "search={epochs: 1, batch: 50}", "train.epochs=1", "train.batch=50",
    "evaluate.images=10",
]  # fmt: skip


@pytest.fixture
def forgotten(monkeypatch):
    """What is imported and registered in a test is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("robustnas_my", "robustnas_curvature", "curvature", "test_")):
            del sys.modules[name]
    forget()


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_is_written_is_registered_and_its_recipe_is_a_recipe(kind, tmp_path, monkeypatch):
    files = written(kind, f"my-{kind}")
    put(tmp_path, files)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    install(tmp_path / "src", project["name"], project["entry-points"])
    plugin = REGISTRIES[kind].load(f"my-{kind}")
    assert plugin.__name__ == "My" + kind.title().replace("-", "")
    assert plugin.contract == 1
    loaded = load(tmp_path / "recipe.yaml")
    assert f"my-{kind}" in loaded.source
    assert loaded.recipe.attacks
    (test,) = (name for name in files if name.startswith("tests/"))
    tests = runpy.run_path(str(tmp_path / test))
    assert tests["test_promises"].pytestmark[0].args[1]
    assert "xample" not in "".join(files.values())
    assert [line for line in files["README.md"].splitlines() if line.startswith(("pip", "python", "robustnas"))] != []


def test_every_kind_that_has_a_check_has_an_example():
    """`tests/testing/test_kind_examples.py` holds them to their contracts."""
    assert set(DIFFERENT) == set(CHECKS)
    assert {path.stem.replace("_", "-") for path in EXAMPLES.glob("*.py")} == {*CHECKS, "--init--"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Gradient Norm", "found the name 'Gradient Norm'; small letters, digits and hyphens would do, a letter first"),
        ("Gradient Norm", "at most 60: gradient-norm"),
        ("2x", "at most 60: x"),
        ("lambda", "at most 60: lambda-metric"),
        ("-", "at most 60: my-metric"),
        ("a" * 61, f"at most 60: {'a' * 60}"),
        ("jacobian", "registers the metric 'jacobian' already"),
        ("plugins", "a package robustnas_plugins is installed already"),
    ],
)  # fmt: skip
def test_a_name_that_is_none_or_is_taken_is_refused(name, told):
    with pytest.raises(InputError) as caught:
        written("metric", name)
    assert told in str(caught.value)


@pytest.mark.parametrize(("name", "cls"), [("tensor", "TensorMetric"), ("none", "NoneMetric"), ("cw-linf", "CwLinf")])
def test_a_class_hides_no_name_of_its_module(name, cls):
    files = written("metric", name)
    assert f"class {cls}:" in files[f"src/robustnas_{name.replace('-', '_')}/{name.replace('-', '_')}.py"]


def test_nothing_is_overwritten(tmp_path, capsys):
    folder = tmp_path / "new"
    new = ["plugins", "new", "order", "my-order", "--output", str(folder)]
    assert main(new) == 0
    assert "pip install -e" in capsys.readouterr().out
    assert main(new) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert main([*new[:-1], str(folder / "README.md" / "below")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_example_is_what_is_written_with_its_body_filled_in():
    own = {"src/robustnas_curvature/curvature.py", "tests/test_by_hand.py"}
    found = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files = written("metric", "curvature")
    assert set(found) == {*files, *own}
    assert {name for name in files if files[name] != found[name]} == own & set(files)


@pytest.mark.processes
@pytest.mark.usefixtures("forgotten")
def test_the_example_installed_has_a_row_in_a_table(tmp_path, monkeypatch):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(EXAMPLE)], check=True)
    monkeypatch.syspath_prepend(str(site))
    overrides = [word for one in (*SMALL, "methods.darts={strategy: random}") for word in ("--set", one)]
    out = tmp_path / "out"
    assert main(["run", str(EXAMPLE / "recipe.yaml"), "--out", str(out), "--device", "cpu", "--quiet", *overrides]) == 0
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["darts", "curvature"]
    assert import_module("robustnas_curvature").__file__.startswith(str(site))  # type: ignore[union-attr]
    runpy.run_path(str(EXAMPLE / "tests" / "test_by_hand.py"))["test_logistic_regression"]()


@pytest.mark.processes
@pytest.mark.usefixtures("forgotten")
def test_a_file_of_one_class_runs_in_workers_and_a_changed_one_is_told(tmp_path, capsys):
    file = tmp_path / "curvature.py"
    file.write_bytes((EXAMPLE / "src" / "robustnas_curvature" / "curvature.py").read_bytes())
    overrides = [word for one in SMALL for word in ("--set", one)]
    out = tmp_path / "out"
    run = ["run", str(EXAMPLE / "recipe.yaml"), "--out", str(out), "--device", "cpu", "--until", "search", *overrides]
    assert main([*run, "--jobs", "2", "--plugin", f"{file}:Curvature"]) == 0
    (recorded,) = json.loads((out / "plugins.json").read_text())
    assert recorded["file"] == str(file)
    assert (recorded["kind"], recorded["name"], recorded["class"]) == ("metric", "curvature", "Curvature")
    searches = sorted(path.name for path in (out / "search").iterdir())
    assert len(searches) == 2
    capsys.readouterr()
    forget()
    assert main(run) == 2
    assert "or give its file: --plugin FILE.py:CLASS" in capsys.readouterr().err
    file.write_text(file.read_text() + "\n# changed\n")
    assert main([*run, "--plugin", f"{file}:Curvature"]) == 0
    told = capsys.readouterr().err
    assert "metric 'curvature'" in told
    assert "is not what the last run in this directory was given" in told
    assert len(list((out / "search").iterdir())) == 3
    (again,) = json.loads((out / "plugins.json").read_text())
    assert again["sha256"] != recorded["sha256"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("metric jacobian --set name=random-noise", "--set name=random-noise: name: found beside NAME"),
        ("metric nope", "no metric is called 'nope'"),
        ("attack fgsm --kit epsilon=99", "--kit epsilon=99: epsilon: found 99.0; a radius in pixel units"),
        ("metric jacobian --kit epsilons=[0.5,0.5]", "two different radii"),
        ("metric jacobian --kit norms=[l7]", "some of linf, l2, l1 would do"),
        ("dataset digits --kit limit=0", "limit: found 0; a whole number from 1 would do"),
        ("dataset digits --kit splits=[nope]", "some of train, test would do"),
        ("search-space darts --kit shapes=[[1,0,2]]", "a list of shapes"),
        ("search-space darts --kit methods=[]", "some of ibp, crown-ibp, crown, alpha-crown would do"),
    ],
)
def test_what_is_typed_wrongly_is_no_fault_of_the_plugin(typed, told, capsys):
    assert main(["plugins", "check", *typed.split()]) == 2
    assert told in capsys.readouterr().err
