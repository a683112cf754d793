"""The recipes that ship with robustnas, by name.

In a wheel they are files of the package (`robustnas/recipes`), in a checkout the folder `recipes` beside
`framework`.
"""

from __future__ import annotations

from collections.abc import Iterable
from os.path import exists, isdir, isfile
from pathlib import Path

from robustnas.errors import RecipeError
from robustnas.runtime.given_file import shown
from robustnas.runtime.quoted import quoted
from robustnas.runtime.suggest import did_you_mean

SUFFIXES = (".yaml", ".yml")

NAMED = 10
"""A message names so many of them at most: it is one line of several."""


def folder() -> Path | None:
    """Find the folder of the shipped recipes; None where there is none."""
    package = Path(__file__).resolve().parents[1]
    if (package / "recipes").is_dir():
        return package / "recipes"
    checkout = package.parents[1] / "recipes"
    return checkout if package.parent.name == "framework" and checkout.is_dir() else None


def files() -> dict[str, Path]:
    """List the files of the shipped recipes by their names, sorted, those in folders (`paper/table1`) last."""
    shelf = folder()
    if shelf is None:
        return {}
    paths = [*sorted(shelf.glob("*.yaml")), *sorted(shelf.glob("*/*.yaml"))]
    return {path.relative_to(shelf).with_suffix("").as_posix(): path for path in paths}


def names() -> list[str]:
    """The names of the shipped recipes, sorted."""
    return list(files())


def find(source: str | Path, beside: Path | None = None) -> Path:
    """Find the file of a recipe from a path, or else from the name of a shipped recipe.

    Args:
        source: path or name.
        beside: a relative path starts from this file's folder; None starts from the working directory.

    Raises:
        RecipeError: neither exists; the message says what was looked for.
    """
    path = Path(source) if beside is None else beside.parent / source
    if exists(path) and not isdir(path):
        return path
    name, shipped = str(source), files()
    if name in shipped:
        return shipped[name]
    what = "is a folder, not a recipe" if isdir(path) else "no such file"
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    hint = f"; did you mean {stem!r}, without {name[len(stem) :]}?" if stem in shipped else did_you_mean(name, shipped)
    suffixed = path.parent / f"{path.name}.yaml"  # "." has no name: with_suffix would refuse it
    if not hint and path.name and not name.endswith(SUFFIXES) and isfile(suffixed):
        hint = f"; did you mean {str(suffixed)!r}?"
    raise RecipeError([f"{shown(path)}: {what}, and no shipped recipe{hint}\n  shipped: {_named(shipped)}"])


def read(name: str) -> str:
    """The text of a shipped recipe.

    Raises:
        RecipeError: none has that name.
    """
    shipped = files()
    if name not in shipped:
        hint = did_you_mean(name, shipped)
        raise RecipeError([f"no shipped recipe is called {quoted(name)}{hint}\n  shipped: {_named(shipped)}"])
    return shipped[name].read_text(encoding="utf-8")


def _named(shipped: Iterable[str]) -> str:
    """Some of the names for a message, and how to see the others."""
    names = list(shipped)
    more = ", ... (robustnas recipes list shows all)" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}" if names else "none"


def description(name: str) -> str:
    """The first comment line of a shipped recipe, nothing where it has none."""
    for line in read(name).splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ")
        if line.strip() and not line.startswith("#"):
            break
    return ""
