"""The folder in which Jung, Lukasik and Keuper (ICLR 2023) published accuracies of all cells of NAS-Bench-201.

    meta.json                     "ids": number of a cell -> its text; "epsilons": attack -> radii, in units of 1/255
    cifar10/clean_accuracy.json   {"cifar10": {"clean": {"accuracy": {number: share}}}}
    cifar10/pgd@Linf_accuracy.json   the same with a list of shares, one a radius, in the order of "epsilons"

An outcome is named by its file and, where there are several radii, by one of them: `clean`, `pgd@Linf 1.0`.  The
numbers are those of NAS-Bench-201, which the texts of `meta.json` are held to.  Of isomorphic cells one was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustnas.contracts import Genotype
from robustnas.errors import InputError
from robustnas.runtime import given_file
from robustnas.runtime.suggest import did_you_mean

LARGEST = 1 << 28
"""A file of the folder may have so many bytes."""


def rows(folder: Path, dataset: str, outcomes: Iterable[str], listed: Iterable[Genotype]) -> dict[str, Any]:
    """Read outcomes as number of the cell -> outcome -> one value by the name of its only training.

    Args:
        folder: the folder with `meta.json`.
        dataset: a folder in it.
        outcomes: names as above.
        listed: the cells of the space in its order, as genotypes that hold the text of a cell.

    Raises:
        InputError: a file cannot be read or is not in the form above, there is no such outcome, or the numbers are
            those of other cells.
    """
    meta = json_of(folder / "meta.json")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if dataset not in there:
        have = ", ".join(there) or "none"
        raise InputError(f"{folder} has no dataset {dataset!r}{did_you_mean(dataset, there)}; it has {have}")
    found: dict[str, Any] = {}
    files = (folder / dataset).glob("*_accuracy.json")
    measured = sorted(path.name.removesuffix("_accuracy.json") for path in files)
    for outcome in outcomes:
        key, _, radius = outcome.partition(" ")
        if key not in measured:
            have = ", ".join(measured) or "none"
            raise InputError(f"{folder / dataset} has no outcome {key!r}{did_you_mean(key, measured)}; it has {have}")
        file = folder / dataset / f"{key}_accuracy.json"
        place = _place(folder, meta, key, radius)
        for number, value in _at(file, json_of(file), dataset, key, "accuracy").items():
            if isinstance(value, list) != (place is not None) or (place is not None and place >= len(value)):
                raise InputError(f"{file}: cell {number} does not have a share for each radius of meta.json")
            found.setdefault(number, {})[outcome] = {"": value if place is None else value[place]}
    texts = {number: cell.get("cell") for number, cell in enumerate(listed) if isinstance(cell, Mapping)}
    for number in found:
        text = _at(folder / "meta.json", meta, "ids", number).get("nb201-string")
        if not number.isascii() or not number.isdecimal() or texts.get(int(number)) != text:
            raise InputError(f"{folder}: cell {number} is {text!r:.200}, which the search space has not in that place")
    return found


def _place(folder: Path, meta: Any, key: str, radius: str) -> int | None:
    """Find the place of a radius among those of an attack; None where there are no radii."""
    radii = meta.get("epsilons", {}).get(key) if isinstance(meta, Mapping) else None
    if not isinstance(radii, list):
        if radius:
            raise InputError(f"{folder}: {key!r} has no radii; {key!r} alone would do")
        return None
    names = [str(one) for one in radii]
    if radius not in names:
        ways = ", ".join(repr(f"{key} {name}") for name in names)
        raise InputError(f"{folder} has no outcome {f'{key} {radius}'.strip()!r}; {ways} would do")
    return names.index(radius)


def json_of(file: Path, most: int = LARGEST) -> Any:
    """Read a file of JSON of at most so many bytes.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(given_file.read(file, most))
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{file} is not JSON: {fault}") from fault


def _at(file: Path, data: Any, *keys: str) -> Mapping[str, Any]:
    """Return what a file holds under keys within keys."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping):
        raise InputError(f"{file} holds no mapping at {', '.join(keys)}; the file as it was published would do")
    return data
