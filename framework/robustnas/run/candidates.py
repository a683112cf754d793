"""The stages that choose among several genotypes: each candidate is trained and judged, and the best is kept.

    search 1 -> candidate 1 \\
    search 2 -> candidate 2  > choose -> train
    search 3 -> candidate 3 /

A candidate is judged on training images held out, the same for all candidates of a seed; no test image has a say.
"""

from __future__ import annotations

from typing import Any

from robustnas import train
from robustnas.errors import RunDirectoryError
from robustnas.run.asked import genotype_in
from robustnas.run.judging import Judge
from robustnas.run.task import Task, TrainingOnly, finish
from robustnas.runtime.artifacts import damaged
from robustnas.runtime.processes import ALONE
from robustnas.train.settings import Train


def candidate(task: Task) -> None:
    """Train a candidate without the images that judge it, and count how many of these it gets right."""
    method, settings = task.method, task.method.of_candidates
    search = task.plan.by_key[task.stage.needs[0]]
    todo = train.TrainTask(
        dataset=TrainingOnly(task.plan.dataset),
        space=method.space,
        genotype=genotype_in(task.directory.folder(search)),
        threat=method.threat,
        settings=settings,
        seed=task.stage.seed.of_candidates,
    )
    result = train.run(todo, task.folder, task.device, task.report, task.processes)
    task.processes.broadcast(None)  # the first process writes the network that all of them read
    finish(task, {**result, **_judged(task, todo, settings)})


def _judged(task: Task, todo: train.TrainTask, settings: Train) -> dict[str, Any]:
    """Count the images held out that the trained candidate gets right, clean and under PGD."""
    images = todo.dataset.split("train")
    _, held_out = train.divided(images.labels, settings, todo.seed, ALONE)
    network = train.load(task.folder, todo.space, todo.genotype, todo.dataset, settings).to(task.device)
    return {"judged": Judge(images, held_out, settings.batch, todo.threat, todo.seed, task.device).right(network)}


def choose(task: Task) -> None:
    """Keep the best of the candidates.

    Raises:
        RunDirectoryError: the result of a candidate is damaged.
    """
    candidates, seconds = [], 0.0
    for stage in (task.plan.by_key[key] for key in task.stage.needs):
        folder = task.directory.folder(stage)
        result = folder.result()
        seconds += float(result["search_seconds" if stage.kind == "search" else "train_seconds"])
        if stage.kind == "candidate":
            judged = result.get("judged", result.get("held_out"))  # as older versions called it
            if not isinstance(judged, dict) or not {"clean", "robust"} <= judged.keys():
                raise RunDirectoryError(damaged(folder.result_file, "it does not say what the candidate gets right"))
            candidates.append({**judged, "parameters": result["parameters"], "genotype": genotype_in(folder)})
    chosen = max(range(len(candidates)), key=lambda n: (candidates[n]["robust"], candidates[n]["clean"], -n))
    genotype = candidates[chosen]["genotype"]
    task.folder.write_json_rows("genotype.json", genotype)
    finish(
        task,
        {"genotype": genotype, "chosen": chosen + 1, "candidates": candidates, "search_seconds": seconds, "notes": []},
    )
