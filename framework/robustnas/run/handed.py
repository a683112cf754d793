"""The stages of a run as they are handed to an executor, and what the run learns of them.

An executor tells when a job has ended; whether its stage is done, the run directory says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from attrs import Factory, define, evolve

from robustnas.contracts import Executor, Job, Resources
from robustnas.errors import DiskFullError, InputError, PluginError, RobustnasError, RunDirectoryError, RunError
from robustnas.plan import Plan, Stage
from robustnas.recipe.resources import needs_of
from robustnas.recipe.schema import Needs
from robustnas.registry import EXECUTORS, plugin_file
from robustnas.run import late, presence, submitted
from robustnas.run.agenda import Agenda
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.local import Local
from robustnas.run.progress import Progress
from robustnas.run.remaining import Remaining
from robustnas.run.remote import Check, Remote, packed, versions
from robustnas.run.scheduler import run_all
from robustnas.run.submitted import CLUSTER
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import real_folder
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.strangers import described

WITHOUT_DEVICE = ("choose",)
"""Kinds of stages that compute nothing."""

CHECK = "check"
"""Name and kind of the job that all others wait for: it looks at the machine that the scheduler gives it."""

CHECK_HOURS = 0.25

DEVICES = ("auto", "cuda", "cpu")
"""What `--device` may be where a scheduler places jobs."""


def resources(needs: Mapping[str, Needs], kind: str, device: str) -> Resources:
    """What a job of a kind of stages asks for.

    Args:
        needs: section `resources`.
        device: as `--device` has it; of `cpu` a job asks for no GPU, whatever the section says.

    Raises:
        InputError: it is one device of this machine.
    """
    if device not in DEVICES:
        raise InputError(
            f"found --device {device}: a scheduler chooses among the devices of its machines; "
            f"{', '.join(DEVICES[:-1])} or {DEVICES[-1]} would do"
        )
    asked = needs_of(needs, kind)
    usual = 0 if kind in WITHOUT_DEVICE else 1
    gpus = 0 if device == "cpu" else usual if asked.gpus is None else asked.gpus
    return Resources(gpus, asked.cpus, asked.memory, asked.hours, asked.nodes)


def requests(executor: Executor, stages: Sequence[Stage], needs: Mapping[str, Needs], device: str) -> list[Resources]:
    """What an executor is asked for by the stages, each once.

    Raises:
        InputError: it is one device of this machine, or several machines, which this executor has no job done by.
    """
    asks_for = {kind: resources(needs, kind, device) for kind in dict.fromkeys(stage.kind for stage in stages)}
    for kind, one in asks_for.items():
        if one.nodes > 1 and not getattr(executor, "several_nodes", False):
            name = EXECUTORS.entry_of(type(executor)).name
            raise InputError(
                f"resources: a {kind} asks for {one.nodes} nodes, and executor {name} has a job done by one; "
                f"resources.{kind}.nodes=1, or executor slurm, would do"
            )
    return list(dict.fromkeys(asks_for.values()))


def least(asked: Iterable[Resources]) -> Resources:
    """What the job asks for that only looks at a machine: a quarter of an hour of the least that any other does.

    But for a GPU, where any asks for one: it has to see a machine of that kind.
    """
    every = list(asked)
    return Resources(
        gpus=min(1, max(one.gpus for one in every)),
        cpus=min(one.cpus for one in every),
        memory=min((one.memory for one in every if one.memory is not None), default=None),
        hours=CHECK_HOURS,
    )


def check(executor: Executor, stages: Sequence[Stage], needs: Mapping[str, Needs], device: str) -> None:
    """Ask an executor, if it can tell, whether it could have the stages done.

    Raises:
        InputError: it could not.
    """
    if isinstance(executor, Local):
        return
    every = requests(executor, stages, needs, device)
    every += [least(every)] if len(stages) > 1 else []
    asks = getattr(executor, "check", None)
    if asks is not None:
        asks(list(dict.fromkeys(every)))


@define(slots=False, eq=False)
class Handed:
    """The work of an executor, as `robustnas.contracts.Work` has it.

    Args:
        device: as `--device` has it.
        devices: of this machine, a job each, where the work is done here.
        needs: section `resources`.
        row_ended: is called whenever nothing is left to do of a method and seed.
        failures: the stages that failed, and why.
    """

    plan: Plan
    stages: Sequence[Stage]
    directory: RunDirectory
    device: str
    devices: Sequence[torch.device]
    needs: Mapping[str, Needs]
    progress: Progress
    processes: Processes = ALONE
    row_ended: Callable[[], None] | None = None
    leases: Leases | None = None
    failures: list[tuple[Stage, RobustnasError]] = Factory(list)
    _names: dict[str, str] = Factory(dict)
    _left: dict[str, Stage] = Factory(dict)
    _at_home: bool = False
    _stopped: bool = False
    _refused: str | None = None

    def done_by(self, executor: Executor) -> list[tuple[Stage, RobustnasError]]:
        """Have the work done; returns the stages that failed, and why.

        Raises:
            RobustnasError: as `robustnas.run.scheduler.run_all`, where it is done here; the executor failed, or still
                has jobs of an earlier command for these stages.
            Interrupted: the run was asked to stop.
        """
        if isinstance(executor, Local):
            executor.run(self)
            return self.failures
        done = self.directory.all_done(self.stages)
        self._left = {stage.key: stage for stage in self.stages if stage.key not in done}
        self.progress.plan(len(self.stages), len(done), Remaining(self.plan, list(self._left.values())))
        if not self._left:
            return []
        self._agenda = Agenda(list(self._left.values()), self.progress, self.row_ended)
        self._pass_over()
        name = EXECUTORS.entry_of(type(executor)).name
        self._executor = name
        self._refuse_doubles(executor)
        try:
            executor.run(self)
        except (RobustnasError, KeyboardInterrupt):
            self._stop()
            raise
        except BaseException as fault:
            self._stop()
            raise PluginError(f"executor {name}: {described(fault, whole=True)}") from fault
        if self._at_home:
            return self.failures
        if self._refused is not None:
            raise InputError(f"executor {name}: {self._refused}; nothing was begun")
        if interrupt.asked():
            raise interrupt.Interrupted
        self._look()
        forgotten = [stage for stage in self._left.values() if not self._agenda.lost(stage)]
        if forgotten:
            raise RunError(f"executor {name} returned and did not tell what became of {forgotten[0].title}")
        submitted.forget(self.directory.path, self._command)
        return self._agenda.failures

    @cached_property
    def jobs(self) -> Sequence[Job]:
        """The stages that are left, as jobs."""
        plan, had = packed(self.directory, self.plan), versions()
        files = {file.text: file.sha256 for file in plugin_file.GIVEN.values()}
        made: list[Job] = []
        first = (CHECK,) if len(self._left) > 1 else ()  # a single one says the same itself
        for stage in self._left.values():
            asked = resources(self.needs, stage.kind, self.device)
            remote = Remote(
                directory=str(self.directory.path.resolve()),
                plan=plan,
                key=stage.key,
                device="cuda" if asked.gpus else "cpu",
                threads=asked.cpus,
                processes=max(1, asked.gpus),
                nodes=asked.nodes,
                command=self._command,
                recipe="" if self.leases is None else self.leases.presence.peer.recipe,
                versions=had,
                files=files,
            )
            needs = tuple(key for key in stage.needs if key in self._left)
            after = tuple(key for key in stage.after if key in self._left and key not in needs)
            made.append(Job(stage.key, stage.title, stage.kind, needs or first, after, asked, remote))
        if first:
            asked = least(job.resources for job in made)
            looks = Check(evolve(remote, device="cuda" if asked.gpus else "cpu"))
            made.insert(0, Job(CHECK, "check of a machine", CHECK, (), (), asked, looks))
        return made

    @cached_property
    def folder(self) -> Path:
        """The executor's folder, which this command makes: nobody has put anything into it before.

        Raises:
            RunDirectoryError: there is such a folder, or one above it is a link.
        """
        above = self.directory.path / CLUSTER / self._executor
        for one in (above.parent, above):
            real_folder(one)
        above.mkdir(parents=True, exist_ok=True)
        folder = above / self._command
        try:
            folder.mkdir()
        except FileExistsError:
            raise RunDirectoryError(f"{folder} is there already: delete it, and run the same command again") from None
        return folder

    @property
    def _command(self) -> str:
        return str(self.directory.holder)

    def _refuse_doubles(self, executor: Executor) -> None:
        """Leave stages to the jobs of earlier commands that the scheduler still has, and forget those it has not.

        Raises:
            RunDirectoryError: there are some.
        """
        asks = getattr(executor, "queued", None)
        kept = list(submitted.kept(self.directory.path))
        before = [one for one in kept if one.executor == self._executor]
        names = [name for one in before for name in one.jobs.values()]
        there = set(asks(names)) if asks is not None and names else set()
        living = presence.names(self.directory.path / presence.FOLDER)
        # a mark without names is of a scheduler that tells none, and whose tasks end with the command
        marks = set(submitted.stopped_commands(self.directory.path)) - {one.command for one in kept}
        for command in (*(one.command for one in before if not there.intersection(one.jobs.values())), *marks):
            if command not in living:
                submitted.forget(self.directory.path, command)
        still = [name for one in before for key, name in one.jobs.items() if key in self._left and name in there]
        if still:
            some = f"{', '.join(still[:4])}{', ...' if len(still) > 4 else ''}"
            raise RunDirectoryError(
                f"{self.directory.path}: {self._executor} still has {len(still)} jobs of an earlier command for stages "
                f"that are left ({some}); wait until they have ended, which robustnas cancel {self.directory.path} "
                "hastens"
            )

    def submitted(self, names: Mapping[str, str]) -> None:
        """Keep the scheduler's names of jobs."""
        self._names.update(names)
        submitted.Submitted(self._command, self._executor, self._names).keep(self.directory.path)

    def _stop(self) -> None:
        """Let no job of this command begin any more."""
        if not (self._stopped or self._at_home):
            self._stopped = True
            with suppress(DiskFullError, OSError):  # the scheduler's signals reach all but those just starting
                submitted.stop(self.directory.path, self._command)

    def ended(self, name: str, why: str | None = None) -> None:
        """Note that a job has ended; where its stage is not done, it failed."""
        if name == CHECK:
            self._refused = why
        if self._refused is not None:  # what is left out for it needs no word
            return
        stage = self._left.pop(name, None)
        if stage is None or self._agenda.lost(stage):  # one that is left out was told already
            return
        if late.appears(self.directory, stage, None if why is None else 0.0):
            self._agenda.found(stage)
        else:
            self._agenda.failed(stage, RunError(why or "the job ended, and its stage is not done"))
        self._pass_over()

    def _pass_over(self) -> None:
        """Let the agenda pass what may begin: the scheduler has it; what cannot begin any more is left out."""
        while self._agenda.take() is not None:
            pass

    def _look(self) -> None:
        """Note what is done of what nobody told about: others may be at work in the directory."""
        for key in self.directory.all_done(list(self._left.values())):
            self.ended(key)

    def asked(self) -> bool:
        """Whether the run was asked to stop; then its jobs are not to begin."""
        if interrupt.asked() or self._refused is not None:
            self._stop()
            return True
        return False

    def here(self) -> None:
        """Do the work in processes of this machine."""
        self._at_home = True
        self.failures = run_all(
            self.plan,
            self.stages,
            self.directory,
            self.devices,
            self.progress,
            self.processes,
            self.row_ended,
            self.leases,
        )
