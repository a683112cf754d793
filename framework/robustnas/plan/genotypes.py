"""Finds the genotype that a recipe names: published by its search space, or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os.path import isfile
from pathlib import Path, PurePosixPath
from typing import Any

from robustnas.contracts import Genotype, SearchSpace, enumeration, published
from robustnas.errors import InputError, RunDirectoryError
from robustnas.genotype import cell_string
from robustnas.genotype import darts_notation as notation
from robustnas.runtime import given_file
from robustnas.runtime.artifacts import damaged, of_no_stage, opened, read_json
from robustnas.runtime.quoted import quoted
from robustnas.runtime.strangers import described
from robustnas.runtime.suggest import did_you_mean

LARGEST = 4 << 20
"""A file of genotypes may have so many bytes."""


def find_genotype(
    source: str | Mapping[str, Any], space: SearchSpace, beside: Path, read: Callable[[Path], Any] | None = None
) -> Genotype:
    """Find the genotype that a recipe holds or names: published by the space, in a file `path` or `path#KEY`, or found
    by a method of another run, `{run: FOLDER, method: NAME, seed: 0}`.

    A recipe holds a genotype as a mapping, or as a text in DARTS's notation or NAS-Bench-201's (`robustnas.genotype`).
    A path is looked for beside the recipe, then in the working directory; a key at the top of the file, then in its
    sections.  `#INDEX` is one of those that a space lists.

    Args:
        read: `read_genotypes`, or a function that remembers its results.

    Raises:
        InputError: the genotype is nowhere, or is not valid; says where it was looked for.
    """
    known = published(space)
    if isinstance(source, Mapping) and "run" in source:
        return _of_run(source, beside, read or read_genotypes)
    if not isinstance(source, str) or is_written(source):
        return dict(_plain(source))
    if source in known:
        return known[source]
    path_text, _, key = source.partition("#")
    listing = enumeration(space)
    if not path_text:
        if listing is None:
            raise InputError(
                f"found {quoted(source)}, and {type(space).__name__} does not list its genotypes; a file would do, "
                "path#KEY, or a space that does, such as nas-bench-201"
            )
        return _listed(list(listing()), key)
    tried = [beside / path_text, Path(path_text)]
    path = next((p for p in tried if isfile(p)), None)
    if path is None:
        names = ", ".join(sorted(known)) or "none"
        places = ", ".join(given_file.shown(p) for p in dict.fromkeys(tried))
        raise InputError(
            f"found {quoted(source)}, neither a file ({places}) nor a published "
            f"genotype of the search space{did_you_mean(source, list(known))}; published: {names}"
        )
    data = (read or read_genotypes)(path)
    data = _entry(path, data, key) if key else data.one() if isinstance(data, Script) else data
    data = _plain(data)
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold a genotype: found {type(data).__name__}, a mapping would do")
    return data


def _of_run(source: Mapping[str, Any], beside: Path, read: Callable[[Path], Any]) -> Genotype:
    """Find the genotype that a method found in another run: `{run: FOLDER, method: NAME, seed: 0}`.

    Raises:
        InputError: there is no such run, method or seed, or its search is not done.
        RunDirectoryError: what the run says of its folders is damaged.
    """
    method, seed = source.get("method"), str(source.get("seed", 0))
    if unknown := sorted(map(str, source.keys() - {"run", "method", "seed"})):
        raise InputError(f"found {', '.join(unknown)} beside run; run, method and seed would do")
    if not isinstance(method, str):
        found = "no method" if method is None else f"method: {method!r}"
        raise InputError(f"found {found} beside run; the name of a method of that run would do")
    folders = [beside / str(source["run"]), Path(str(source["run"]))]
    folder = next((one for one in folders if isfile(one / "layout.json")), None)
    if folder is None:
        places = ", ".join(given_file.shown(one) for one in dict.fromkeys(folders))
        raise InputError(f"found {quoted(str(source['run']))}, no run directory ({places}); a folder of runs/ would do")
    layout = folder / "layout.json"
    shown = read_json(layout, of_no_stage(layout))
    try:
        methods = shown["methods"]
        if method not in methods:
            known = list(methods)
            raise InputError(
                f"{folder} has no method {method!r}{did_you_mean(method, known)}; it has {', '.join(known)}"
            )
        # genotypes do not differ between the training seeds of a search seed
        seeds = {name.partition(".")[0]: stages for name, stages in methods[method].items()}
        if seed not in seeds:
            raise InputError(f"{folder} has no seed {seed} of {method}; it has {', '.join(seeds)}")
        where = seeds[seed].get("choose") or seeds[seed]["search"]
        parts = () if where is None else PurePosixPath(where).parts
        if where is not None and (len(parts) != 2 or parts[0] not in ("choose", "search") or parts[1] == ".."):
            raise ValueError(f"{where!r:.200} is no folder of a search")
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise RunDirectoryError(damaged(layout, described(fault, whole=True), of_no_stage(layout))) from fault
    if where is None:
        raise InputError(f"{method} of {folder} searched nothing; a method that searches would do")
    file = folder / str(where) / OF_A_SEARCH
    if not isfile(file):
        raise InputError(f"{method} of {folder} has not found its genotype of seed {seed}; running its recipe finds it")
    return dict(read(file))


def _listed(genotypes: list[Genotype], index: str) -> Genotype:
    """The genotype of an index among those that its space lists.

    Raises:
        InputError: it is none.
    """
    if index.isascii() and index.isdigit() and int(index[:9]) < len(genotypes):
        return genotypes[int(index)]
    raise InputError(f"found {quoted(f'#{index}')}; an index from #0 to #{len(genotypes) - 1} would do")


def is_written(text: str) -> bool:
    """Whether a text is a genotype itself, rather than a name or a path."""
    return notation.is_call(text) or cell_string.is_cell(text)


def _plain(data: Any) -> Any:
    """A genotype in any notation as plain data."""
    return notation.plain(cell_string.plain(data))


OF_A_SEARCH = "genotype.json"
"""The name of a genotype's file in the folder of a search."""


def read_genotypes(path: Path) -> Any:
    """Read a file of one or several genotypes as plain data.

    Raises:
        InputError: the file cannot be read, is too large, is neither JSON nor in a notation of genotypes, or was
            changed since a search wrote it.
    """
    data = given_file.read(path, LARGEST)
    if path.name == OF_A_SEARCH:
        remedy = "copy a genotype that is to be changed elsewhere; to have the search's own again, delete the folder "
        opened(path, f"{remedy}{path.parent} and run its recipe").close()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as fault:
        if path.suffix == ".json":
            raise InputError(f"{path} is not JSON: {fault}") from fault
    try:
        text = data.decode()
        return text if cell_string.is_cell(text) else Script(notation.read(text, str(path)), str(path))
    except UnicodeDecodeError as fault:
        raise InputError(f"{path}: not UTF-8: found the byte 0x{data[fault.start]:02x}; a text would do") from fault


class Script(dict[str, Any]):
    """The genotypes of a file in DARTS's notation, by name."""

    def __init__(self, found: Mapping[str, Any], where: str):
        super().__init__(found)
        self.where = where

    def one(self) -> Any:
        """Return the only genotype of the file.

        Raises:
            InputError: the file has none, or several that differ.
        """
        return notation.one(self, self.where)


def _entry(path: Path, data: Any, key: str) -> Any:
    """Look up `key` in a file of several genotypes: at its top, or in a section.

    Raises:
        InputError: the key is nowhere, or has different values in several sections.
    """
    sections, names = [data] if isinstance(data, dict) else [], list[str]()
    while sections:
        entries = [section[key] for section in sections if key in section]
        if entries:
            if any(other != entries[0] for other in entries):
                raise InputError(
                    f"{path} has {len(entries)} entries {key!r} that differ; a file with one of them would do"
                )
            return entries[0]
        inside = [(name, held) for section in sections for name, held in section.items() if isinstance(held, dict)]
        names += [name for name, held in inside if _is_cell(held)]
        sections = [held for _, held in inside if not _is_cell(held)]
    known = ", ".join(sorted(set(names))[:12]) or "none"
    raise InputError(f"{path} has no entry {key!r}{did_you_mean(key, names)}; it has {known}")


def _is_cell(data: dict[str, Any]) -> bool:
    """Whether a mapping is a genotype, or at least holds no mappings, and so is not a section of genotypes."""
    known = not data.keys().isdisjoint(("normal", "reduce", "reduction"))
    return known or not any(isinstance(held, dict) for held in data.values())
