"""What a scheduler is asked for by what is left of a plan: jobs, GPU hours at most, and the longest chain of hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from attrs import frozen
from rich.console import Console

from robustnas.plan import Plan, Stage
from robustnas.recipe.schema import Needs
from robustnas.run.directory import RunDirectory
from robustnas.run.handed import resources
from robustnas.runtime import terminal


@frozen
class Cost:
    """What jobs ask for together.

    Args:
        jobs: how many of each kind.
        gpu_hours, cpu_hours: if every job took all the time that it asks for.
        chain: hours of the longest chain of jobs, each of which waits for the one before: no cluster is quicker, if so.
        links: kinds of the jobs of that chain.
        unsaid: kinds of stages for which the recipe asks for no hours; they count for nothing above.
    """

    jobs: Mapping[str, int]
    gpu_hours: float
    cpu_hours: float
    chain: float
    links: tuple[str, ...]
    unsaid: tuple[str, ...]


def asked(plan: Plan, directory: RunDirectory, needs: Mapping[str, Needs], device: str) -> Cost:
    """Add up what the stages that are left ask for.

    Args:
        needs: section `resources` of the recipe.
        device: as `--device` has it.

    Raises:
        InputError: no scheduler can be asked for that device.
    """
    stages = plan.until(None)
    done = directory.all_done(stages)
    left = [stage for stage in stages if stage.key not in done]
    jobs: Counter[str] = Counter(stage.kind for stage in left)
    asks = {kind: resources(needs, kind, device) for kind in jobs}
    ends: dict[str, tuple[float, int]] = {}  # hours until a stage has ended, and how many are in a row until then
    before: dict[str, Stage | None] = {}
    by_key = {stage.key: stage for stage in left}
    for stage in left:
        waits = [key for key in (*stage.needs, *stage.after) if key in ends]
        longest = max(waits, key=ends.__getitem__, default="")
        until, length = ends.get(longest, (0.0, 0))
        ends[stage.key] = until + (asks[stage.kind].hours or 0.0), length + 1
        before[stage.key] = by_key.get(longest)
    last = max(left, key=lambda stage: ends[stage.key], default=None)
    chain = 0.0 if last is None else ends[last.key][0]
    links: list[str] = []
    while last is not None:
        links.append(last.kind)
        last = before[last.key]
    hours = {kind: one.nodes * (one.hours or 0.0) for kind, one in asks.items()}  # of all machines of a job
    return Cost(
        jobs=dict(jobs),
        gpu_hours=sum(count * asks[kind].gpus * hours[kind] for kind, count in jobs.items()),
        cpu_hours=sum(count * asks[kind].cpus * hours[kind] for kind, count in jobs.items()),
        chain=chain,
        links=tuple(reversed(links)),
        unsaid=tuple(kind for kind in jobs if asks[kind].hours is None),
    )


def show(cost: Cost, console: Console) -> None:
    """Print it."""
    of_kinds = ", ".join(f"{count:,} {kind}" for kind, count in cost.jobs.items())
    terminal.say(console, f"\njobs of a scheduler: {sum(cost.jobs.values()):,} ({of_kinds or 'nothing is left'})")
    if cost.gpu_hours or cost.cpu_hours:
        terminal.say(
            console, f"GPU hours at most: {cost.gpu_hours:,.0f}; CPU hours at most: {cost.cpu_hours:,.0f}", wrap=True
        )
        terminal.say(console, f"critical path: {cost.chain:g} h ({' -> '.join(cost.links)})", wrap=True)
    if cost.unsaid:
        some = ", ".join(cost.unsaid)
        text = f"no hours are asked for, so none are counted, for {some}: resources: {{{cost.unsaid[0]}: {{hours: 2}}}}"
        terminal.say(console, f"{text} would do", wrap=True)
