"""What each kind of stage does: reads the results it needs, computes, writes one result.

    search    -> result.json (genotype, alpha)        genotype.json
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

from robustnas import search, train
from robustnas.errors import RobustnasError, RunError
from robustnas.run import candidates, certification, evaluation, scores
from robustnas.run.task import Task, TrainingOnly, finish
from robustnas.runtime import interrupt
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
    except RobustnasError:
        raise
    except BaseException as fault:
        if interrupt.wanted(fault):
            raise
        explained = explain(fault, task.stage.kind)
        if explained is not None:
            raise explained from fault
        kept = task.folder.path / ERROR
        task.folder.write_text(ERROR, "".join(traceback.format_exception(fault)))
        what = described(fault, whole=True, at=f"at {last_line(fault)}")
        raise RunError(f"{what}; the traceback is in {kept}") from fault


def _search(task: Task) -> None:
    method = task.method
    if method.searches:
        todo = search.SearchTask(
            dataset=TrainingOnly(task.plan.dataset),
            space=method.space,
            metrics=method.metrics,
            threat=method.threat,
            settings=method.search,
            seed=task.search_seed,
        )
        result = search.run(todo, task.folder, task.device, task.report, task.processes)
    else:
        genotype = search.drawn(method.space, task.plan.dataset, task.search_seed)
        result = {"genotype": genotype, "search_seconds": 0.0, "notes": []}
    task.folder.write_json_rows("genotype.json", result["genotype"])
    finish(task, result)


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
