"""Who may import whom: a framework module imports from the rows above its own, never sideways, never down."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORK = ROOT / "framework" / "robustnas"
PLUGINS = ROOT / "plugins" / "robustnas_plugins"

ROWS = [
    {"bracket", "draws", "errors", "suggest", "fixed_norm", "foolbox_import", "convolution", "interrupt", "finite",
     "printable", "quoted"},
    {"threat", "seeding", "report", "artifacts", "device", "frozen", "given_file", "notation", "pixels",
     "double_backward", "memory", "precision", "recompute", "strangers", "synchronised", "terminal",
     "wrappers"},
    {"contracts", "genotype", "foolbox_attack", "resized_crop", "colour_jitter", "progress_files", "doubled", "world"},
    {"bounds", "registry", "options", "images", "dataset_promises", "augment", "normalize", "statistics", "cells"},
    {"recipe", "perturb", "feed", "stratified"},
    {"batches", "attack_order"},
    {"search", "train", "attack", "certify", "smoothing", "foreign", "review"},
    {"plan", "testing", "robustbench", "verdicts"},
    {"table"},
    {"run"},
    {"pipeline", "export"},
    {"cli"},
    {"__main__"},
]  # fmt: skip
"""Top-level modules and packages of the framework; inside its own package a module imports what it likes."""

PLUGINS_MAY_IMPORT = {
    "errors", "threat", "contracts", "seeding", "report", "images", "bounds", "certify", "cells", "genotype",
    "statistics", "perturb", "draws", "foolbox_attack", "foolbox_import", "frozen", "suggest", "double_backward",
    "doubled", "bracket",
}  # fmt: skip
"""Promises, values and engines; nothing that runs an experiment."""

WITHOUT_TORCH = ("errors", "threat", "contracts", "registry", "options", "recipe", "cli", "suggest")
"""What listing, help and the loading of a recipe are made of: torch takes a second, they take a tenth."""


def imports(source: str, package: str = "") -> list[tuple[str, bool]]:
    """Dotted names a module imports, each with whether that happens when the module itself is imported.

    What stands below `if TYPE_CHECKING:` is left out.  `from a import b` gives `a.b`: `b` may be a module.

    Args:
        source: the module's text.
        package: the package it is in, for relative imports.
    """
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, now: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child, now)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.extend((f"{base}.{alias.name}", now) for alias in node.names)
        inside = now and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(source), True)
    return found


def framework_parts(source: str, package: str = "") -> set[str]:
    """First-level modules of the framework that a module imports, at any time."""
    names = [name.split(".") for name, _ in imports(source, package)]
    return {parts[1] for parts in names if parts[0] == "robustnas" and len(parts) > 1}


def row_of(part: str) -> int | None:
    return next((row for row, parts in enumerate(ROWS) if part in parts), None)


def faults_of_framework_module(relative: Path, source: str) -> list[str]:
    """What is wrong with the imports of one framework module."""
    part = relative.with_suffix("").parts[0]
    name = ".".join(relative.with_suffix("").parts)
    package = ".".join(["robustnas", *relative.parent.parts])
    wrong = [
        f"{name} imports {imported}: the framework finds plugins by entry point"
        for imported, _ in imports(source, package)
        if imported.split(".")[0] == "robustnas_plugins"
    ]
    if part == "__init__":
        wrong += [f"robustnas itself imports {one}" for one in sorted(framework_parts(source, package))]
        return wrong
    row = row_of(part)
    if row is None:
        return [*wrong, f"{name} has no row: give {part} one in {Path(__file__).name}"]
    allowed = {part}.union(*ROWS[:row])
    # `from robustnas import __version__` is no import of a module
    others = framework_parts(source, package) - allowed - {"__version__"}
    return wrong + [f"{name} (row {row}) imports {one} (row {row_of(one)})" for one in sorted(others)]


def faults_of_plugin_module(relative: Path, source: str) -> list[str]:
    """What is wrong with the imports of one first-party plugin module."""
    package = ".".join(["robustnas_plugins", *relative.parent.parts])
    others = framework_parts(source, package) - PLUGINS_MAY_IMPORT
    return [f"plugin {relative} imports robustnas.{one}" for one in sorted(others)]


def modules(package: Path) -> list[tuple[Path, str]]:
    found = [(file.relative_to(package), file.read_text(encoding="utf-8")) for file in sorted(package.rglob("*.py"))]
    assert len(found) > 10, f"no modules below {package}"
    return found


def test_framework_modules_import_upwards_only():
    wrong = [fault for file, source in modules(FRAMEWORK) for fault in faults_of_framework_module(file, source)]
    assert not wrong, "\n".join(wrong)


def test_plugins_import_promises_values_and_engines_only():
    wrong = [fault for file, source in modules(PLUGINS) for fault in faults_of_plugin_module(file, source)]
    assert not wrong, "\n".join(wrong)


def test_each_row_holds_modules_that_exist():
    """A name that is gone from the framework goes from the rows too."""
    there = {file.parts[0].removesuffix(".py") for file, _ in modules(FRAMEWORK)} - {"__init__"}
    named = [part for row in ROWS for part in row]
    assert len(named) == len(set(named)), "a module has two rows"
    assert set(named) == there
    assert set(named) >= PLUGINS_MAY_IMPORT


def test_what_lists_and_loads_recipes_does_not_import_torch():
    """By the text: no such module, nor one of the framework that it imports, imports torch at once."""
    sources = {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__"): text for file, text in modules(FRAMEWORK)
    }
    seen: set[str] = set()
    waiting = [name for name in sources if name.split(".")[0] in WITHOUT_TORCH]
    assert {name.split(".")[0] for name in waiting} == set(WITHOUT_TORCH)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        package = f"robustnas.{name}" if FRAMEWORK.joinpath(*name.split("."), "__init__.py").exists() else "robustnas"
        for imported, now in imports(sources[name], package):
            assert not (now and imported.split(".")[0] in ("torch", "torchvision", "foolbox")), f"{name}: {imported}"
            if now and imported.startswith("robustnas."):
                inner = imported.removeprefix("robustnas.")
                candidates = (inner, inner.rpartition(".")[0])
                waiting += [one for one in candidates if one in sources]


def test_the_command_line_does_not_import_torch():
    """By running it: torch is not among the modules after the import of the command line and a listing."""
    program = (
        "import sys, robustnas.cli, robustnas.recipe.load\n"
        "from robustnas.registry import REGISTRIES\n"
        "assert [r.names() for r in REGISTRIES.values()]\n"
        "print([m for m in ('torch', 'torchvision', 'foolbox', 'robustnas_plugins') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("threat.py", "from robustnas import pipeline", "threat (row 1) imports pipeline (row 10)"),
        ("threat.py", "import robustnas.cli", "threat (row 1) imports cli (row 11)"),
        (
            "bounds/rules.py",
            "from robustnas.registry import METRICS",
            "bounds.rules (row 3) imports registry (row 3)",
        ),
        ("attack.py", "def later():\n    from robustnas.certify import margins", "imports certify"),
        ("search/loop.py", "from ..train import run", "search.loop (row 6) imports train (row 6)"),
        (
            "search/loop.py",
            "if x:\n    from robustnas.train import run",
            "search.loop (row 6) imports train (row 6)",
        ),
        (
            "cli.py",
            "from robustnas_plugins.metrics import jacobian",
            "the framework finds plugins by entry point",
        ),
        ("helpers.py", "", "helpers has no row"),
        ("__init__.py", "from robustnas.threat import ThreatModel", "robustnas itself imports threat"),
    ],
)
def test_an_injected_violation_is_found(file, source, fault):
    found = faults_of_framework_module(Path(file), source)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("search/loop.py", "from . import weights\nfrom robustnas.search.weights import w\nimport torch"),
        (
            "contracts.py",
            "if TYPE_CHECKING:\n    from robustnas.cli import main\nfrom robustnas.threat import x",
        ),
        ("cli.py", "from robustnas import __version__, pipeline"),
    ],
)
def test_what_is_allowed_is_not_found(file, source):
    assert faults_of_framework_module(Path(file), source) == []


def test_a_plugin_that_imports_a_stage_is_found():
    found = faults_of_plugin_module(Path("metrics/x.py"), "from robustnas.search import run\nimport robustnas.threat")
    assert found == ["plugin metrics/x.py imports robustnas.search"]
