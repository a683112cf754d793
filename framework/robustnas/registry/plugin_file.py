"""A plugin in a file of one's own, without a package: `FILE.py:CLASS`, or `NAME=FILE.py:CLASS`.

The file is run, so it is only ever named by who types a command or writes Python: no recipe and no run directory can
name one.  Its module is called as the file is, and its folder joins the end of `sys.path`, so that processes which are
started later find what they are sent.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import keyword
import re
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

from robustnas.errors import InputError, PluginError
from robustnas.registry import REGISTRIES, Entry, Registry
from robustnas.runtime import given_file
from robustnas.runtime.quoted import quoted
from robustnas.runtime.strangers import contained
from robustnas.runtime.suggest import did_you_mean

MOST = 1024**2
"""Bytes that a file may have."""

NAME = "[a-z0-9]+(-[a-z0-9]+)*"

WRITTEN = re.compile(rf"(?:(?P<name>{NAME})=)?(?P<path>[^=/]*(?:/.*)?\.py):(?P<cls>[A-Za-z_]\w*)")


@frozen
class PluginFile:
    """A class of a file that is registered in this process.

    Args:
        kind: of plugin, as its methods tell.
        name: what a recipe says.
        path: of the file, absolute.
        cls: name of the class.
        sha256: of the file as it was run.
    """

    kind: str
    name: str
    path: Path
    cls: str
    sha256: str

    @property
    def text(self) -> str:
        """What registers it in any process."""
        return f"{self.name}={self.path}:{self.cls}"

    @property
    def entry(self) -> Entry:
        """As an installed package would register it; the file's digest stands for the version."""
        target = f"{self.path.stem}:{self.cls}"
        point = importlib.metadata.EntryPoint(self.name, target, REGISTRIES[self.kind].group)
        return Entry(self.name, target, self.path.name, f"sha256:{self.sha256[:16]}", point)


GIVEN: dict[tuple[str, str], PluginFile] = {}
"""What is registered in this process, by kind and name."""


def register(text: str, sha256: str | None = None) -> PluginFile:
    """Run a file and register one of its classes in this process.

    Args:
        text: `FILE.py:CLASS`, whose name is the class's in words with hyphens, or `NAME=FILE.py:CLASS`.
        sha256: the digest that the file has to have; another process has run it.

    Raises:
        InputError: it is not written so, there is no such file or class, the file cannot be run or has changed, or the
            name is taken.
        PluginError: the class does not keep its contract.
    """
    written = WRITTEN.fullmatch(text)
    if written is None:
        raise InputError(
            f"--plugin {quoted(text)}: FILE.py:CLASS or name=FILE.py:CLASS would do (letters, digits, '-')"
        )
    path, cls = Path(written["path"]).absolute(), written["cls"]
    data = given_file.read(path, MOST)
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise InputError(f"{path} has changed while the run was under way; run the same command again to go on")
    module = _run(path, data, found)
    plugin = vars(module).get(cls)
    if not isinstance(plugin, type):
        known = [
            name for name, thing in vars(module).items() if isinstance(thing, type) and thing.__module__ == path.stem
        ]
        raise InputError(f"--plugin {text}: {path.name} has no class {cls}{did_you_mean(cls, known)}")
    registry = _registry_of(plugin, text)
    made = PluginFile(registry.kind, written["name"] or hyphened(cls), path, cls, found)
    former = GIVEN.get((made.kind, made.name))
    earlier = former.entry if former is not None and former.path == made.path else None
    for other in registry.entries():
        if other.name == made.name and other != earlier:
            would = f"another-name={written['path']}:{cls}"
            raise InputError(
                f"--plugin {text}: {other.provider} registers {made.kind} {made.name!r} already; {would} would do"
            )
    registry.load_entry(made.entry)
    if earlier is not None:  # the class is accepted: only now does it take the other's place
        registry.given.remove(earlier)
    registry.given.append(made.entry)
    GIVEN[made.kind, made.name] = made
    return made


def hyphened(cls: str) -> str:
    """The name of a class in words with hyphens: `CwLinf` is `cw-linf`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls).split("_")
    return "-".join(filter(None, words)).lower()


def _run(path: Path, data: bytes, sha256: str) -> Any:
    """The module of a file, made of these bytes; one that is there already is taken.

    Raises:
        InputError: it cannot be a module by that name, or raises.
    """
    name = path.stem
    there = sys.modules.get(name)
    if there is not None and getattr(there, "__sha256__", None) == sha256 and there.__file__ == str(path):
        return there
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"{path}: a file called as a module is would do: letters, digits and _ before .py")
    other = importlib.util.find_spec(name) if there is None else there.__spec__
    if (there is not None or other is not None) and getattr(other, "origin", None) != str(path):
        raise InputError(f"{path}: there is a module {name} already; a file of another name would do")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module: Any = importlib.util.module_from_spec(spec)
    module.__sha256__ = sha256
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    sys.modules[name] = module
    try:
        with contained(lambda text: InputError(f"{path} cannot be run: {text}")):
            exec(compile(data, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _registry_of(plugin: type, text: str) -> Registry:
    """The registry of the one kind whose contract a class keeps.

    Raises:
        PluginError: it keeps none, or several.
    """
    with contained(lambda told: PluginError(f"--plugin {text} cannot be looked at: {told}")):
        wrong = {kind: registry.check(plugin) for kind, registry in REGISTRIES.items()}
    kept = [kind for kind, lines in wrong.items() if not lines]
    if len(kept) == 1:
        return REGISTRIES[kept[0]]
    if kept:
        raise PluginError(f"--plugin {text} keeps the contracts of {' and '.join(kept)}; a class for each would do")
    # a contract that it keeps in part is meant: what is found there is a method, not its absence
    meant = {kind: lines for kind, lines in wrong.items() if not any(line.startswith("found:    no") for line in lines)}
    if not meant:
        would = "robustnas.contracts says what each kind of plugin has, robustnas plugins new writes an example"
        raise PluginError(f"--plugin {text} keeps no contract; {would}")
    lines = [f"as {kind}:\n    " + "\n    ".join(lines) for kind, lines in meant.items()]
    raise PluginError("\n  ".join([f"--plugin {text} keeps no contract", *lines]))
