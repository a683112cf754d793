"""One table of several runs; it compares like with like, unless it is told otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from attrs import evolve

from robustnas.errors import InputError, RunDirectoryError
from robustnas.run import layout
from robustnas.runtime.artifacts import damaged, of_no_stage
from robustnas.table import comparisons, kept_recipe, results
from robustnas.table.opened import Run, open
from robustnas.table.rows import Comparison, SeedResult, name
from robustnas.table.tabulated import Table

IMAGES = ("evaluate.images", "evaluate.subset", "evaluate.subset_seed", "certify.images", "smoothing.images")
"""The keys that say which test images are evaluated; those of a section that one run leaves out do not count."""

SEEN = "test images"
"""What tells evaluated images themselves: people's own change while the keys stay."""

MEANT = {
    "attacks": ("robust", "robust_at"),
    "certify": ("certified", "certified_at", "certified_radius"),
    "smoothing": ("smoothed", "smoothed_radius"),
}
"""The columns, by their first keys, that mean the same in two runs where these sections of their recipes do."""

BOUNDS = {
    "certify": ("method", "radius_method", "seconds", "parts"),
    "smoothing": ("sigma", "selection", "samples", "alpha"),
}
"""What figures of these sections depend on, beside images and the threat."""

NAMED = 4
"""A line names at most so many runs with one value."""


def compare(*runs: Run | str | os.PathLike[str], force: bool = False) -> Table:
    """Make one table of several runs: their rows, each with the run it is from.

    The figures are those of each run.  Where all runs have the same seeds, each method is compared with those of all
    runs, in every column that means the same in all of them; the notes say where that is not so.

    Args:
        runs: opened runs, or their folders.
        force: also where they differ in the data, the threat, the training regimes or the images that are evaluated;
            the notes say in what, and nothing is compared or marked as best.

    Raises:
        InputError: there are none, one is there twice, or they differ in such a key; says which.
    """
    return Table.of(joined(*runs, force=force))


def joined(*runs: Run | str | os.PathLike[str], force: bool = False) -> Comparison:
    """Join the tables of several runs, as `compare` does, for every form of the table."""
    if not runs:
        raise InputError("found no runs; robustnas.compare('runs/a', 'runs/b') would do")
    compared = _by_name([run if isinstance(run, Run) else open(run) for run in runs])
    recipes = {run: kept_recipe.read(one.path)[1] for run, one in compared.items()}
    differing = _differing({run: _conditions(one, recipes[run]) for run, one in compared.items()})
    if differing and not force:
        lines = "\n".join(f"  {line}" for line in differing.values())
        raise InputError(f"these runs are not alike, so one table would not compare their methods\n{lines}\n"
                         "  --force, in Python force=True, shows them in one table all the same")  # fmt: skip
    tables: dict[str, Comparison] = {}
    measured: dict[str, list[SeedResult]] = {}
    known: list[tuple[str, Any]] = []
    for run, one in compared.items():
        table, networks = results.with_networks(one.directory)
        tables[run] = _of_run(run, table, known)
        measured |= {name({"run": run, "method": method}): some for method, some in networks.items()}
    made = _together(tables)
    differing = differing or _differing({run: _meaning(table, recipes[run]) for run, table in tables.items()})
    if not differing.keys() <= MEANT.keys():
        why = [f"several runs that differ: nothing is marked as best, no methods are compared; {line}"
               for line in differing.values()]  # fmt: skip
        return evolve(made, notes=[*why, *made.notes], apart=[key for row in made.rows[:1] for key in row])
    why = ["several runs: each method is compared with those of all of them, over pairs of equal seeds"]
    why = why if len(tables) > 1 else []
    why += [f"not marked or compared, as runs differ in it: {', '.join(MEANT[key]).replace('_', ' ')}; {line}"
            for key, line in differing.items()]  # fmt: skip
    made = evolve(made, notes=[*why, *made.notes],
                  apart=["search_seconds", *(column for key in differing for column in MEANT[key])])  # fmt: skip
    return evolve(made, comparisons=comparisons.compared(made, measured))


def _by_name(runs: list[Run]) -> dict[str, Run]:
    """Name runs by their folders: by the last part of the path, where that is enough."""
    folders = [run.path.resolve() for run in runs]
    twice = [str(run.path) for place, run in enumerate(runs) if folders[place] in folders[:place]]
    if twice:
        raise InputError(f"found {', '.join(dict.fromkeys(twice))} more than once; each run once would do")
    short = [folder.name for folder in folders]
    return dict(zip(short if len(set(short)) == len(short) else map(str, folders), runs, strict=True))


def _of_run(run: str, table: Comparison, known: list[tuple[str, Any]]) -> Comparison:
    """Put the run into the rows of its table; an attack whose label means another one in a run before gets its own.

    Args:
        known: labels of the runs before, and what each means; those of this run join them.
    """
    labels: dict[str, str] = {}
    for place, column in enumerate(table.attacks):
        before = [one.plain() for one in table.attacks[:place] if one.threat.norm == column.threat.norm]
        means = [column.plain(), before if column.spared else [], run if column.transfers else None]
        label = next((label for label, meant in known if meant == means), None)
        if label is None:
            label = f"{column.label} of {run}" if column.label in dict(known) else column.label
            known.append((label, means))
        labels[column.label] = label
    rows = [
        {"run": run, **row, **{key: {labels[label]: found for label, found in row[key].items()}
                               for key in ("attacks", "variants", "parts", "evaluations")},
         "flags": [{**flag, "attack": labels.get(flag["attack"], flag["attack"])} for flag in row["flags"]]}
        for row in table.rows
    ]  # fmt: skip
    attacks = [evolve(column, label=labels[column.label]) for column in table.attacks]
    return evolve(table, rows=rows, attacks=attacks, contradictions=[f"{run}: {text}" for text in table.contradictions])


def _together(tables: Mapping[str, Comparison]) -> Comparison:
    """Put the rows of all runs below each other; what a run does not have was not measured in its rows."""
    every = list(tables.values())
    attacks = list({column.label: column for table in every for column in table.attacks}.values())
    radii = {
        "robust_at": sorted({radius for table in every for radius in table.epsilons}),
        "certified_at": sorted({radius for table in every for radius in table.certified_epsilons}),
        "smoothed": sorted({radius for table in every for radius in table.smoothing or ()}),
    }
    heads = {key: [f"{radius:g}" for radius in some] for key, some in radii.items()}
    heads |= {key: [column.label for column in attacks] for key in ("attacks", "evaluations")}
    reported = [one for table in every for one in table.published]
    return Comparison(
        threat=" and ".join(dict.fromkeys(table.threat for table in every)),
        rows=[
            {**row, **{key: {head: row[key].get(head) for head in some} for key, some in heads.items()}}
            for table in every
            for row in table.rows
        ],
        attacks=attacks,
        norms=list(dict.fromkeys(norm for table in every for norm in table.norms)),
        notes=_notes(tables),
        epsilons=radii["robust_at"],
        certified_epsilons=radii["certified_at"],
        smoothing=None if all(table.smoothing is None for table in every) else radii["smoothed"],
        contradictions=[text for table in every for text in table.contradictions],
        kept="; ".join(table.kept for table in every if table.kept),
        published=[one for place, one in enumerate(reported) if one not in reported[:place]],
    )


def _notes(tables: Mapping[str, Comparison]) -> list[str]:
    """List the notes of all tables, each once, with the runs it is about where these are not all."""
    whose: dict[str, list[str]] = {}
    for run, table in tables.items():
        for note in table.notes:
            whose.setdefault(note, []).append(run)
    return [note if len(runs) == len(tables) else f"{_listed(runs)}: {note}" for note, runs in whose.items()]


def _listed(runs: list[str]) -> str:
    """Name runs, not too many of them."""
    return ", ".join(runs[:NAMED]) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")


def _conditions(run: Run, recipe: Any) -> dict[str, str]:
    """Describe what figures of a run depend on beside the methods, by dotted keys of its recipe."""
    identity = run.directory.read_json("run.json")
    try:
        dataset = {key: value for key, value in identity["dataset"].items() if key != "options"}
        dataset |= identity["dataset"]["options"]  # as a recipe has them
        found = {**_flat("dataset", dataset), **_flat("threat", identity["threat"])}
        methods = [method for method in recipe["methods"].values() if "network" not in method]
        regimes = sorted({_brief(method["train"]["regime"]) for method in methods})
        images = {f"{section}.{key}": value for section in ("evaluate", "certify", "smoothing")
                  for key, value in (recipe.get(section) or {}).items()}  # fmt: skip
    except (KeyError, TypeError, AttributeError) as fault:
        file = run.path / "recipe.yaml"
        raise RunDirectoryError(damaged(file, f"it does not hold {fault}", of_no_stage(file))) from fault
    found |= {key: "all" if images[key] is None else str(images[key]) for key in IMAGES if key in images}
    return found | ({"train.regime": " and ".join(regimes)} if regimes else {}) | _seen(run)


def _seen(run: Run) -> dict[str, str]:
    """Describe the evaluated images by their places and labels; nothing where none was looked at yet."""
    for _, _, stages in layout.read(run.directory).networks:
        folder = None if stages["clean"] is None else run.directory.at(stages["clean"])
        if folder is not None and folder.done:
            result = folder.result()
            text = json.dumps([result.get("index"), result.get("labels")])
            return {SEEN: f"those of digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"}
    return {}


def _meaning(table: Comparison, recipe: Any) -> dict[str, str]:
    """Describe what must be the same for methods of two runs to be compared, by sections of their recipes."""
    worst = [column.label for column in table.attacks if column.worst_case]
    found = {"seeds": json.dumps(recipe.get("seeds"))} | ({"attacks": ", ".join(worst)} if worst else {})
    for section, keys in BOUNDS.items():
        if recipe.get(section):
            said = {key: recipe[section].get(key) for key in keys}
            found[section] = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
    return found


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


def _differing(conditions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Write a line for each key in which runs differ, with its values and the runs that have them.

    Args:
        conditions: for each run values by key.
    """
    lines: dict[str, str] = {}
    for key in dict.fromkeys(key for one in conditions.values() for key in one):
        whose: dict[str, list[str]] = {}
        for run, one in conditions.items():
            if key in one:
                whose.setdefault(one[key], []).append(run)
        absent_counts = key.startswith(("dataset.", "threat."))
        absent = absent_counts and sum(map(len, whose.values())) < len(conditions)
        if (len(whose) > 1 or absent) and not (key == SEEN and lines):  # other keys say why these are other images
            lines[key] = f"{key}: {'; '.join(f'{value} in {_listed(runs)}' for value, runs in whose.items())}"
    return lines
