"""Who may import whom: a room imports from the floors below its own, never sideways, never up, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.places import ROOT

FRAMEWORK = ROOT / "framework" / "robustnas"
PLUGINS = ROOT / "plugins" / "robustnas_plugins"

FLOORS = (
    "errors < runtime < words < data, nn < bounds, attack, search < train, certify, foreign < recipe"
    " < plan, testing < run < table < export, laboratory < pipeline < cli"
)
"""From the ground up.  docs/architecture.md shows this line."""

WORDS = {"contracts", "genotype", "options", "registry", "threat"}
"""The words everybody uses, on one floor; among themselves they import as they like, in no circle."""

FLOOR = {
    room: number
    for number, floor in enumerate(FLOORS.split(" < "))
    for name in floor.split(", ")
    for room in (WORDS if name == "words" else {name})
} | {"__main__": len(FLOORS.split(" < "))}

MOST_ENTRIES = 24

PLUGINS_MAY_IMPORT = {
    "attack", "bounds", "certify", "contracts", "data", "errors", "genotype", "nn", "options", "runtime", "threat"
}  # fmt: skip
"""Promises, values and engines; nothing that runs an experiment."""

WITHOUT_TORCH = ("errors", "threat", "contracts", "registry", "options", "recipe", "cli")
"""What listing, help and the loading of a recipe are made of: torch takes a second, they take a tenth."""


def modules(folder: Path) -> dict[str, str]:
    """The text of every module below a folder, by dotted name."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = [folder.name, *file.relative_to(folder).with_suffix("").parts]
        found[".".join(parts)] = file.read_text(encoding="utf-8")
    assert len(found) > 10, f"no modules below {folder}"
    return found


PRODUCT = modules(FRAMEWORK) | modules(PLUGINS)


INSIDE = (ast.stmt, ast.excepthandler, ast.match_case)
"""What statements are in; expressions have none in them."""


@cache
def imports(source: str) -> tuple[tuple[str, bool], ...]:
    """Dotted names a module imports, each with whether that happens when the module itself is imported.

    `from a import b` gives `a.b`: `b` may be a module.  What a function imports, and what stands below `if
    TYPE_CHECKING:`, is among them.
    """

    def walk(node: ast.AST, now: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            yield from ((f"{node.module}.{alias.name}", now) for alias in node.names)
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        for child in ast.iter_child_nodes(node):
            if isinstance(child, INSIDE):
                yield from walk(child, now and not later)

    return tuple(walk(ast.parse(source), True))


def rooms(source: str) -> set[str]:
    """Rooms of the framework that a module imports, at any time."""
    names = [name.split(".") for name, _ in imports(source)]
    # `from robustnas import __version__` is no import of a module
    return {parts[1] for parts in names if parts[0] == "robustnas" and len(parts) > 1} - {"__version__"}


def faults(name: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    package, room, *_ = [*name.split("."), ""]
    others = rooms(source)
    if package == "robustnas_plugins":
        return [f"plugin {name} imports robustnas.{one}" for one in sorted(others - PLUGINS_MAY_IMPORT)]
    wrong = [
        f"{name} imports {imported}: the framework finds plugins by entry point"
        for imported, _ in imports(source)
        if imported.split(".")[0] == "robustnas_plugins"
    ]
    if room == "__init__":
        return wrong + [f"robustnas itself imports {one}" for one in sorted(others)]
    if room not in FLOOR:
        return [*wrong, f"{name} is on no floor: give {room} one in {Path(__file__).name}"]
    same = {room} | (WORDS if room in WORDS else set())
    return wrong + [
        f"{name} (floor {FLOOR[room]}) imports {one} (floor {FLOOR.get(one)})"
        for one in sorted(others - same)
        if FLOOR.get(one, FLOOR[room]) >= FLOOR[room]
    ]


def test_imports_run_one_way():
    wrong = [fault for name, source in PRODUCT.items() for fault in faults(name, source)]
    assert not wrong, "\n".join(wrong)


def test_the_floors_name_what_is_there():
    there = {path.name.removesuffix(".py") for path in FRAMEWORK.iterdir()}
    there -= {"__init__", "__init__.pyi", "__pycache__", "py.typed", "recipes"}
    assert set(FLOOR) == there
    assert len(there - {"__main__"}) <= MOST_ENTRIES
    assert set(FLOOR) >= PLUGINS_MAY_IMPORT


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports, at any time; the `__init__` of a package is the package."""
    known = {name.removesuffix(".__init__"): name for name in sources}
    arrows: dict[str, set[str]] = {}
    for package, name in known.items():
        arrows[package] = set()
        for imported, _ in imports(sources[name]):
            while imported and imported not in known:
                imported = imported.rpartition(".")[0]
            arrows[package] |= {imported} - {package, ""}
    return arrows


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    done: set[str] = set()
    for start in arrows:
        path, waiting = [start], [iter(sorted(arrows[start]))]
        while waiting:
            following = next((name for name in waiting[-1] if name not in done), None)
            if following is None:
                done.add(path.pop())
                waiting.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            else:
                path.append(following)
                waiting.append(iter(sorted(arrows[following])))
    return []


def test_no_module_imports_itself_over_others():
    arrows = graph(PRODUCT)
    assert sum(map(len, arrows.values())) > 500
    assert circle(arrows) == []


def test_a_circle_is_found_wherever_the_import_stands():
    sources = {
        "a.__init__": "",
        "a.b": "def later():\n    from a import c",
        "a.c": "if TYPE_CHECKING:\n    from a.d import x",
        "a.d": "import a.b",
    }
    assert circle(graph(sources)) == ["a.b", "a.c", "a.d", "a.b"]
    assert circle(graph(sources | {"a.d": ""})) == []


def test_what_lists_and_loads_recipes_does_not_import_torch():
    """By the text: no such module, nor one of the framework that it imports, imports torch at once."""
    sources = {name.removesuffix(".__init__"): text for name, text in modules(FRAMEWORK).items()}
    waiting = [name for name in sources if name.split(".")[1:2] and name.split(".")[1] in WITHOUT_TORCH]
    assert {name.split(".")[1] for name in waiting} == set(WITHOUT_TORCH)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported, now in imports(sources[name]):
            assert not (now and imported.split(".")[0] in ("torch", "torchvision", "foolbox")), f"{name}: {imported}"
            if now:
                waiting += [one for one in (imported, imported.rpartition(".")[0]) if one in sources]


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("robustnas.threat", "from robustnas import pipeline", "threat (floor 2) imports pipeline (floor 11)"),
        ("robustnas.threat", "import robustnas.cli", "threat (floor 2) imports cli (floor 12)"),
        ("robustnas.bounds.rules", "from robustnas.attack import x", "(floor 4) imports attack (floor 4)"),
        ("robustnas.attack.x", "def later():\n    from robustnas.certify import margins", "imports certify"),
        ("robustnas.search.loop", "if TYPE_CHECKING:\n    from robustnas.train import run", "imports train (floor 5)"),
        ("robustnas.cli.x", "from robustnas_plugins.metrics import x", "the framework finds plugins by entry point"),
        ("robustnas.helpers", "", "helpers is on no floor"),
        ("robustnas.__init__", "from robustnas.threat import ThreatModel", "robustnas itself imports threat"),
        ("robustnas_plugins.metrics.x", "from robustnas.search import run", "imports robustnas.search"),
    ],
)
def test_an_injected_violation_is_found(name, source, fault):
    (found,) = faults(name, source)
    assert fault in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("robustnas.search.loop", "from robustnas.search.weights import w\nimport torch"),
        ("robustnas.contracts", "from robustnas.threat import x"),
        ("robustnas.cli.x", "from robustnas import __version__, pipeline"),
        ("robustnas_plugins.metrics.x", "import robustnas.threat"),
    ],
)
def test_what_is_allowed_is_not_found(name, source):
    assert faults(name, source) == []
