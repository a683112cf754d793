"""The genotype that a recipe names: published by its search space, or in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from robustnas.contracts import Genotype, SearchSpace
from robustnas.errors import InputError
from robustnas.suggest import did_you_mean


def find_genotype(source: str, space: SearchSpace, beside: Path) -> Genotype:
    """The genotype a recipe names: published by the space, or in a file `path` or `path#KEY`.

    A path is looked for beside the recipe, then in the working directory.

    Raises:
        InputError: it is nowhere, or not a genotype; says where it was looked for.
    """
    published: Mapping[str, Genotype] = getattr(space, "published", {})
    if source in published:
        return published[source]
    path_text, _, key = source.partition("#")
    tried = [beside / path_text, Path(path_text)]
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        names = ", ".join(sorted(published)) or "none"
        raise InputError(
            f"found {source!r}, neither a file ({', '.join(str(p) for p in dict.fromkeys(tried))}) nor a published "
            f"genotype of the search space{did_you_mean(source, list(published))}; published: {names}"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise InputError(f"{path} is not JSON: {fault}") from fault
    if key:
        data = data.get("genotypes", data) if isinstance(data, dict) else {}
        if key not in data:
            raise InputError(f"{path} has no entry {key!r}; it has {', '.join(sorted(data)[:12])}")
        data = data[key]
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold a genotype: found {type(data).__name__}, a mapping would do")
    return data
