"""Finds what somebody asks a run for by name: a method, the seed of a network, the genotype that was found.

Nothing here imports torch, so that reading a finished run stays quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robustnas.contracts import Genotype
from robustnas.errors import InputError, RunDirectoryError
from robustnas.plan import Seed
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.suggest import did_you_mean


def known_method(run: Path, method: str, methods: Iterable[str]) -> str:
    """Return the method; require that it is the run's.

    Raises:
        InputError: it is not; says which are.
    """
    names = list(methods)
    if method not in names:
        raise InputError(f"{run} has no method {method!r}{did_you_mean(str(method), names)}; it has {', '.join(names)}")
    return method


def known_seed(run: Path, seeds: Iterable[Seed], search: int | str | None, train: int | None = None) -> Seed:
    """Return the first of a method's seeds that is meant.

    Args:
        search: a seed as it is written, `0` or `"0.2"`, or of nested seeds that of the search; None: any.
        train: the seed of the training; None: any.

    Raises:
        InputError: there is none; says which there are.
    """
    known = list(seeds)
    for seed in known:
        meant = search is None or str(search) in (str(seed), str(seed.search))
        if meant and train in (None, seed.train):
            return seed
    asked = [] if search is None else [f"seed {search}"]
    asked += [] if train is None else [f"training seed {train}"]
    raise InputError(f"{run} has no {' with '.join(asked)}; it has {', '.join(map(str, known))}")


def trains(run: Path) -> str:
    """Say which command does what is missing in a run directory."""
    return f"`robustnas run {run / 'recipe.yaml'} --out {run}`"


def genotype_in(folder: StageFolder) -> Genotype:
    """Return the genotype in the result of a finished stage.

    Raises:
        RunDirectoryError: there is none.
    """
    genotype = folder.result().get("genotype")
    if not isinstance(genotype, dict):
        raise RunDirectoryError(damaged(folder.result_file, "it holds no genotype"))
    return genotype
