"""Cells of the literature in the DARTS format, from `published.json` beside this file.

Each entry there names its paper and the repository, file, commit and name it was taken from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from robustnas.genotype import Genotype


@cache
def cells() -> Mapping[str, dict[str, Any]]:
    """Genotypes by name, as plain data."""
    text = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    entries: dict[str, Any] = json.loads(text)
    return MappingProxyType({name: Genotype.from_data(entry).to_data() for name, entry in entries.items()})
