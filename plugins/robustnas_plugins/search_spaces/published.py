"""Cells of the literature in the DARTS format, from `published.json` beside this file.

Each entry there names its paper and the repository, file, commit and name it was taken from, and has the weights and
multiply-adds of the network of `SIZE`, counted with this code; a test counts them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from robustnas.genotype import Genotype
from robustnas.genotype.reference import Reference

CHANNELS, CELLS = 36, 20

SIZE = f"{CHANNELS} channels, {CELLS} cells, 3x32x32 pixels, 10 classes"
"""The network whose size papers of the DARTS family report."""


@cache
def _entries() -> dict[str, Any]:
    text = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    entries: dict[str, Any] = json.loads(text)
    return entries


def _chosen(searched_in: str | None) -> dict[str, Any]:
    """The entries of cells that were searched for there; None: all of the operations that the DARTS space has."""
    entries = _entries()
    if searched_in is not None:
        return {name: entry for name, entry in entries.items() if entry["searched_in"] == searched_in}
    return {name: entry for name, entry in entries.items() if not _has_noise(entry)}


def _has_noise(entry: Mapping[str, Any]) -> bool:
    return any(op == "noise" for op, _ in (*entry["normal"], *entry["reduce"]))


@cache
def cells(searched_in: str | None = None) -> Mapping[str, dict[str, Any]]:
    """Genotypes by name, as plain data.

    Args:
        searched_in: the space that they were searched for in, such as `RobustDARTS S2`; None: all that have only
            operations of the DARTS space.
    """
    chosen = _chosen(searched_in)
    return MappingProxyType({name: Genotype.from_data(entry).to_data() for name, entry in chosen.items()})


@cache
def references(searched_in: str | None = None) -> Mapping[str, Reference]:
    """Where each comes from, by the same names."""
    return MappingProxyType({name: _reference(entry) for name, entry in _chosen(searched_in).items()})


def _reference(entry: Mapping[str, Any]) -> Reference:
    source = entry["source"]
    return Reference(
        paper=entry["paper"],
        code=f"github.com/{source['repo']}, {source['path']}, {source['name']}, commit {source['commit']}",
        sought=f"{entry['searched_for']}, in {entry['searched_in']}, on {entry['searched_on']}",
        size=SIZE,
        parameters=entry["parameters"],
        multiply_adds=entry["multiply_adds"],
        notes=entry.get("notes", ""),
    )
