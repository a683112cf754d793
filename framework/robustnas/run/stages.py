"""What each kind of stage does: reads the results it needs, computes, writes one result.

    search    -> result.json (genotype, alpha)        genotype.json, candidates.json (where candidates are judged)
    candidate -> result.json (what it gets right)     network.pt
    choose    -> result.json (genotype)               genotype.json
    train     -> result.json, network.pt
    clean     -> result.json (a prediction an image)
    probe     -> result.json (flags)
    certify   -> result.json (certified margin and radii an image)
    attack    -> result.json, columns.npz (what happened to each image), examples.npz (the first that were broken)
    supernet  -> result.json, supernet.pt
    score     -> result.json (what each ranked metric says of a network)
    smooth    -> result.json (class and certified radius of the smoothed classifier, an image)

Search and training are handed a dataset that refuses the test split; `robustnas.run.evaluation` and
`robustnas.run.certification` have the others.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from robustnas import train
from robustnas.contracts import SearchContext, estimation
from robustnas.errors import RobustnasError, RunError
from robustnas.plan import Kind
from robustnas.run import candidates, certification, evaluation, scores
from robustnas.run.estimates import Estimates
from robustnas.run.task import Task, TrainingOnly, finish
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.machine_faults import explain
from robustnas.runtime.strangers import described, last_line, unchanged

ERROR = "error.txt"
"""The file with the traceback of a stage that failed."""


def execute(task: Task) -> None:
    """Do the stage and write its result; a stage that is done is left alone.

    Raises:
        RobustnasError: the stage failed.  What a plugin raises in its own code becomes a RunError that says where;
            its traceback is kept in the stage's folder.
    """
    if task.folder.done:
        return
    try:
        with unchanged():
            DO[task.stage.kind](task)
        (task.folder.path / ERROR).unlink(missing_ok=True)  # of an attempt that failed
    except RobustnasError:
        raise
    except BaseException as fault:
        if interrupt.wanted(fault):
            raise
        explained = explain(fault, _takes_memory(task))
        if explained is not None:
            raise explained from fault
        kept = task.folder.path / ERROR
        task.folder.write_text(ERROR, "".join(traceback.format_exception(fault)))
        what = described(fault, whole=True, at=f"at {last_line(fault)}")
        raise RunError(f"{what}; the traceback is in {kept}") from fault


def _takes_memory(task: Task) -> Kind:
    """The kind whose sizes decide what this stage holds: a search that trains candidates is as large as they are."""
    if task.stage.kind == "search" and not task.method.searches:
        how = estimation(task.method.strategy)
        if how is not None and how.network == "trained":
            return "candidate"
    return task.stage.kind


def _search(task: Task) -> None:
    method, seed = task.method, task.search_seed
    estimates = Estimates(task, getattr(method.strategy, "candidates", None))
    context = SearchContext(
        dataset=TrainingOnly(task.plan.dataset),
        space=method.space,
        metrics=method.metrics,
        threat=method.threat,
        settings=method.search,
        seed=seed,
        generator=seeding.generator(seed, "search", "strategy"),
        estimate=estimates,
        report=task.report,
        folder=task.folder,
        device=task.device,
        processes=task.processes,
    )
    with seeding.seeded(seed, "search", "global"):
        found = method.strategy.search(context)
    judged = {"search_seconds": estimates.seconds, "candidates": estimates.candidates} if estimates.kept else {}
    result: dict[str, Any] = {"notes": [], "search_seconds": 0.0, **judged, **found}
    task.folder.write_json_rows("genotype.json", result["genotype"])
    finish(task, result)
    estimates.clear()


def _train(task: Task) -> None:
    method = task.method
    result = train.run(
        train.TrainTask(
            dataset=TrainingOnly(task.plan.dataset),
            space=method.space,
            genotype=task.genotype(),
            threat=method.threat,
            settings=method.train,
            seed=task.stage.seed.train,
        ),
        task.folder,
        task.device,
        task.report,
        task.processes,
    )
    finish(task, result)


DO: dict[str, Callable[[Task], None]] = {
    "search": _search,
    "candidate": candidates.candidate,
    "choose": candidates.choose,
    "train": _train,
    "clean": evaluation.clean,
    "probe": evaluation.probe,
    "certify": certification.certificates,
    "attack": evaluation.attacked,
    "smooth": certification.smoothed,
    "supernet": scores.supernet,
    "score": scores.scored,
}
