"""Ray: each stage a task with its resources, handed the outcomes of those that it waits for.

A task whose worker is lost (a machine that went, a process that was killed) is begun again by Ray; it goes on from the
stage's checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from attrs import frozen

from robustnas.contracts import Resources, Work
from robustnas.errors import InputError, RobustnasError
from robustnas.options import option
from robustnas.runtime.strangers import text_of

GIB = 1 << 30

Outcome = tuple[bool, str]
"""Whether a stage is done, and if it is not, why."""

STOP_SECONDS = 600.0
"""How long tasks that were asked to stop may take to save."""


@frozen
class Ray:
    """Tasks of a Ray cluster (`pip install 'robustnas[ray]'`), or of this machine where there is none.

    The run directory has to be on a file system that the nodes share, and robustnas installed on all of them.
    """

    address: str | None = option(None, "of the cluster, such as auto; default RAY_ADDRESS, and without it this machine")
    retries: int = option(100, "how often a task is begun again whose worker was lost", at_least=0)
    poll: float = option(1.0, "seconds between two looks whether the run was asked to stop")

    def check(self, resources: Sequence[Resources]) -> None:
        if find_spec("ray") is None:
            raise InputError(
                "executor ray needs the package ray, which is not installed: pip install 'robustnas[ray]', or "
                "--executor local, would do"
            )
        import ray

        self._join()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for one in resources:
            asked = {"CPU": one.cpus, "GPU": one.gpus, "memory": (one.memory or 0) * GIB}
            if not any(all(node.get(name, 0) >= count for name, count in asked.items()) for node in nodes):
                most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
                raise InputError(
                    f"executor ray: no node has {one.cpus} CPUs, {one.gpus} GPUs and {one.memory or 0:g} GiB for one "
                    f"task; there are up to {most['CPU']:g} CPUs, {most['GPU']:g} GPUs and "
                    f"{most['memory'] / GIB:.0f} GiB: less in section resources of the recipe would do"
                )

    def run(self, work: Work) -> None:
        import ray

        self._join()
        task = ray.remote(_do)
        of: dict[str, Any] = {}
        for job in work.jobs:
            asked = job.resources
            sized = task.options(
                name=job.title,
                num_cpus=asked.cpus,
                num_gpus=asked.gpus,
                memory=None if asked.memory is None else round(asked.memory * GIB),
                max_retries=self.retries,
            )
            of[job.name] = sized.remote(job.call, len(job.needs), *(of[name] for name in (*job.needs, *job.after)))
        names = {reference: name for name, reference in of.items()}
        left = list(of.values())
        while left:
            ended, left = ray.wait(left, num_returns=1, timeout=self.poll)
            for reference in ended:
                work.ended(names[reference], _why(reference))
            if work.asked():
                self._stop(left)
                return

    def _stop(self, left: Sequence[Any]) -> None:
        """Ask tasks to save, and wait until they have; those that wait do not begin."""
        import ray

        for reference in left:
            ray.cancel(reference, recursive=False)  # a KeyboardInterrupt, which a stage notes and honours
        ray.wait(list(left), num_returns=len(left), timeout=STOP_SECONDS)

    def _join(self) -> None:
        """Join the cluster, if this process has not."""
        import ray

        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False, configure_logging=False)


def _do(call: Callable[[], None], needs: int, *outcomes: Outcome) -> Outcome:
    """What a task does: the stage, unless one that it needs is not done.

    Args:
        needs: how many of the outcomes are of stages that must have succeeded.
    """
    if not all(done for done, _ in outcomes[:needs]):
        return False, "left out: what it needs is not done"
    try:
        call()
    except RobustnasError as fault:
        return False, text_of(fault)
    return True, ""


def _why(reference: Any) -> str | None:
    """Why a task that has ended failed; None where it did not."""
    import ray

    try:
        done, why = ray.get(reference)
    except ray.exceptions.RayError as fault:
        return f"Ray: {str(fault).strip().splitlines()[0]}"
    return None if done else why
