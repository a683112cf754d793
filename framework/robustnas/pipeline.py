"""The whole experiment, in the order it happens.  Read this file first.

    recipe -> plan -> search -> genotype -> train -> attack + certify -> table (-> ranking)

The loader (`recipe.load`) has checked every name and option; `plan.arrange` arranges stages; `run.scheduler` does
those that are not done, or an executor has a cluster do them (`run.handed`); `run.stages` says what each one is;
`table.finished` shows their results as the one table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from rich.console import Console

from robustnas import laboratory
from robustnas.contracts import Executor
from robustnas.errors import InputError, RunError
from robustnas.plan import Plan, Stage, arranged
from robustnas.recipe.document import text_of
from robustnas.recipe.executor import executor_of
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded, load, written
from robustnas.recipe.resolved import resolved
from robustnas.run import (
    checks,
    cost,
    data,
    handed,
    layout,
    overview,
    plugin_files,
    provenance,
    shards,
    stage_log,
    tracking,
)
from robustnas.run.directory import RunDirectory
from robustnas.run.handed import Handed
from robustnas.run.leases import Leases
from robustnas.run.local import Local
from robustnas.run.presence import Presence
from robustnas.run.progress import Progress
from robustnas.run.shards import Shard
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
    shard: Shard | None = None,
    executor: Executor | None = None,
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
        shard: do this part alone; the other parts are other commands', here or on other machines.
        executor: has the stages done by a scheduler, which has the recipe's section `resources`; None: this machine.

    Returns:
        The exit status: 0 done, 1 a stage failed (the others are done and in the table).

    Raises:
        OutOfTime: `end` came before the end; the same command goes on.
    """
    if launched() and jobs > 1:
        raise InputError(
            "--jobs does stages side by side on one machine; under torchrun all processes share each stage"
        )
    by: Executor = Local() if executor is None else executor
    if not isinstance(by, Local) and (launched() or jobs > 1):
        raise InputError(
            "--executor has a scheduler do the stages, and torchrun and --jobs do them here; one of the two would do"
        )
    # the devices of a scheduler are elsewhere
    chosen = devices.spread(own_device(device if isinstance(by, Local) else "cpu"), jobs)
    faults = Faults()
    todo = arranged(loaded, faults)
    if rank:
        laboratory.check(loaded, todo, faults)
    tracking.check(loaded.recipe.trackers, loaded.noting(faults))
    directory = RunDirectory(out or default_directory(loaded))
    if not faults:
        handed.check(by, todo.until(until), loaded.recipe.resources, device)
    with interrupt.listening(quiet), joined(chosen[0]) as processes:
        quiet = quiet or not processes.first
        with ExitStack() as held:
            leases = Leases.of(Presence(directory.path, quiet))
            processes.run_together(lambda: _at_work(leases, held) if processes.first else None)
            directory = evolve(directory, holder=processes.broadcast(leases.presence.peer.name))
            stages = todo.until(until) if shard is None else shards.part(todo, todo.until(until), shard)
            _prepare(loaded, todo, stages, directory, processes, faults, leases, chosen, quiet=quiet)
            if not stages and not quiet:
                terminal.tell(f"robustnas: shard {shard} has no stages: there are fewer methods and seeds", error=True)
            if keep and processes.first:
                write_text(loaded.path, loaded.source)
            # a ranking by a published table evaluates nothing
            shown = until is None and any(stage.kind == "clean" for stage in todo.stages)
            told = _tracking(loaded, todo, directory) if processes.first else None
            if told is not None:
                held.enter_context(told.of(loaded.name))
            # of several processes one talks
            progress = Progress(quiet, Console(stderr=True, quiet=not processes.first), tracking=told)
            if processes.first:
                progress.log = lambda stage, line: stage_log.add(directory.folder(stage), line)
                leases.presence.doing = progress.doing
            failures, over = [], False
            try:
                with progress.shown(), interrupt.limited(end):
                    refresh = _refresh(directory, leases) if shown and processes.first else None
                    own = leases if processes.first else None
                    work = Handed(
                        todo,
                        stages,
                        directory,
                        device,
                        chosen,
                        loaded.recipe.resources,
                        progress,
                        processes,
                        refresh,
                        own,
                    )
                    failures = work.done_by(by)
            except interrupt.Interrupted:
                if end is None or processes.any(interrupt.signalled()):
                    raise
                over = True
            # torchrun ends all processes when one of them has failed: the table comes first
            (rows, *_) = processes.run_together(
                lambda: _write_table(directory, leases, quiet=quiet) if shown and processes.first else []
            )
            if told is not None:
                told.rows = rows
            if over:
                raise interrupt.OutOfTime(f"{len(directory.all_done(stages))} of {len(stages)} stages are done")
            if rank and processes.first:
                laboratory.write(directory, todo, leases.alone, quiet=quiet)
            # those of other processes are known to the first alone
            failed = processes.broadcast(len(failures))
            return _conclude(failed, progress, directory, f"until {until}" if until else "", shard)


def _at_work(leases: Leases, held: ExitStack) -> None:
    """Tell for as long as the stack is open that this process is at work in the directory."""
    held.enter_context(leases.begun())


def _refresh(directory: RunDirectory, leases: Leases) -> Callable[[], None]:
    """Make what writes the table anew during a run; of several processes at work the first one does so."""
    refresh = finished.Refresh(directory, leases.alone)
    return lambda: refresh() if leases.take("table") else None


def _write_table(directory: RunDirectory, leases: Leases, *, quiet: bool) -> list[dict[str, Any]]:
    """Write and print the table; of several processes that end, the last one's holds what all have done."""
    return finished.write(directory, leases.alone, quiet=quiet)


def run_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    device: str = "auto",
    until: str | None = None,
    jobs: int = 1,
    executor: str | Mapping[str, Any] | Executor | None = None,
    shard: tuple[int, int] | None = None,
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
        executor: who does the stages: `"slurm"`, `{"name": "slurm", "partition": "gpu"}`, or an executor; default this
            machine.
        shard: `(3, 8)` does the third of eight parts alone; the others are other calls', here or on other machines.
        quiet: print neither progress nor the table; what failed is always told.

    Raises:
        RecipeError: the recipe has faults: all of them.
        InputError: something else that is given is wrong, or the cluster cannot do it.
        RunError: a stage failed; the others are done, and `robustnas.open` shows them.
    """
    if until not in (None, *STOPS):
        raise InputError(f"found until {until!r}; {' or '.join(map(repr, STOPS))} would do")
    part = None if shard is None else Shard.of_two(shard)
    if isinstance(recipe, Mapping):
        loaded = written(recipe, Path("recipe.yaml"), "robustnas.run_recipe", overrides)
    else:
        loaded = load(Path(recipe) if isinstance(recipe, os.PathLike) else recipe, overrides)
    by = executor_of(executor, "robustnas.run_recipe: executor")
    folder = default_directory(loaded) if out is None else Path(out)
    if run(loaded, out=folder, device=device, until=until, jobs=jobs, quiet=quiet, executor=by, shard=part):
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
    leases: Leases,
    chosen: list[torch.device],
    *,
    quiet: bool = True,
) -> None:
    """Check what would fail late, and write down what this directory is; the first process does it for all.

    What takes long is done beside others who prepare the same run; what all of them write, one after the other.

    Args:
        faults: of the recipe, as far as they are known.
        chosen: the devices, a job each.

    Raises:
        InputError: the recipe has faults, the directory is another experiment's, somebody is at work there by another
            recipe, or the data is not what it should be.
    """

    def waiting(who: str) -> None:
        if not quiet:
            terminal.tell(f"robustnas: waiting for {who}, which prepares or writes in {directory.path}", error=True)

    def first() -> None:
        directory.check(todo)
        _verify(directory, stages, leases)
        directory.sweep(stages)
        found = None
        if faults or directory.lost(data.FILE) or len(directory.all_done(stages)) < len(stages):
            found = checks.check(todo, loaded, faults, partial(data.splits, todo), processes)
            assert found is not None
        with leases.alone(waiting):
            recipe = text_of(_resolved(loaded, todo))
            leases.work_on(recipe)
            directory.check(todo)
            if found is not None:
                data.verify(todo, found, directory, quiet=quiet)
            directory.claim(todo)
            plugin_files.record(directory)
            directory.write_text("recipe.yaml", recipe)
            directory.write_json("layout.json", layout.describe(todo, directory, data.notes(directory)))
            if len(directory.all_done(stages)) < len(stages):
                provenance.append(directory, chosen, processes.size)

    # the others go on when the directory is this experiment's, and fail if it cannot be
    processes.run_together(lambda: first() if processes.first else None)


def _resolved(loaded: Loaded, todo: Plan) -> dict[str, Any]:
    """The recipe with every default filled in."""
    return resolved(loaded, {name: method.train for name, method in todo.methods.items()})


def _tracking(loaded: Loaded, todo: Plan, directory: RunDirectory) -> Tracking | None:
    """What tells the trackers that the recipe asks for; None where it asks for none."""
    trackers = {use.name: use.plugin for use in loaded.recipe.trackers}
    return Tracking(directory, _resolved(loaded, todo), trackers) if trackers else None


def _verify(directory: RunDirectory, stages: list[Stage], leases: Leases) -> None:
    """Hold what this run will read to what was written, so that damage is told before hours are spent.

    What another process is writing just now is left to it.

    Raises:
        RunDirectoryError: something is not what was written.
    """
    folders = directory.folders(stages)
    undone = {key for key, folder in folders.items() if not folder.done}
    read_on = {key for stage in stages if stage.key in undone for key in stage.needs}
    finished.tell(directory.verify(folders.values(), written_anew=True))
    for key, folder in folders.items():
        if leases.free(key):
            folder.verify(read_on=key in read_on)
    for stage in stages:
        for folder in directory.beside(stage) if stage.question and stage.key in undone else ():
            folder.verify(read_on=False)


def plan(
    loaded: Loaded,
    *,
    out: Path | None = None,
    memory: bool = False,
    executor: Executor | None = None,
    device: str = "auto",
) -> None:
    """Print what `run` would do: methods, seeds and stages, what is done, steps and parameters.  Runs nothing.

    Args:
        memory: estimate what a search step needs, which runs two tiny ones a method.
        executor: say what a scheduler would be asked for; None: nothing of the kind.
        device: as `run` would have it.

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
    if not isinstance(executor, Local | None):
        handed.requests(executor, todo.until(None), loaded.recipe.resources, device)
        cost.show(cost.asked(todo, directory, loaded.recipe.resources, device), Console())


def default_directory(loaded: Loaded) -> Path:
    """`runs/<recipe name>` below the working directory, of a quick recipe `runs/<recipe name>-quick`."""
    return Path("runs") / (f"{loaded.name}-quick" if loaded.recipe.quick else loaded.name)


def _conclude(failed: int, progress: Progress, directory: RunDirectory, until: str, shard: Shard | None) -> int:
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
        part = "" if shard is None else f"shard {shard}: "
        terminal.say(console, f"{part}{until or 'table.md, table.csv, table.json'} in {directory.path}")
    return 0
