"""What a large comparison costs a cluster: makespan, lost work and load on the file system, simulated (simpy).

    python tests/benchmarks/cluster_simulation.py                     30 methods, 10 x 3 seeds, 3 datasets; two minutes
    python tests/benchmarks/cluster_simulation.py --workers 1000 --hours-between-failures 24

Real: the plans (stages, what each waits for, which array of Slurm it is in), and the files and opens of a stage, which
are counted while a tiny recipe's jobs are done here.  Assumed: seconds an epoch and a stage (`--seconds`), how often a
worker is lost, and how long it takes until a scheduler has noticed.  A worker is one GPU.  A search and a training go
on from their last epoch, an evaluation from 20 seconds ago, as the product's do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import simpy
import torch
from attrs import Factory, define, evolve, frozen
from rich.console import Console
from rich.table import Table

from robustnas.cli import main as robustnas
from robustnas.contracts import Job
from robustnas.plan import Plan, Stage, arranged
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import load
from robustnas.run.directory import RunDirectory
from robustnas.run.handed import Handed
from robustnas.run.presence import BEAT, Presence
from robustnas.run.progress import Progress
from robustnas.run.remaining import amount
from robustnas.run.shards import Shard, part
from robustnas.runtime.progress_files import SECONDS as EVALUATION_SAVES
from robustnas.table import results
from robustnas.table.finished import RESTS
from robustnas_plugins.executors.slurm import arrays

DATASETS = ("cifar10", "cifar100", "svhn")

RECIPE = """\
dataset: {dataset}
search_space: {{name: darts, cells: 8, channels: 16, network_cells: 20, network_channels: 36}}
threat: {{norm: linf, epsilon: 8/255}}
seeds: {{search: {searches}, train: {trainings}}}
search: {{epochs: 50}}
train: {{epochs: 600}}
attacks: [fgsm, {{name: pgd, steps: 20, step_size: 2/255}}, autoattack]
methods:
"""

METHOD = "  m{number}: {{metric: {metric}, search: {{alpha_lr: {alpha_lr}}}}}\n"

METRICS = ("jacobian", "random-noise", "certified-bound")

SECONDS = {
    "search": 54.0,
    "train": 40.0,
    "clean": 10.0,
    "probe": 60.0,
    "certify": 300.0,
    "attack fgsm": 10.0,
    "attack pgd-20": 120.0,
    "attack autoattack": 1800.0,
}
"""Assumed: an epoch of a search (the target of docs/gpu.md, 50 in 45 minutes) and of a training, and whole stages."""

BEGINS = 30.0
"""Seconds until a process has imported and read what it needs, before its stage goes on."""

NOTICED = 120.0
"""Seconds until a scheduler has noticed that a worker is lost, and put its job back."""

DOWN = 600.0
"""Seconds until there is another worker in its place."""

TINY = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.02}
seeds: [0]
search: {epochs: %d}
train: {epochs: %d, auxiliary: 0, drop_path: 0}
attacks: [fgsm, {name: pgd, steps: 3, step_size: 0.01}]
evaluate: {images: 40}
certify: {images: 10}
resources: {every: {cpus: 1}}
methods:
  jac: {metric: {name: jacobian, rows: 1}}
"""

FEW, MANY = 1, 4
"""Epochs of the two tiny recipes, whose difference an epoch costs."""

PEERS = 40
"""Other processes that are shown to one that begins and ends, to see what each costs it."""

AGAIN = 60
"""How often that is looked at: which of many reads what all tell is drawn."""

TOUCHES = ("open", "os.listdir", "os.scandir", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
"""Events of Python's audit for which a file server is asked."""


@frozen
class Footprint:
    """What a stage, done by a process of its own, asks of the file system.

    Args:
        opens: of files, from the process's beginning to its end, but for its epochs.
        requests: what else changes or lists names.
        an_epoch: opens for each epoch.
        files: that stay in the stage's folder.
        others: opens to see who else is at work, where there are many.
    """

    opens: float
    requests: float
    an_epoch: float
    files: int
    others: float


@define
class Touched:
    """Counts what this process asks of the file system below a folder, by event of Python's audit."""

    folder: str
    on: bool = False
    counts: Counter[str] = Factory(Counter)

    def __attrs_post_init__(self) -> None:
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in TOUCHES and arguments and str(arguments[0]).startswith(self.folder):
            self.counts[event] += 1

    def during(self, do: Callable[[], object]) -> Counter[str]:
        self.counts, self.on = Counter(), True
        do()
        self.on = False
        return self.counts


def jobs_of(recipe: Path, folder: Path, device: str) -> tuple[Plan, list[Job]]:
    """The plan of a recipe, and its jobs as an executor is handed them."""
    loaded, faults = load(recipe), Faults()
    plan = arranged(loaded, faults)
    faults.raise_all()
    stages = plan.until(None)
    # a recipe's stages may be shared by several rows: each is one job
    left = {stage.key: stage for stage in stages}
    directory = RunDirectory(folder, holder="simulated")
    handed = Handed(
        plan,
        stages,
        directory,
        device,
        [torch.device("cpu")],
        loaded.recipe.resources,
        Progress(quiet=True),
        left=left,
    )
    # without the job that looks at a machine before all others
    jobs = [job for job in handed.jobs if job.name in left]
    return plan, [evolve(job, needs=tuple(name for name in job.needs if name in left)) for job in jobs]


def what_it_is(stage: Stage) -> str:
    """The kind of a stage, of an attack with its label."""
    return f"attack {stage.column.label}" if stage.column is not None else str(stage.kind)


def counted(place: Path, epochs: int) -> dict[str, tuple[Counter[str], int]]:
    """Do a tiny recipe's jobs here: what each kind touched, and how many files it left."""
    recipe, run = place / f"tiny{epochs}.yaml", place / f"run{epochs}"
    recipe.write_text(TINY % (epochs, epochs))
    # the command itself writes what all jobs read
    assert robustnas(["run", str(recipe), "--out", str(run), "--device", "cpu", "--quiet", "--until", "search"]) == 0
    for search in (run / "search").iterdir():
        for file in search.iterdir():
            file.unlink()
        search.rmdir()
    touched = Touched(str(run))
    plan, jobs = jobs_of(recipe, run, "cpu")
    found = {}
    for job in jobs:
        counts = touched.during(job.call)
        stage = plan.by_key[job.name]
        kind = "attack" if stage.kind == "attack" else what_it_is(stage)
        found[kind] = counts, sum(1 for _ in RunDirectory(run).folder(stage).path.iterdir())
    return found


def of_peers(place: Path) -> float:
    """Opens of a process that begins and ends among many others, beyond those of one alone."""
    folder = place / "peers"
    touched = Touched(str(folder))

    def once() -> None:
        from robustnas.run.leases import Leases

        with Leases.of(Presence(folder, quiet=True)).begun():
            pass

    with Presence(folder, quiet=True):
        alone = sum(touched.during(once)["open"] for _ in range(AGAIN)) / AGAIN
        for number in range(PEERS):
            name = f"x-{number}"
            told = {"machine": f"n{number}", "kernel": "k", "process": 1, "recipe": "", "job": {}, "beat": 1}
            (folder / ".work" / f"{name}.json").write_text(json.dumps(told))
            (folder / ".work" / f"k{number}.lease").write_text(name)
        crowded = sum(touched.during(once)["open"] for _ in range(AGAIN)) / AGAIN
    return crowded - alone


def measured() -> tuple[dict[str, Footprint], float]:
    """Count what the stages of tiny recipes ask of the file system, and the files that a table reads for each."""
    with tempfile.TemporaryDirectory() as name:
        few, many = counted(Path(name), FEW), counted(Path(name), MANY)
        peer = of_peers(Path(name))
        run = Path(name) / f"run{FEW}"
        reads = Touched(str(run)).during(lambda: results.comparison(RunDirectory(run)))["open"]
        stages = sum(1 for _ in run.glob("*/*/result.json"))
    found = {}
    for kind, (counts, files) in few.items():
        epochs = FEW if kind in ("search", "train") else 0
        an_epoch = (many[kind][0]["open"] - counts["open"]) / (MANY - FEW) if epochs else 0.0
        others = sum(count for event, count in counts.items() if event != "open")
        found[kind] = Footprint(counts["open"] - epochs * an_epoch, others, an_epoch, files, peer)
    return found, reads / stages


@define
class Load:
    """Opens a minute, and what else is asked for, over a simulated run."""

    opens: dict[int, float] = Factory(lambda: defaultdict(float))
    requests: float = 0.0

    def add(self, at: float, opens: float) -> None:
        self.opens[int(at // 60)] += opens

    def spread(self, begin: float, end: float, opens_a_second: float) -> None:
        for minute in range(int(begin // 60), int(end // 60) + 1):
            self.opens[minute] += opens_a_second * max(0.0, min(end, 60.0 * minute + 60) - max(begin, 60.0 * minute))


@frozen
class Cluster:
    """What is assumed of a cluster.

    Args:
        workers: GPUs.
        between: seconds between two failures of one worker, on the average; None: none fails.
        saves: whether stages go on from checkpoints; False: from their beginnings.
    """

    workers: int
    between: float | None
    saves: bool = True


@define
class Outcome:
    """What came of a simulated run; times in seconds."""

    makespan: float = 0.0
    lost: float = 0.0
    failures: int = 0
    load: Load = Factory(Load)


@define(eq=False)
class Simulation:
    """One way of having all stages done, in simulated time.

    Args:
        amounts: epochs of each stage, by its job.
        seconds: of an epoch, or of a stage that has none, by what it is.
        kinds: what each stage is.
    """

    jobs: Sequence[Job]
    amounts: Mapping[str, int]
    kinds: Mapping[str, str]
    seconds: Mapping[str, float]
    footprints: Mapping[str, Footprint]
    cluster: Cluster
    draw: random.Random = Factory(lambda: random.Random(0))
    world: simpy.Environment = Factory(simpy.Environment)
    outcome: Outcome = Factory(Outcome)

    def _epochs(self, job: Job) -> tuple[int, float]:
        """How many parts a stage has that are kept once done, and the seconds of one."""
        a_part = self.seconds[self.kinds[job.name]]
        if job.kind in ("search", "train"):
            return self.amounts[job.name], a_part
        parts = max(1, round(a_part / EVALUATION_SAVES))
        return parts, a_part / parts

    def attempt(self, job: Job, done: int, *, begins: bool = True) -> Iterator[Any]:
        """Do a stage until it is done or the worker is lost; returns how many of its parts are done."""
        parts, a_part = self._epochs(job)
        needed = (BEGINS if begins else 0.0) + (parts - done) * a_part
        survives = self.draw.expovariate(1 / self.cluster.between) if self.cluster.between else float("inf")
        foot, began, load = self.footprints[job.kind], self.world.now, self.outcome.load
        load.add(began, foot.opens / 2)
        load.requests += foot.requests
        yield self.world.timeout(min(needed, survives))
        now = self.world.now
        if job.kind in ("search", "train"):
            load.spread(began, now, foot.an_epoch / a_part)
        elif parts > 1:
            load.spread(began, now, self.footprints["train"].an_epoch / EVALUATION_SAVES)
        load.spread(began, now, 1 / BEAT)
        if survives >= needed:
            load.add(now, foot.opens / 2 + foot.others)
            return parts
        worked = max(0.0, survives - (BEGINS if begins else 0.0))
        kept = int(worked // a_part) if self.cluster.saves else 0
        self.outcome.failures += 1
        self.outcome.lost += survives - kept * a_part
        return (done if self.cluster.saves else 0) + kept

    def lost_worker(self) -> Iterator[Any]:
        yield self.world.timeout(DOWN)

    def done(self) -> Outcome:
        self.outcome.makespan = self.world.now
        return self.outcome


@define(eq=False)
class Queued(Simulation):
    """A scheduler: each job takes a worker when what it waits for has ended, the earliest submitted first.

    Args:
        waits: names of the jobs that each waits for.
    """

    waits: Mapping[str, Sequence[str]] = Factory(dict)
    _left: dict[str, set[str]] = Factory(dict)
    _ready: dict[str, simpy.Event] = Factory(dict)
    _followers: defaultdict[str, list[str]] = Factory(lambda: defaultdict(list))

    def run(self) -> Outcome:
        workers = simpy.PriorityResource(self.world, self.cluster.workers)
        self._left = {name: set(others) for name, others in self.waits.items()}
        self._ready = {job.name: self.world.event() for job in self.jobs}
        for name, others in self.waits.items():
            for other in others:
                self._followers[other].append(name)
        for place, job in enumerate(self.jobs):
            if not self._left[job.name]:
                self._ready[job.name].succeed()
            self.world.process(self._job(job, place, workers))
        self.world.run()
        return self.done()

    def _job(self, job: Job, place: int, workers: simpy.PriorityResource) -> Iterator[Any]:
        yield self._ready[job.name]
        parts, done = self._epochs(job)[0], 0
        while done < parts:
            asked = workers.request(priority=place)
            yield asked
            done = yield from self.attempt(job, done)
            if done >= parts:
                workers.release(asked)
            else:
                self.world.process(self._replaced(workers, asked))
                yield self.world.timeout(NOTICED)
        for name in self._followers[job.name]:
            self._left[name].discard(job.name)
            if not self._left[name]:
                self._ready[name].succeed()

    def _replaced(self, workers: simpy.PriorityResource, asked: Any) -> Iterator[Any]:
        yield from self.lost_worker()
        workers.release(asked)


@define(eq=False)
class Shards(Simulation):
    """An array of plain commands: each does its part in the plan's order, one after the other."""

    parts: Sequence[Sequence[Job]] = ()

    def run(self) -> Outcome:
        for some in self.parts:
            self.world.process(self._shard(some))
        self.world.run()
        return self.done()

    def _shard(self, jobs: Sequence[Job]) -> Iterator[Any]:
        begins = True
        for job in jobs:
            parts, done = self._epochs(job)[0], 0
            while done < parts:
                done = yield from self.attempt(job, done, begins=begins)
                begins = done < parts
                if begins:
                    yield from self.lost_worker()


def element_by_element(jobs: Sequence[Job]) -> dict[str, Sequence[str]]:
    """What each job waits for where a scheduler knows the graph, as Ray does."""
    return {job.name: (*job.needs, *job.after) for job in jobs}


def array_by_array(jobs: Sequence[Job]) -> dict[str, Sequence[str]]:
    """What each job waits for in Slurm's arrays: another element, or a whole array."""
    waits: dict[str, Sequence[str]] = {}
    members_of = {}
    for members, depends in arrays(jobs, 1000):
        members_of[members[0].name] = members
        for index, job in enumerate(members):
            waits[job.name] = [
                name
                for one in depends
                for name in (
                    [members_of[one.first][index].name]
                    if one.kind == "aftercorr"
                    else [other.name for other in members_of[one.first]]
                )
            ]
    return waits


def chain(jobs: Sequence[Job], took: Mapping[str, float]) -> float:
    """Seconds of the longest chain of jobs."""
    ends: dict[str, float] = {}
    for job in jobs:
        ends[job.name] = took[job.name] + max((ends[name] for name in (*job.needs, *job.after)), default=0.0)
    return max(ends.values())


def planned(asked: argparse.Namespace, place: Path) -> Iterator[tuple[Plan, list[Job], float, int]]:
    """Plan a recipe for each dataset; yields the plan, its jobs, seconds of planning and bytes of the packed plan."""
    head = {"searches": list(range(asked.searches)), "trainings": list(range(asked.trainings))}
    for dataset in DATASETS[: asked.datasets]:
        file = place / f"{dataset}.yaml"
        methods = [
            METHOD.format(number=number, metric=METRICS[number % len(METRICS)], alpha_lr=(number + 1) / 1e4)
            for number in range(asked.methods)
        ]
        file.write_text(RECIPE.format(dataset=dataset, **head) + "".join(methods))
        began = time.process_time()
        plan, jobs = jobs_of(file, place / dataset, "cuda")
        (packed,) = (place / dataset / "cluster").glob("plan-*")
        yield plan, jobs, time.process_time() - began, packed.stat().st_size


def all_of(asked: argparse.Namespace, place: Path) -> tuple[dict[str, Any], list[list[Job]]]:
    """What all simulations share, and the parts of `--shard`; jobs of all datasets, row by row in turn."""
    jobs: list[Job] = []
    amounts: dict[str, int] = {}
    kinds: dict[str, str] = {}
    shards: list[list[Job]] = []
    each = asked.workers // asked.datasets
    for number, (plan, some, seconds, size) in enumerate(planned(asked, place)):
        named = {job.name: evolve(job, name=f"{number} {job.name}", call=print) for job in some}
        renamed = [
            evolve(
                job,
                needs=tuple(named[name].name for name in job.needs),
                after=tuple(named[name].name for name in job.after),
            )
            for job in named.values()
        ]
        jobs += renamed
        for key, job in zip(named, renamed, strict=True):
            amounts[job.name], kinds[job.name] = amount(plan, plan.by_key[key]), what_it_is(plan.by_key[key])
        by_key = dict(zip(named, renamed, strict=True))
        stages = plan.until(None)
        shards += [[by_key[stage.key] for stage in part(plan, stages, Shard(one + 1, each))] for one in range(each)]
        print(f"{len(some):,} stages planned in {seconds:.1f} s of a core; the packed plan has {size / 1e6:.1f} MB")
    return {"jobs": jobs, "amounts": amounts, "kinds": kinds}, shards


def number(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    return name, float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=30)
    parser.add_argument("--searches", type=int, default=10, help="search seeds")
    parser.add_argument("--trainings", type=int, default=3, help="training seeds of each")
    parser.add_argument("--datasets", type=int, default=3, choices=range(1, len(DATASETS) + 1))
    parser.add_argument("--workers", type=int, default=96, help="GPUs")
    parser.add_argument(
        "--hours-between-failures", type=float, nargs="+", default=[100.0, 10.0], metavar="H", help="of one worker"
    )
    parser.add_argument(
        "--seconds", type=number, nargs="*", default=[], metavar="WHAT=S", help=f"of {', '.join(SECONDS)}"
    )
    asked = parser.parse_args()
    seconds = SECONDS | dict(asked.seconds)
    unknown = seconds.keys() - SECONDS.keys()
    if unknown:
        parser.error(f"found --seconds of {', '.join(sorted(unknown))}; {', '.join(SECONDS)} would do")
    console = Console(width=120)
    footprints, a_table = measured()
    counts = Table("a stage by a process of its own", "opens", "other requests", "opens an epoch", "files kept")
    for kind, foot in footprints.items():
        counts.add_row(kind, f"{foot.opens:.0f}", f"{foot.requests:.0f}", f"{foot.an_epoch:.1f}", str(foot.files))
    console.print(counts)
    console.print(
        f"and {footprints['train'].others:.0f} opens to see who else is at work, of {PEERS}; the command's table reads "
        f"{a_table:.1f} files a stage that is done, in at most a {1 + RESTS}th of the time"
    )
    with tempfile.TemporaryDirectory() as name:
        given, shards = all_of(asked, Path(name))
    given |= {"seconds": seconds, "footprints": footprints}
    one_by_one = element_by_element(given["jobs"])
    by_array = array_by_array(given["jobs"])
    ways: dict[str, Simulation] = {
        "never: job by job": Queued(**given, cluster=Cluster(asked.workers, None), waits=one_by_one)
    }
    for hours in asked.hours_between_failures:
        cluster, each = Cluster(asked.workers, 3600 * hours), f"every {hours:g} h: "
        ways |= {
            f"{each}job by job (ray)": Queued(**given, cluster=cluster, waits=one_by_one),
            f"{each}arrays (slurm)": Queued(**given, cluster=cluster, waits=by_array),
            f"{each}plain commands (--shard)": Shards(**given, cluster=cluster, parts=shards),
            f"{each}no checkpoints": Queued(**given, cluster=evolve(cluster, saves=False), waits=one_by_one),
        }
    took = {
        job.name: seconds[given["kinds"][job.name]]
        * (given["amounts"][job.name] if job.kind in ("search", "train") else 1)
        for job in given["jobs"]
    }
    work = sum(took.values())
    console.print(
        f"{len(took):,} stages, {work / 3600:,.0f} GPU hours, on {asked.workers} GPUs at best "
        f"{max(work / asked.workers, chain(given['jobs'], took)) / 3600:.1f} h; longest chain "
        f"{chain(given['jobs'], took) / 3600:.1f} h; files kept: "
        f"{sum(footprints[job.kind].files for job in given['jobs']):,}"
    )
    table = Table("a worker is lost", "hours", "lost", "GPU h lost", "%", "opens", "a minute", "at most")
    for name, way in ways.items():
        found = way.run()
        opens = found.load.opens
        table.add_row(
            name,
            f"{found.makespan / 3600:.1f}",
            f"{found.failures:,}",
            f"{found.lost / 3600:,.0f}",
            f"{100 * found.lost / work:.2f}",
            f"{sum(opens.values()) / 1e6:.2f} M",
            f"{60 * sum(opens.values()) / found.makespan:,.0f}",
            f"{max(opens.values()):,.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
