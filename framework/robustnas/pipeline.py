"""The whole experiment, in the order it happens.  Read this file first.

    recipe -> plan -> search -> genotype -> train -> attack + certify -> table (-> ranking)

The loader (`recipe.load`) has checked every name and option; `plan.arrange` arranges stages; `run.scheduler` does
those that are not done; `run.stages` says what each one is; `table.finished` shows their results as the one table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from robustnas import laboratory
from robustnas.errors import InputError, RunError
from robustnas.plan import Plan, Stage, arranged
from robustnas.recipe.document import text_of
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded, load, written
from robustnas.recipe.resolved import resolved
from robustnas.run import checks, data, layout, overview, plugin_files, provenance, tracking
from robustnas.run.directory import RunDirectory
from robustnas.run.progress import Progress
from robustnas.run.scheduler import run_all
from robustnas.run.tracking import Tracking
from robustnas.runtime import device as devices
from robustnas.runtime import interrupt, terminal
from robustnas.runtime.artifacts import write_text
from robustnas.runtime.processes import Processes, joined, launched, own_device
from robustnas.table import finished
from robustnas.table.opened import Run

STOPS = ("search", "train")
"""The stages after which a run may be stopped."""


def run(
    loaded: Loaded,
    *,
    out: Path | None = None,
    device: str = "auto",
    until: str | None = None,
    jobs: int = 1,
    quiet: bool = False,
    keep: bool = False,
    rank: bool = False,
    end: float | None = None,
) -> int:
    """Do everything the recipe asks for that is not done yet, and print the table.

    Args:
        out: run directory; default `runs/<recipe name>` below the working directory.
        until: `search` or `train` stops after that stage.
        jobs: independent stages done side by side, in processes of their own; on all CUDA devices where `device` is
            `auto` or `cuda`.
        keep: write the recipe's text to its path, once it is known that all of it can be done.
        rank: hold the metrics of section `rank` against what became of the networks, after the table.
        end: when to stop, in seconds of `time.monotonic`: at the next checkpoint, with the table of what is done.

    Returns:
        The exit status: 0 done, 1 a stage failed (the others are done and in the table).

    Raises:
        OutOfTime: `end` came before the end; the same command goes on.
    """
    if launched() and jobs > 1:
        raise InputError(
            "--jobs does stages side by side on one machine; under torchrun all processes share each stage"
        )
    chosen = devices.spread(own_device(device), jobs)
    faults = Faults()
    todo = arranged(loaded, faults)
    if rank:
        laboratory.check(loaded, todo, faults)
    tracking.check(loaded.recipe.trackers, loaded.noting(faults))
    directory = RunDirectory(out or default_directory(loaded))
    with interrupt.listening(quiet), joined(chosen[0]) as processes:
        quiet = quiet or not processes.first
        with ExitStack() as held:
            processes.run_together(lambda: held.enter_context(directory.locked()) if processes.first else None)
            stages = todo.until(until)
            _prepare(loaded, todo, stages, directory, processes, faults, quiet=quiet)
            processes.run_together(lambda: _note(stages, directory, chosen, processes) if processes.first else None)
            if keep and processes.first:
                write_text(loaded.path, loaded.source)
            # a ranking by a published table evaluates nothing
            shown = until is None and any(stage.kind == "clean" for stage in stages)
            told = _tracking(loaded, todo, directory) if processes.first else None
            if told is not None:
                held.enter_context(told.of(loaded.name))
            # of several processes one talks
            progress = Progress(quiet, Console(stderr=True, quiet=not processes.first), tracking=told)
            failures, over = [], False
            try:
                with progress.shown(), interrupt.limited(end):
                    refresh = finished.Refresh(directory) if shown and processes.first else None
                    failures = run_all(todo, stages, directory, chosen, progress, processes, refresh)
            except interrupt.Interrupted:
                if end is None or processes.any(interrupt.signalled()):
                    raise
                over = True
            # torchrun ends all processes when one of them has failed: the table comes first
            (rows, *_) = processes.run_together(
                lambda: finished.write(directory, quiet=quiet) if shown and processes.first else ()
            )
            if told is not None:
                told.rows = rows
            if over:
                raise interrupt.OutOfTime(f"{len(directory.all_done(stages))} of {len(stages)} stages are done")
            if rank and processes.first:
                laboratory.write(directory, todo, quiet=quiet)
            return _conclude(len(failures), progress, directory, until)


def run_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str = "auto",
    until: str | None = None,
    jobs: int = 1,
    quiet: bool = True,
) -> Run:
    """Do everything a recipe asks for that is not done yet, and open the run directory.

    Args:
        recipe: a path, the name of a recipe that ships with robustnas, or plain data as a recipe's file holds it.
        out: run directory; default `runs/<recipe name>` below the working directory, of plain data `runs/recipe`.
        overrides: `KEY=VALUE` each, as for `--set`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        until: `search` or `train` stops after that stage.
        jobs: independent stages done side by side, in processes of their own.
        quiet: print neither progress nor the table; what failed is always told.

    Raises:
        RecipeError: the recipe has faults: all of them.
        RunError: a stage failed; the others are done, and `robustnas.open` shows them.
    """
    if until not in (None, *STOPS):
        raise InputError(f"found until {until!r}; {' or '.join(map(repr, STOPS))} would do")
    if isinstance(recipe, Mapping):
        loaded = written(recipe, Path("recipe.yaml"), "robustnas.run_recipe", overrides)
    else:
        loaded = load(Path(recipe) if isinstance(recipe, os.PathLike) else recipe, overrides)
    folder = default_directory(loaded) if out is None else Path(out)
    if run(loaded, out=folder, device=device, until=until, jobs=jobs, quiet=quiet):
        raise RunError(
            f"stages failed, for the reasons told above; the others are done: robustnas.open({str(folder)!r})"
        )
    return Run(RunDirectory(folder))


def _prepare(
    loaded: Loaded,
    todo: Plan,
    stages: list[Stage],
    directory: RunDirectory,
    processes: Processes,
    faults: Faults,
    *,
    quiet: bool = True,
) -> None:
    """Check what would fail late, and write down what this directory is; the first process does it for all.

    Args:
        faults: of the recipe, as far as they are known.

    Raises:
        InputError: the recipe has faults, the directory is another experiment's, or the data is not what it should be.
    """

    def first() -> None:
        directory.check(todo)
        _verify(directory, stages)
        if faults or directory.lost(data.FILE) or len(directory.all_done(stages)) < len(stages):
            found = checks.check(todo, loaded, faults, partial(data.splits, todo), processes)
            assert found is not None
            data.verify(todo, found, directory, quiet=quiet)
        directory.claim(todo)
        plugin_files.record(directory)
        directory.write_text("recipe.yaml", text_of(_resolved(loaded, todo)))
        directory.write_json("layout.json", layout.describe(todo, directory, data.notes(directory)))

    # the others go on when the directory is this experiment's, and fail if it cannot be
    processes.run_together(lambda: first() if processes.first else None)


def _note(stages: list[Stage], directory: RunDirectory, chosen: list[torch.device], processes: Processes) -> None:
    """Write down what is about to compute, where anything is left to do."""
    if len(directory.all_done(stages)) < len(stages):
        provenance.append(directory, chosen, processes.size)


def _resolved(loaded: Loaded, todo: Plan) -> dict[str, Any]:
    """The recipe with every default filled in."""
    return resolved(loaded, {name: method.train for name, method in todo.methods.items()})


def _tracking(loaded: Loaded, todo: Plan, directory: RunDirectory) -> Tracking | None:
    """What tells the trackers that the recipe asks for; None where it asks for none."""
    trackers = {use.name: use.plugin for use in loaded.recipe.trackers}
    return Tracking(directory, _resolved(loaded, todo), trackers) if trackers else None


def _verify(directory: RunDirectory, stages: list[Stage]) -> None:
    """Hold what this run will read to what was written, so that damage is told before hours are spent.

    Raises:
        RunDirectoryError: something is not what was written.
    """
    folders = directory.folders(stages)
    undone = {key for key, folder in folders.items() if not folder.done}
    read_on = {key for stage in stages if stage.key in undone for key in stage.needs}
    finished.tell(directory.verify(folders.values(), written_anew=True))
    for key, folder in folders.items():
        folder.verify(read_on=key in read_on)
    for stage in stages:
        for folder in directory.beside(stage) if stage.question and stage.key in undone else ():
            folder.verify(read_on=False)


def plan(loaded: Loaded, *, out: Path | None = None, memory: bool = False) -> None:
    """Print what `run` would do: methods, seeds and stages, what is done, steps and parameters.  Runs nothing.

    Args:
        memory: estimate what a search step needs, which runs two tiny ones a method.

    Raises:
        InputError: `run` would refuse it.
    """
    faults = Faults()
    todo = arranged(loaded, faults)
    tracking.check(loaded.recipe.trackers, loaded.noting(faults))
    directory = RunDirectory(out or default_directory(loaded))
    directory.check(todo)
    found = checks.check(todo, loaded, faults, partial(data.splits_here, todo))
    overview.show(todo, directory, Console(), None if found is None else found.labels, estimate=memory)


def default_directory(loaded: Loaded) -> Path:
    """`runs/<recipe name>` below the working directory, of a quick recipe `runs/<recipe name>-quick`."""
    return Path("runs") / (f"{loaded.name}-quick" if loaded.recipe.quick else loaded.name)


def _conclude(failed: int, progress: Progress, directory: RunDirectory, until: str | None) -> int:
    """Say how it ended; returns the exit status."""
    console = progress.console
    if failed:
        terminal.say(
            console,
            f"{failed} stage(s) failed, each for the reason above; the others are done. The same "
            "command tries what failed again, and is of use once that reason is gone",
            "red",
        )
        return 1
    if not progress.quiet:
        what = f"until {until}" if until else "table.md, table.csv, table.json"
        terminal.say(console, f"{what} in {directory.path}")
    return 0
