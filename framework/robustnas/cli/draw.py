"""The command `robustnas draw`: the cells of genotypes, of a file or a run, in the terminal or as an SVG file."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from robustnas.cli.output import given
from robustnas.cli.published import published
from robustnas.errors import InputError
from robustnas.genotype import drawing
from robustnas.runtime.strangers import text_of
from robustnas.runtime.terminal import tell, write

Genotype = Mapping[str, Any]


def draw(arguments: argparse.Namespace) -> int:
    output: Path | None = arguments.output
    if output is not None and output.suffix != ".svg":
        raise InputError(f"--output {output}: draw writes SVG; a file that ends in .svg would do")
    source: str = arguments.source
    is_run = os.path.isdir(source)
    if is_run:
        genotypes = _of_run(Path(source), arguments.method, arguments.seed)
    elif arguments.method is not None or arguments.seed is not None:
        raise InputError(f"{source} is not a run directory, and --method and --seed are of one")
    else:
        genotypes = {Path(source.partition("#")[0]).name if len(source) < 60 else "genotype": _named(source)}
    if output is not None:
        return given(drawing.svg_file(genotypes), output)
    texts = {title: drawn(genotype) for title, genotype in genotypes.items()}
    write("\n".join(f"{title}\n\n{text}" if is_run else text for title, text in texts.items()))
    return 0


def drawn(genotype: Genotype) -> str:
    """Its cells as the terminal can show them."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else drawing.COLUMNS
    return drawing.text(genotype, columns=columns, plain=not _prints("●┼▶"))


def _prints(characters: str) -> bool:
    """Whether the terminal's encoding has them."""
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _of_run(path: Path, method: str | None, seed: str | None) -> dict[str, Genotype]:
    """The genotypes of a run, one a search; those not found yet, and methods that have none, are told on stderr.

    Raises:
        InputError: there is none, or what was asked for by name has none.
    """
    from robustnas.table import opened

    run = opened.open(path)
    if method is not None:
        run.seeds(method)  # there is such a method
    found, without = dict[str, Genotype](), dict[str, InputError]()
    for name in run.methods if method is None else [method]:
        seeds = {str(one.search): str(one) for one in reversed(run.seeds(name))}
        for search, first in reversed(seeds.items()) if seed is None else [(seed, seed)]:
            try:
                found[f"{name} seed {search}"] = run.genotype(name, first)
            except InputError as fault:
                without[f"{name} seed {search}"] = fault
    if not found:
        raise next(iter(without.values()))
    if without:
        first, *others = without
        more = f" (and {len(others)} others are not drawn either)" if others else ""
        tell(f"robustnas: {text_of(without[first])}{more}", error=True)
    return found


@frozen
class _Published:
    """The genotypes that all installed search spaces publish."""

    published: Mapping[str, Genotype]


def _named(source: str) -> Genotype:
    """The genotype that a recipe would find by this name, but for a space of its own.

    Raises:
        InputError: it is nowhere.
    """
    from robustnas.plan.genotypes import find_genotype, is_written

    if source.startswith("#"):
        raise InputError(f"{source}: an index is one of a search space's; the text of the genotype would do")
    is_file = os.path.isfile(source.partition("#")[0])
    found = {} if is_file or is_written(source) else published()
    known = {name: one.genotype for name, one in found.items()}
    return find_genotype(source, _Published(known), Path())  # type: ignore[arg-type]  # a space in this alone
