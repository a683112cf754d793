"""Outcomes from a published table in place of training: what others measured of every architecture of a space.

The form is that of NAS-RobBench-201 (Wu et al. 2024, arXiv:2403.13134), a mapping

    dataset -> index of the architecture -> metric (`val_pgd_8.0_acc`) -> seed -> accuracy

with the architectures in the order in which the space lists them; a folder is read as `robustness_dataset`.
Of isomorphic cells such tables hold one, so a cell that is not in the table is looked up as any other with its
`canonical` text, where the space tells that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from robustnas.contracts import Genotype, SearchSpace, canonical, enumeration
from robustnas.errors import InputError
from robustnas.laboratory import robustness_dataset
from robustnas.recipe.schema import Published
from robustnas.runtime.strangers import described
from robustnas.runtime.suggest import did_you_mean

LARGEST = 1 << 30
"""A published table may have so many bytes."""


class PublishedTable:
    """The outcomes of one dataset.

    Raises:
        InputError: the file cannot be read, lacks the dataset or an outcome, or the space does not list its genotypes.
    """

    def __init__(self, published: Published, space: SearchSpace):
        file = published.file
        listed = enumeration(space)
        if listed is None:
            raise InputError(
                f"{type(space).__name__} does not list its genotypes, so no table of architectures can be read; "
                "search_space: nas-bench-201 would do"
            )
        self.outcomes, self.space, self.file = list(published.outcomes), space, file
        cells = list(listed())
        if file.is_dir():
            self.rows: Mapping[str, Any] = robustness_dataset.rows(file, published.dataset, self.outcomes, cells)
        else:
            self.rows = self._of_file(published.dataset)
        self.there = [(str(place), genotype) for place, genotype in enumerate(cells) if str(place) in self.rows]
        self.exact = {_text(genotype): place for place, genotype in self.there}

    @cached_property
    def isomorphic(self) -> dict[str, str]:
        """The places of the architectures by their canonical texts: seconds of work where the table has all."""
        return {canonical(self.space, genotype): place for place, genotype in self.there}

    def _of_file(self, dataset: str) -> Mapping[str, Any]:
        """Read the rows of a file in the form above."""
        data = robustness_dataset.json_of(self.file, LARGEST)
        rows = _entry(self.file, data, dataset, "dataset")
        first: Any = next(iter(rows.values()), {})
        for name in self.outcomes:
            _entry(self.file, first, name, "outcome")
        return rows

    def of(self, genotype: Genotype) -> dict[str, list[float]]:
        """The outcomes of an architecture by name, a value a seed, as far as the table has them.

        Raises:
            InputError: what it holds of the architecture is not in the form above.
        """
        place = self.exact.get(_text(genotype)) or self.isomorphic.get(canonical(self.space, genotype))
        row = {} if place is None else self.rows[place]
        try:
            found = {name: [float(value) for value in row[name].values()] for name in self.outcomes if name in row}
            if not all(math.isfinite(value) for values in found.values() for value in values):
                raise ValueError("an outcome is not finite")
        except (TypeError, ValueError, AttributeError) as fault:
            raise InputError(
                f"{self.file}: architecture {place} is not in the form expected, a number for each seed of each "
                f"outcome: {described(fault)}"
            ) from fault
        return found


def _text(genotype: Genotype) -> str:
    return json.dumps(genotype, sort_keys=True)


def _entry(file: Path, data: Any, key: str, what: str) -> Mapping[str, Any]:
    """Return the entry of a mapping, or say what there is."""
    known: Sequence[str] = list(data) if isinstance(data, Mapping) else []
    if key not in known or not isinstance(data[key], Mapping):
        there = ", ".join(map(str, known[:12])) or "none"
        raise InputError(f"{file} has no {what} {key!r}{did_you_mean(key, known)}; it has {there}")
    found: Mapping[str, Any] = data[key]
    return found
