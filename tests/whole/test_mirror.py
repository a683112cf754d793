"""Tests lie as the product does: a folder a room, and every module is covered by a test file.

    python tests/whole/test_mirror.py            which test files cover which module

A test file of a room's folder covers what it imports or names of that room, and what these import of the room in turn.
What no test of its own room reaches (the seeds of `runtime`, say) is covered by the files of other folders that import
it, or a module that does.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCES = {root: Path(__file__).resolve().parents[2] / root for root in ("framework", "plugins", "tests")}

ELSEWHERE = {
    "robustnas.__main__": "tests/whole starts it as a program",
    "robustnas.cli": "tests/whole types its commands",
    "robustnas.pipeline": "tests/whole runs recipes through it",
    "robustnas.contracts": "protocols: tests/testing holds plugins to them",
    "robustnas.errors": "exceptions: every refusal that is tested raises one",
    "robustnas.options": "tests/recipe reads them, where their faults are told",
}
"""Rooms without a folder of their own, and where their tests are."""


TEXT = re.compile(r"""["'](robustnas[\w.]*)""")
"""The start of a text that may name a module."""


def name_of(file: Path, root: Path) -> str:
    """The dotted name of a module's file."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def product() -> dict[str, Path]:
    """The file of every module, packages included."""
    return {name_of(file, SOURCES[root]): file for root in ("framework", "plugins") for file in
            sorted(SOURCES[root].rglob("*.py"))}  # fmt: skip


def room_of(module: str) -> str:
    """The room that a module is in: `robustnas.bounds`, or `robustnas_plugins.attacks`."""
    return ".".join(module.split(".")[:2])


def folder_of(room: str) -> Path:
    """Where the tests of a room lie; those of a room that is one module are `tests/test_NAME.py`."""
    package, _, name = room.partition(".")
    above = SOURCES["tests"] / ("plugins" if package == "robustnas_plugins" else "")
    return above / name if (above / name).is_dir() else above / f"test_{name}.py"


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node; expressions have none in them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield child
            yield from statements(child)


@cache
def named(file: Path) -> frozenset[str]:
    """The modules that a file imports, with the packages they are in, or names in a text (to replace a part, say)."""
    text = file.read_text(encoding="utf-8")
    found = set(TEXT.findall(text))
    for node in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in product():
            for alias in node.names:
                thing = getattr(importlib.import_module(node.module), alias.name, None)
                found |= {node.module, f"{node.module}.{alias.name}", str(getattr(thing, "__module__", ""))}
    parts = [name.split(".") for name in found]
    return frozenset({".".join(some[:count]) for some in parts for count in range(2, len(some) + 1)} & product().keys())


def covered(file: Path, room: str) -> set[str]:
    """The modules of a room that a test file reaches."""
    found: set[str] = set()
    todo = {name for name in named(file) if room_of(name) == room}
    while todo:
        module = todo.pop()
        found.add(module)
        todo |= {name for name in named(product()[module]) if room_of(name) == room} - found
    return found


def coverage() -> dict[str, list[str]]:
    """Which test files cover each module."""
    own: dict[str, list[str]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    rooms = {folder_of(room): room for room in map(room_of, product())}
    for file in sorted(SOURCES["tests"].rglob("*.py")):
        text = str(file.relative_to(SOURCES["tests"]))
        for room in [rooms[path] for path in (file, *file.parents) if path in rooms]:
            for module in covered(file, room):
                own[module].append(text)
        for module in named(file).union(*(named(product()[module]) for module in named(file))):
            others[module].append(text)
    return {**others, **own}


def test_every_room_has_its_tests():
    rooms = {room_of(module) for module in product() if "." in module}
    assert len(rooms) > 20
    without = {room for room in rooms if not folder_of(room).exists()}
    assert without == ELSEWHERE.keys(), "a room without tests, or an exception that is none"


def test_every_module_is_covered():
    found = coverage()
    modules = [module for module in product() if "." in module and room_of(module) not in ELSEWHERE]
    assert len(modules) > 200
    assert [module for module in modules if module not in found] == []


def test_every_folder_of_tests_is_of_a_room():
    """Beside the rooms there are the whole, evidence of soundness, what needs a device, help, and benchmarks."""
    beside = {"whole", "evidence", "gpu", "support", "benchmarks", "plugins"}
    rooms = {folder_of(room_of(module)) for module in product() if "." in module}
    folders = {path for path in SOURCES["tests"].iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {path.name for path in folders - rooms} <= beside


if __name__ == "__main__":
    for module, files in sorted(coverage().items()):
        if all(word in module for word in sys.argv[1:]):
            print(f"{module:<50} {' '.join(files)}")


def test_what_benchmarks_import_is_there():
    """Benchmarks run by hand alone, so nothing else would notice that a name has moved."""
    looked = 0
    for file in sorted((SOURCES["tests"] / "benchmarks").glob("*.py")):
        for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in product():
                module = importlib.import_module(node.module)
                names = [alias.name for alias in node.names if f"{node.module}.{alias.name}" not in product()]
                assert [name for name in names if not hasattr(module, name)] == [], file.name
                looked += len(names)
    assert looked > 50
