"""One stage as a job of a scheduler: what is sent to another machine, and what is done there.

    python -m robustnas.run.remote TEXT      the same, of several processes that share each batch

The plan lies in the run directory as Python pickled it, and is read only where its digest is the one that was sent.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs
import torch
from attrs import Factory, evolve, frozen

from robustnas.errors import DeviceError, LeaseLostError, RobustnasError, RunDirectoryError, RunError
from robustnas.plan import Plan, Stage
from robustnas.registry import REGISTRIES, plugin_file
from robustnas.run import late, stage_log, submitted
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.presence import Presence
from robustnas.run.progress import Progress
from robustnas.run.scheduler import run_all
from robustnas.run.submitted import CLUSTER
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import real_folder, write_bytes
from robustnas.runtime.artifacts.files import regular
from robustnas.runtime.processes import joined, own_device
from robustnas.runtime.strangers import text_of
from robustnas.runtime.terminal import tell

MEETING = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that tell a job of several machines which of them this is, and where they meet."""

READY = 600
"""Seconds that other machines of a job wait until the first one listens."""

STOPPED = 130
"""The exit status of several processes that were asked to stop."""


def versions() -> dict[str, str]:
    """The versions on which results depend and that a machine may have otherwise: ours, torch's, those of plugins."""
    import robustnas

    computing = [registry for kind, registry in REGISTRIES.items() if kind not in ("executor", "tracker")]
    loaded = [entry for registry in computing for entry in registry.loaded.values()]
    strangers = {entry.distribution: entry.version for entry in loaded if entry.stranger is not None}
    given = {file.distribution for registry in REGISTRIES.values() for file in registry.given}
    installed = {name: version for name, version in sorted(strangers.items()) if name not in given}
    return {"robustnas": robustnas.__version__, "torch": torch.__version__, **installed}


def packed(directory: RunDirectory, plan: Plan) -> tuple[str, str]:
    """Write a plan into the run directory, for other machines; returns the file's name and digest.

    Raises:
        RunDirectoryError: the folder for it is a link.
    """
    content = pickle.dumps(plan)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"plan-{sha256[:16]}.pickle"
    real_folder(directory.path / CLUSTER)
    write_bytes(directory.path / CLUSTER / name, content)
    return name, sha256


@frozen
class Remote:
    """Does one stage wherever it is called.

    Args:
        directory: the run directory, absolute.
        plan: name of the plan's file, and its digest.
        key: the stage's.
        device: `cpu` or `cuda`.
        threads: of computation.
        processes: of each machine, that share each batch.
        command: name of the entry of `provenance.json` that made the job (its `by`).
        recipe: as `robustnas.run.presence.Peer.recipe`.
        versions: that the other machine must have.
        files: plugins in files of the user's own, as they were given, with their digests.
        nodes: machines on which this is called at the same time (`robustnas.contracts.Job.call`), and whose processes
            share each batch.
    """

    directory: str
    plan: tuple[str, str]
    key: str
    device: str
    threads: int
    processes: int
    command: str
    recipe: str
    versions: Mapping[str, str]
    files: Mapping[str, str] = Factory(dict)
    nodes: int = 1

    def __call__(self) -> None:
        """Do the stage; as `robustnas.contracts.Job.call`.

        Raises:
            RobustnasError: it failed, or cannot be done here.
            Interrupted: the process was asked to stop; what can be resumed is saved.
            Cancelled: that by somebody who wants the jobs of the command to end.
        """
        self._heed(self._stopped())
        self.check()
        try:
            if self.processes * self.nodes > 1:
                self._together()
            else:
                self.do()
        except KeyboardInterrupt:
            self._heed(self._stopped())
            raise

    def do(self) -> None:
        """Do the stage in this process, or together with those that torchrun started.

        Raises:
            RobustnasError: it failed, or cannot be done here.
            Interrupted: the process was asked to stop; what can be resumed is saved.
        """
        plan = self._plan()
        stage, directory = plan.by_key[self.key], RunDirectory(Path(self.directory), command=self.command)
        device = torch.device(own_device(self.device))
        if self.processes * self.nodes == 1:
            torch.set_num_threads(self.threads)
        leases = Leases.of(Presence(directory.path, quiet=True))
        leases.presence.peer = evolve(leases.presence.peer, recipe=self.recipe)
        with interrupt.listening(quiet=True), joined(device) as processes, ExitStack() as held:
            # again: a signal that came before somebody listened is lost
            self._heed(processes.any(self._stopped()))
            processes.run_together(lambda: self._has_all(plan, directory, stage))
            processes.run_together(lambda: _begin(leases, held) if processes.first else None)
            directory = evolve(directory, holder=processes.broadcast(leases.presence.peer.name))
            progress = Progress(quiet=True)
            if processes.first:
                progress.log = lambda stage, line: stage_log.add(directory.folder(stage), line)
                leases.presence.doing = progress.doing
            own = leases if processes.first else None
            failures = run_all(plan, [stage], directory, [device], progress, processes, None, own)
        if failures:
            raise RunError(text_of(failures[0][1]))

    def check(self) -> None:
        """Hold this machine to what results depend on, before anything is computed.

        Raises:
            RunError: it does not see the run directory, or has other versions.
        """
        node = platform.node()
        if not (Path(self.directory) / CLUSTER / self.plan[0]).is_file():
            raise RunError(
                f"{node} does not see the run directory {self.directory}; --out DIR on a file system that all machines "
                "of the cluster share would do"
            )
        here = {name: _version(name) for name in self.versions}
        differ = [
            f"{name} {here[name] or 'missing'} where the run was begun with {wanted}"
            for name, wanted in self.versions.items()
            if here[name] != wanted
        ]
        if differ:
            raise RunError(f"{node} has {'; '.join(differ)}: install the same there, or the keys of results would lie")

    def _has_all(self, plan: Plan, directory: RunDirectory, stage: Stage) -> None:
        """Require the results that the stage reads, for which this machine waits where it cannot see them yet.

        Raises:
            RunError: one is not there.
            Interrupted: the process was asked to stop meanwhile.
        """
        lacks = late.absent(plan, directory, stage)
        interrupt.check()
        if lacks is not None:
            folder = directory.folder(lacks)
            why = stage_log.why_failed(folder)
            told = "which is not done" if why is None else f"which failed: {why.splitlines()[0]}"
            raise RunError(f"left out: it needs {lacks.title}, {told} ({platform.node()} sees no {folder.result_file})")

    def _stopped(self) -> bool:
        return submitted.stopped(Path(self.directory), self.command)

    def _heed(self, stopped: bool) -> None:
        if stopped:
            raise interrupt.Cancelled("the jobs of this command are to end")

    def _plan(self) -> Plan:
        """Read the plan.

        Raises:
            RunDirectoryError: its file is not the one that was sent.
        """
        name, sha256 = self.plan
        file = Path(self.directory) / CLUSTER / name
        with regular(file) as opened:
            content = opened.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RunDirectoryError(f"{file} is not the plan that this job was sent for; run the recipe again")
        for text, given in self.files.items():  # of which the plan holds instances
            plugin_file.register(text, given)
        plan: Plan = pickle.loads(content)
        return plan

    def _together(self) -> None:
        """Do the stage in several processes that share each batch, those of this machine and of others.

        Raises:
            DeviceError: there are fewer devices here than processes.
            RunError: it failed, or nobody told which of several machines this is.
            Interrupted: it was asked to stop; what can be resumed is saved.
        """
        if self.device == "cuda" and torch.cuda.device_count() < self.processes:
            raise DeviceError(
                f"{platform.node()} has {torch.cuda.device_count()} GPUs for a job of {self.processes} processes"
            )
        launcher = [sys.executable, "-m", "torch.distributed.run", *self._meeting(), "--nproc-per-node"]
        text = json.dumps(attrs.asdict(self))
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, self.threads // self.processes))}
        command = [*launcher, str(self.processes), "-m", "robustnas.run.remote", text]
        with interrupt.listening(quiet=True), _deaf(command, environment) as launched:
            asked = False
            while launched.poll() is None:
                if interrupt.asked() and not asked:
                    asked = True
                    launched.terminate()  # torchrun passes it on
                try:
                    launched.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
            asked = asked or interrupt.asked()  # the signal may have reached them first
        directory, stage = RunDirectory(Path(self.directory)), self._plan().by_key[self.key]
        # the result may have been written on another machine
        waits = None if self.nodes > 1 and launched.returncode == 0 and not asked else 0.0
        if not late.appears(directory, stage, waits):
            if asked:
                raise interrupt.Interrupted
            why = stage_log.why_failed(directory.folder(stage))
            count = self.processes * self.nodes
            raise RunError(why or f"its {count} processes ended with status {launched.returncode}")

    def _meeting(self) -> list[str]:
        """How torchrun is told where its processes meet those of other machines.

        Raises:
            RunError: nobody told which machine this is.
        """
        if self.nodes == 1:
            return ["--standalone"]
        place, *meeting = (os.environ.get(name, "") for name in MEETING)
        if not (place.isdecimal() and int(place) < self.nodes and all(meeting)):
            raise RunError(
                f"a job of {self.nodes} nodes was begun on {platform.node()} without {', '.join(MEETING)}, which tell "
                "it which of them it is: the executor has to set them"
            )
        first = "1" if int(place) == 0 else "0"
        there = ["--rdzv-backend", "c10d", "--rdzv-endpoint", ":".join(meeting), "--rdzv-id", self.key]
        return ["--nnodes", str(self.nodes), *there, "--rdzv-conf", f"is_host={first},read_timeout={READY}"]


@frozen
class Check:
    """Looks at the machine where it is called, as the job that others wait for.

    Args:
        remote: one of these.
    """

    remote: Remote

    def __call__(self) -> None:
        """Hold the machine to what all the jobs need.

        Raises:
            RobustnasError: it is not like the one where the run was begun, or the plan cannot be read there.
            DeviceError: a GPU is asked for, and torch sees none there.
        """
        self.remote.check()
        self.remote._plan()
        if self.remote.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                f"torch sees no GPU on {platform.node()}, where a job with one was begun: a torch built for CUDA, a "
                "driver that fits it, or --device cpu would do"
            )


def _deaf(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that SIGUSR2 does not end, nor what it starts: Slurm sends it to all processes of a job.

    This one hears it, and asks them to stop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # which they inherit
    try:
        return subprocess.Popen(command, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(leases: Leases, held: ExitStack) -> None:
    held.enter_context(leases.begun())


def _version(name: str) -> str | None:
    if name == "robustnas":
        import robustnas

        return robustnas.__version__
    if name == "torch":
        return torch.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(text: str) -> int:
    """Do the stage that a text describes, as one of several processes."""
    data = json.loads(text)
    remote = Remote(**{**data, "plan": tuple(data["plan"])})
    try:
        remote.do()
    except LeaseLostError:
        return 0
    except RobustnasError as fault:
        tell(f"robustnas: {text_of(fault)}", error=True)
        return 1
    except interrupt.Interrupted:
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
