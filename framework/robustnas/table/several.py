"""One table of several runs; it compares like with like, unless it is told otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from robustnas.errors import InputError, RunDirectoryError
from robustnas.recipe.document import read
from robustnas.recipe.faults import Faults
from robustnas.runtime.artifacts import damaged, of_no_stage, opened
from robustnas.table.opened import Run, open
from robustnas.table.tabulated import Table

IMAGES = ("evaluate.images", "evaluate.subset", "evaluate.subset_seed", "certify.images", "smoothing.images")
"""The keys that say which test images are evaluated; those of a section that one run leaves out do not count."""

UNMARKED = "several runs: nothing is marked as best"


def compare(*runs: Run | str | os.PathLike[str], force: bool = False) -> Table:
    """Make one table of several runs: their rows, each with the run it is from.

    The figures are those of each run; nothing is marked as best, as tests of differences are made within a run.

    Args:
        runs: opened runs, or their folders.
        force: also where they differ in the data, the threat, the training regimes or the images that are evaluated;
            the notes say in what.

    Raises:
        InputError: there are none, or they differ in such a key; says which.
    """
    if not runs:
        raise InputError("found no runs; robustnas.compare('runs/a', 'runs/b') would do")
    compared = [run if isinstance(run, Run) else open(run) for run in runs]
    names = _names(compared)
    differing = _differing(dict(zip(names, map(_conditions, compared), strict=True)))
    if differing and not force:
        lines = "\n".join(f"  {line}" for line in differing)
        raise InputError(f"these runs are not alike, so one table would not compare their methods\n{lines}\n"
                         "  force=True shows them in one table all the same")  # fmt: skip
    tables = dict(zip(names, [run.table for run in compared], strict=True))
    heads = dict.fromkeys(head for table in tables.values() for record in table for head in record)
    heads.pop("marked", None)  # marks are made within a run
    titles = list(dict.fromkeys(title for table in tables.values() for title in table.titles))
    body = []
    for name, table in tables.items():
        for line in table.body:
            texts = {title: text for title, (text, _) in zip(table.titles, line, strict=True)}
            body.append([(name, False), *((texts.get(title, "-"), False) for title in titles)])
    return Table(
        records=[
            {"run": name, **{head: record.get(head) for head in heads}}
            for name, table in tables.items()
            for record in table
        ],
        rows=[{"run": name, **row} for name, table in tables.items() for row in table.rows],
        title=f"runs: {', '.join(names)}",
        titles=["run", *titles],
        body=body,
        notes=[UNMARKED, *(f"not alike: {line}" for line in differing), *_notes(tables)],
    )


def _names(runs: list[Run]) -> list[str]:
    """Name runs by their folders: by the last part of the path, where that is enough."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [str(run.path) for run in runs]
    twice = [path for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if twice:
        raise InputError(f"found {', '.join(twice)} more than once; each run once would do")
    return paths


def _notes(tables: Mapping[str, Table]) -> list[str]:
    """List the notes of all tables, each once, with the runs it is about where these are not all."""
    whose: dict[str, list[str]] = {}
    for name, table in tables.items():
        for note in table.notes:
            if not note.startswith("marked:"):  # nothing is
                whose.setdefault(note, []).append(name)
    return [note if len(about) == len(tables) else f"{', '.join(about)}: {note}" for note, about in whose.items()]


def _conditions(run: Run) -> dict[str, str]:
    """Describe what figures of a run depend on beside the methods, by dotted keys of its recipe."""
    identity = run.directory.read_json("run.json")
    recipe = _recipe(run)
    try:
        found = {**_flat("dataset", identity["dataset"]), **_flat("threat", identity["threat"])}
        methods = [method for method in recipe["methods"].values() if "network" not in method]
        regimes = sorted({_brief(method["train"]["regime"]) for method in methods})
        images = {f"{name}.{key}": value for name in ("evaluate", "certify", "smoothing")
                  for key, value in (recipe[name] or {}).items()}  # fmt: skip
    except (KeyError, TypeError, AttributeError) as fault:
        file = run.path / "recipe.yaml"
        raise RunDirectoryError(damaged(file, f"it does not hold {fault}", of_no_stage(file))) from fault
    found |= {key: "all" if images[key] is None else str(images[key]) for key in IMAGES if key in images}
    return found | ({"train.regime": " and ".join(regimes)} if regimes else {})


def _recipe(run: Run) -> Any:
    """Read the recipe that the run keeps, every default filled in, as plain data."""
    file, faults = run.path / "recipe.yaml", Faults()
    opened(file, of_no_stage(file)).close()  # it is what the run wrote
    _, node = read(file, faults)
    faults.raise_all()
    return None if node is None else node.plain()


def _flat(key: str, value: Any) -> dict[str, str]:
    """Write plain data as texts by dotted keys."""
    if isinstance(value, Mapping) and value:
        return {name: text for part, one in value.items() for name, text in _flat(f"{key}.{part}", one).items()}
    return {key: value if isinstance(value, str) else json.dumps(value)}


def _brief(use: Any) -> str:
    """Write a plugin with its options: `adversarial (steps 7)`."""
    if not isinstance(use, Mapping):
        return str(use)
    options = ", ".join(f"{key} {value}" for key, value in use.items() if key != "name" and value is not None)
    return f"{use['name']} ({options})" if options else str(use["name"])


def _differing(conditions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """List the keys in which runs differ, a line each, with the value of each run that has the key.

    Args:
        conditions: for each run what `_conditions` found.
    """
    lines = []
    for key in dict.fromkeys(key for one in conditions.values() for key in one):
        values = {name: one[key] for name, one in conditions.items() if key in one}
        absent_counts = key.startswith(("dataset.", "threat."))
        if len(set(values.values())) > 1 or (absent_counts and len(values) < len(conditions)):
            lines.append(f"{key}: {', '.join(f'{value} in {name}' for name, value in values.items())}")
    return lines
