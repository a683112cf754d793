"""Slurm, through submitit: arrays of stages, with dependencies between them.

Slurm is given everything at once, and decides what begins when.  The stages of a kind are an array, so a thousand rows
are a dozen submissions; where element by element an array needs another's, it waits element by element (`aftercorr`).
A job that is pre-empted or out of time is asked to save (SIGUSR2), and put into the queue again; it goes on from its
checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import Any, ClassVar, Literal

from attrs import Factory, define, frozen

from robustnas.contracts import Job, Resources, Work
from robustnas.errors import InputError, RunError
from robustnas.options import option
from robustnas.runtime import interrupt

USUAL_HOURS = 24.0
"""submitit asks for a time always, and by itself for five minutes."""

ENDS = 30.0
"""Seconds after which Slurm has ended a job that one of its nodes has put back."""

PORTS = (20_000, 30_000)
"""From where the port is at which the nodes of a job meet: below those that systems hand out."""

HIDDEN = 60.0
"""Seconds after which a job that has gone without a visible result is believed to have none."""


@frozen
class Slurm:
    """Jobs of a Slurm cluster, through submitit (`pip install 'robustnas[slurm]'`).

    The run directory has to be on a file system that the nodes share.  The command waits for its jobs; Ctrl-C, or
    `robustnas cancel`, stops them at their checkpoints.
    """

    several_nodes: ClassVar[bool] = True

    partition: str | None = option(None, "partition; default the cluster's")
    account: str | None = option(None, "account")
    qos: str | None = option(None, "quality of service")
    constraint: str | None = option(None, "features that nodes must have")
    setup: list[str] = option(Factory(list), "lines of shell before each job, such as [module load cuda]")
    array: int = option(1000, "elements of an array at most, no more than the cluster's MaxArraySize - 1", at_least=1)
    side_by_side: int | None = option(None, "elements of an array that run at once; default as many as find room")
    save_seconds: int = option(120, "seconds before the end of its time at which a job is asked to save", at_least=30)
    requeues: int = option(100, "how often a job that was out of time goes on", at_least=0)
    poll: float = option(10.0, "seconds between two looks at the jobs")
    cluster: Literal["slurm", "local"] = option("slurm", "local: processes of this machine by submitit, to try it")

    def check(self, resources: Sequence[Resources]) -> None:
        if find_spec("submitit") is None:
            raise InputError(
                "executor slurm needs the package submitit, which is not installed: pip install 'robustnas[slurm]', or "
                "--executor local, would do"
            )
        if self.cluster == "local":
            for one in resources:
                if one.nodes > 1:
                    raise InputError(
                        f"executor slurm with cluster local: resources ask for {one.nodes} nodes, and this machine is "
                        "one: nodes: 1, or cluster slurm, would do"
                    )
            return
        if shutil.which("sbatch") is None:
            raise InputError("executor slurm needs the command sbatch, which is not here: a login node would do")
        for one in resources:
            asked = [f"--{name}={value}" for name, value in self._asked(one).items()]
            tried = subprocess.run(
                ["sbatch", "--test-only", *asked, "--wrap=true"], capture_output=True, text=True, check=False
            )
            if tried.returncode:
                said = tried.stderr.strip() or tried.stdout.strip() or "no reason given"
                why = "; ".join(line.removeprefix("sbatch: error: ") for line in said.splitlines())
                raise InputError(
                    f"executor slurm: the cluster refuses {' '.join(asked)}: {why}; "
                    "other resources in the recipe, or another partition (sinfo lists them), would do"
                )

    def run(self, work: Work) -> None:
        left: dict[str, Any] = {}
        try:
            if self.cluster == "slurm":
                for jobs, depends in arrays(work.jobs, self.array):
                    executor = self._executor(work, jobs[0].resources, [dependency(one, left) for one in depends])
                    handles = executor.submit_array([Resumed(job.call) for job in jobs])
                    left |= {job.name: handle for job, handle in zip(jobs, handles, strict=True)}
                    work.submitted({job.name: left[job.name].job_id for job in jobs})
                self._wait(work, left)
            else:
                self._one_by_one(work, left)
        finally:  # of a run that ends before its jobs, however it does
            self._stop(left)

    def cancel(self, names: Sequence[str]) -> None:
        _checked(names)
        if names and shutil.which("scancel") is None:
            raise InputError("executor slurm needs the command scancel, which is not here: a login node would do")
        # what waits is all taken from the queue before what runs is asked to save, lest it takes the place of that
        for how in ("--state=PENDING", "--signal=TERM"):
            for start in range(0, len(names), 500):  # one that has ended is refused, and may be
                command = ["scancel", how, *names[start : start + 500]]
                subprocess.run(command, check=False, capture_output=True)

    def queued(self, names: Sequence[str]) -> list[str]:
        _checked(names)
        there = _queued() if shutil.which("squeue") else None
        if there is None:
            raise InputError(
                "executor slurm: squeue does not answer, and jobs of an earlier command may still be there: a login "
                "node, or some patience, would do"
            )
        return [name for name in names if name in there]

    def _asked(self, resources: Resources) -> dict[str, Any]:
        """Options of sbatch, as submitit will give them."""
        minutes = round(60 * (resources.hours or USUAL_HOURS))
        asked = {"partition": self.partition, "account": self.account, "qos": self.qos, "constraint": self.constraint}
        memory = None if resources.memory is None else f"{round(1024 * resources.memory)}M"
        asked |= {"cpus-per-task": str(resources.cpus), "mem": memory, "time": str(minutes)}
        asked |= {"gpus-per-node": str(resources.gpus) if resources.gpus else None}
        if resources.nodes > 1:
            asked |= {"nodes": str(resources.nodes), "ntasks-per-node": "1"}
        return {name: value for name, value in asked.items() if value is not None}

    def _executor(self, work: Work, resources: Resources, dependencies: Sequence[str] = ()) -> Any:
        """What submits the next array: a new one, which asks for nothing that an array before it asked for."""
        import submitit

        executor = submitit.AutoExecutor(folder=work.folder, cluster=self.cluster, slurm_max_num_timeout=self.requeues)
        asked = self._asked(resources)
        extra: dict[str, Any] = {name: asked[name] for name in ("account", "qos", "constraint") if name in asked}
        if dependencies:
            extra |= {"dependency": ",".join(dependencies), "kill-on-invalid-dep": "yes"}
        further: dict[str, Any] = {"gpus_per_node": resources.gpus} if resources.gpus else {}
        further |= {"nodes": resources.nodes, "tasks_per_node": 1} if resources.nodes > 1 else {}
        further |= {f"slurm_{name}": asked[name] for name in ("mem", "partition") if name in asked}
        executor.update_parameters(
            name="robustnas",
            timeout_min=int(asked["time"]),
            cpus_per_task=resources.cpus,
            slurm_setup=list(self.setup),
            slurm_srun_args=[f"--cpus-per-task={resources.cpus}"],  # which Slurm 22.05 and later do not hand on to it
            slurm_signal_delay_s=self.save_seconds,
            slurm_array_parallelism=self.side_by_side or self.array,
            slurm_additional_parameters={**extra, "requeue": True},
            **further,
        )
        return executor

    def _wait(self, work: Work, left: dict[str, Any]) -> None:
        """Wait until all jobs have ended, or the run is asked to stop.

        A job has ended that has written a result, or that has not been in the queue for a minute: a node that is lost
        leaves no result, not every cluster keeps accounts, what is put back into the queue stays in it, and NFS may
        hide a new file as long.
        """
        gone: dict[str, float] = {}
        while left and not work.asked():
            time.sleep(self.poll)
            queued, now = _queued(), time.monotonic()
            written = set(os.listdir(work.folder))  # once for all: of ten thousand each would be a request
            absent = set() if queued is None else {name for name, job in left.items() if job.job_id not in queued}
            gone = {name: gone.get(name, now) for name in left if name in absent}
            for name, job in list(left.items()):
                if now - gone.get(name, now) >= HIDDEN or job.paths.result_pickle.name in written:
                    work.ended(name, _why(left.pop(name)))

    def _one_by_one(self, work: Work, left: dict[str, Any]) -> None:
        """Have submitit start each process when what it waits for has ended: without Slurm nothing else knows of it."""
        waiting = {job.name: job for job in work.jobs}
        failed: set[str] = set()
        cores = os.cpu_count() or 1
        while (waiting or left) and not work.asked():
            for name, job in list(waiting.items()):
                if failed.intersection(job.needs):
                    failed.add(name)
                    del waiting[name]
                elif len(left) < (self.side_by_side or max(1, cores // job.resources.cpus)) and not any(
                    other in waiting or other in left for other in (*job.needs, *job.after)
                ):
                    left[name] = self._executor(work, job.resources).submit(Resumed(job.call))
                    del waiting[name]
            time.sleep(min(self.poll, 0.2))
            for name in [name for name, handle in left.items() if handle.done()]:
                why = _why(left.pop(name))
                failed.update([name] if why else [])
                work.ended(name, why)

    def _stop(self, left: Mapping[str, Any]) -> None:
        """Ask jobs to save, and not to come back."""
        if self.cluster == "slurm":
            self.cancel([handle.job_id for handle in left.values()])
            return
        for handle in left.values():
            handle.cancel()


def _checked(names: Sequence[str]) -> None:
    """Refuse what is no name of a job: it would be an option of scancel.

    Raises:
        InputError: there is one.
    """
    for name in names:
        if re.fullmatch(r"[0-9]+(_[0-9]+)?", name) is None:
            raise InputError(
                f"found {name!r} where the name of a job of Slurm was kept; 12 or 12_3 would do: somebody else wrote "
                "cluster/jobs-*.json in the run directory"
            )


def _queued() -> set[str] | None:
    """The names of this user's jobs that wait or run; None where Slurm does not answer just now."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if told.returncode else set(told.stdout.split())


@frozen
class Dependency:
    """What an array waits for.

    Args:
        kind: `aftercorr`, element by element, `afterok`, the success of all of it, or `afterany`, the end of all of it.
        first: the name of the first job of the array that it waits for.
    """

    kind: str
    first: str


def dependency(one: Dependency, handles: Mapping[str, Any]) -> str:
    """A dependency as sbatch takes it.

    Args:
        handles: of the jobs submitted before, by name.
    """
    array, _, element = handles[one.first].job_id.partition("_")
    # what is alone is no array, and has no elements
    return f"{'afterok' if one.kind == 'aftercorr' and not element else one.kind}:{array}"


def arrays(jobs: Sequence[Job], most: int) -> Iterator[tuple[list[Job], list[Dependency]]]:
    """Sort jobs into arrays, each after those that it waits for.

    An array is of one kind, of one request for resources and as deep in the graph.  Where each element needs the same
    element of another array, they wait element by element; where each needs all of it, until all of it has succeeded.
    What comes after a job that may fail, or needs others, waits for an array as a whole, and finds out when it begins
    whether what it needs is done.

    Args:
        jobs: each after what it waits for.
        most: elements of an array.
    """
    depth: dict[str, int] = {}
    groups: dict[Any, list[Job]] = {}
    place: dict[str, tuple[Any, int]] = {}
    counts: Counter[Any] = Counter()
    for job in jobs:
        depth[job.name] = 1 + max((depth[name] for name in (*job.needs, *job.after)), default=-1)
        column = job.title.rpartition(" seed ")[2].partition(" ")[2]  # what is done, with an attack's label
        key = (depth[job.name], column, job.kind, job.resources)
        group = (*key, counts[key] // most)
        counts[key] += 1
        members = groups.setdefault(group, [])
        place[job.name] = (group, len(members))
        members.append(job)
    for group in sorted(groups, key=lambda one: one[0]):
        members = groups[group]
        parents: dict[Any, bool] = {}
        for index, job in enumerate(members):
            for name in (*job.needs, *job.after):
                other, at = place[name]
                aligned = name in job.needs and at == index and len(groups[other]) == len(members)
                parents[other] = parents.get(other, True) and aligned
        for other in parents:
            # element by element, each must wait for its own
            own = sum(any(place[name][0] == other for name in job.needs) for job in members)
            parents[other] = parents[other] and own == len(members)
        kinds = {other: "aftercorr" if aligned else "afterany" for other, aligned in parents.items()}
        for other in parents:
            if all({one.name for one in groups[other]} <= set(job.needs) for job in members):
                kinds[other] = "afterok"
        yield members, [Dependency(kind, groups[other][0].name) for other, kind in kinds.items()]


@define
class Resumed:
    """A job's call, which saves when Slurm asks, and then goes back into the queue.

    submitit looks for `checkpoint` on the very thing that it was given to call.
    """

    call: Callable[[], None]

    def __call__(self) -> None:
        theirs: Any = signal.getsignal(signal.SIGUSR2)
        by_slurm = []

        def asked(number: int, frame: FrameType | None) -> None:
            by_slurm.append(number)
            interrupt.request("Slurm")

        signal.signal(signal.SIGUSR2, asked)
        try:
            os.environ.update(_meeting())
            self.call()
        except interrupt.Cancelled:  # somebody wants it to end
            raise
        except KeyboardInterrupt as fault:
            if by_slurm or (isinstance(fault, interrupt.Interrupted) and _runs()):
                theirs(signal.SIGUSR2, None)  # submitit puts the job back, and ends the process
                if os.environ.get("SLURM_NODEID", "0") != "0":
                    time.sleep(ENDS)  # the first node does so for all; one that ends before it could take it along
            raise
        finally:
            signal.signal(signal.SIGUSR2, theirs)

    def checkpoint(self) -> Any:
        """What is put into the queue again: submitit asks for it when the job has saved."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _meeting() -> dict[str, str]:
    """What tells a process of a job of several nodes which it is, as `robustnas.contracts.Job.call` has it."""
    if int(os.environ.get("SLURM_NNODES", "1")) == 1:
        return {}
    first = _scontrol("show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    # the address at which Slurm reaches it, which its name need not be
    address = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", first))
    least, end = PORTS
    port = least + int(os.environ["SLURM_JOB_ID"]) % (end - least)  # of each job its own, as elements of an array have
    return {
        "NODE_RANK": os.environ["SLURM_NODEID"],
        "MASTER_ADDR": address[1] if address else first,
        "MASTER_PORT": str(port),
    }


def _scontrol(*words: str) -> str:
    told = subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)
    if told.returncode:
        raise RunError(f"scontrol {' '.join(words)}: {told.stderr.strip() or 'no reason given'}")
    return told.stdout


def _runs() -> bool:
    """Whether the job that this process belongs to runs on as Slurm sees it, and is neither cancelled nor at its end.

    A SIGTERM that finds it so announces that it will be pre-empted (`GraceTime`).
    """
    name = os.environ.get("SLURM_JOB_ID")
    if name is None or shutil.which("squeue") is None:
        return False
    command = ["squeue", "--noheader", f"--jobs={name}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() == ["RUNNING"]


def _written(handle: Any) -> int:
    modified: int = handle.paths.result_pickle.stat().st_mtime_ns
    return modified


def _why(handle: Any) -> str | None:
    """Why a job that has ended failed; None where it did not."""
    if not handle.paths.result_pickle.exists():
        return f"job {handle.job_id} ended without a result: left out, or lost; {handle.paths.stderr} may tell more"
    # each node of a job writes one; the first that failed knows why
    tasks = [handle.task(number) for number in range(handle.num_tasks)]
    ended = sorted((one for one in tasks if one.paths.result_pickle.exists()), key=_written)
    fault = next((fault for one in ended if (fault := one.exception()) is not None), None)
    if fault is None:
        return None
    text = str(fault)
    # submitit hands on the traceback as a text, between two lines of dashes
    ours = list(re.finditer(r"^robustnas\.errors\.\w+: ", text, re.MULTILINE))
    if ours:
        return text[ours[-1].end() :].partition("\n-----")[0].strip()
    last = text.strip().splitlines()[-1:] or [type(fault).__name__]
    return f"job {handle.job_id}: {last[0]}"
