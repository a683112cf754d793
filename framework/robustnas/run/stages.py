"""What each kind of stage does: reads the results it needs, computes, writes one result.

    search    -> result.json (genotype, alpha)        genotype.json
    train     -> result.json, network.pt
    clean     -> result.json (a prediction an image)
    attack    -> result.json (success, prediction and distance an image)
    certify   -> result.json (certified margin and radii an image)

The test split is read by the last three only: the others are handed a dataset that refuses it.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from robustnas import attack, certify, interrupt, memory, search, seeding, train
from robustnas.artifacts import StageFolder, damaged, write_text
from robustnas.contracts import Dataset, Genotype, Images, Shape
from robustnas.errors import RobustnasError, RunDirectoryError, RunError
from robustnas.images import First
from robustnas.normalize import PixelNetwork
from robustnas.plan import MethodPlan, Plan, Stage
from robustnas.report import Report
from robustnas.run.directory import RunDirectory
from robustnas.threat import NORMS
from robustnas.world import ALONE, World


@frozen
class TrainingOnly:
    """A dataset whose test split cannot be reached: what search and training are given."""

    dataset: Dataset

    @property
    def shape(self) -> Shape:
        return self.dataset.shape

    @property
    def classes(self) -> int:
        return self.dataset.classes

    @property
    def mean(self) -> tuple[float, ...]:
        return self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.dataset.std

    def split(self, name: str) -> Images:
        """The training split; any other is a fault of the caller.

        Raises:
            RunError: search or training asked for something else.
        """
        if name != "train":
            raise RunError(f"search and training asked for the {name!r} split; only evaluation may see it")
        return self.dataset.split(name)


@frozen
class Task:
    """One stage with everything it needs at hand."""

    plan: Plan
    stage: Stage
    directory: RunDirectory
    device: torch.device
    report: Report
    world: World = ALONE

    @property
    def method(self) -> MethodPlan:
        return self.plan.methods[self.stage.method]

    @property
    def folder(self) -> StageFolder:
        """The stage's folder; only the first process writes to it."""
        return attrs.evolve(self.directory.folder(self.stage), writes=self.world.first)

    def genotype(self) -> Genotype:
        """The genotype of this method and seed: fixed by the recipe, or found by its search."""
        if self.method.genotype is not None:
            return self.method.genotype
        return genotype_of(self.directory, self.plan, self.stage.method, self.stage.seed)


def genotype_of(directory: RunDirectory, plan: Plan, method: str, seed: int) -> Genotype:
    """What a finished search found.

    Raises:
        RunDirectoryError: its result holds no genotype.
    """
    stage = plan.stage("search", method, seed)
    assert stage is not None
    folder = directory.folder(stage)
    genotype = folder.result().get("genotype")
    if not isinstance(genotype, dict):
        raise RunDirectoryError(damaged(folder.result_file, "it holds no genotype"))
    return genotype


def execute(task: Task) -> None:
    """Do the stage and write its result; a stage that is done is left alone.

    Raises:
        RobustnasError: the stage failed.  What a plugin raises in its own code becomes a RunError that says where;
            its traceback is kept in the stage's folder.
    """
    if task.folder.done:
        return
    try:
        DO[task.stage.kind](task)
    except RobustnasError:
        raise
    except Exception as fault:
        explained = memory.explain(fault, task.stage.kind)
        if explained is not None:
            raise explained from fault
        last = traceback.extract_tb(fault.__traceback__)[-1]
        kept = task.folder.path / "error.txt"
        write_text(kept, "".join(traceback.format_exception(fault)))
        raise RunError(
            f"{type(fault).__name__}: {fault} (at {last.filename}:{last.lineno}); the traceback is in {kept}"
        ) from fault


def _search(task: Task) -> None:
    method = task.method
    result = search.run(
        search.SearchTask(
            dataset=TrainingOnly(task.plan.dataset),
            space=method.space,
            metrics=method.metrics,
            threat=method.threat,
            settings=method.search,
            seed=task.stage.seed,
        ),
        task.folder,
        task.device,
        task.report,
        task.world,
    )
    task.folder.write_json("genotype.json", result["genotype"])
    _finish(task, result)


def _train(task: Task) -> None:
    method = task.method
    result = train.run(
        train.TrainTask(
            dataset=TrainingOnly(task.plan.dataset),
            space=method.space,
            genotype=task.genotype(),
            threat=method.threat,
            settings=method.train,
            seed=task.stage.seed,
        ),
        task.folder,
        task.device,
        task.report,
        task.world,
    )
    _finish(task, result)


def _clean(task: Task) -> None:
    network, images = _trained(task), _test_images(task, task.plan.evaluate.images)
    predictions = attack.predict(network, images, task.plan.evaluate.batch, task.device, task.world)
    _finish(task, {"labels": images.labels.tolist(), "predictions": predictions.tolist()})


def _attack(task: Task) -> None:
    plan, use = task.plan, task.stage.attack
    assert use is not None
    network, images = _trained(task), _test_images(task, plan.evaluate.images)
    threat = use.threat or plan.threat
    plugin = use.use.plugin
    record = attack.evaluate(
        network,
        images,
        images.labels,
        plugin.build(threat) if hasattr(plugin, "build") else plugin,
        threat,
        batch=plan.evaluate.batch,
        seed=task.stage.seed,
        device=task.device,
        label=use.use.name,
        report=task.report,
        world=task.world,
    )
    _finish(
        task,
        {
            "threat": {"norm": threat.norm, "epsilon": threat.epsilon},
            "labels": images.labels.tolist(),
            "clean_predictions": record.clean.tolist(),
            "predictions": record.perturbed.tolist(),
            "success": record.success.tolist(),
            "distance": record.distance.tolist(),
            "evaluations": record.evaluations,
        },
    )


def _certify(task: Task) -> None:
    plan, settings = task.plan, task.plan.certify
    assert settings is not None
    limits = [limit for limit in (settings.images, plan.evaluate.images) if limit is not None]
    network, images = _trained(task), _test_images(task, min(limits, default=None))
    labels = images.labels

    def own() -> list[tuple[list[float], list[bool], dict[str, list[float]]]]:
        """Smallest margin, verdict and radii of the images of this process's batches."""
        found, done, certified = [], 0, 0
        for indices in attack.own_batches(len(labels), settings.batch, task.world):
            interrupt.check()
            batch, truth = images.take(indices).to(task.device), labels[indices].to(task.device)
            smallest = certify.margins(network, batch, truth, plan.threat, method=settings.method).amin(dim=1)
            radii = _radii(network, batch, truth, plan, smallest > 0)
            radius = {norm: some.tolist() for norm, some in radii.items()}
            found.append((smallest.tolist(), (smallest > 0).tolist(), radius))
            done, certified = done + len(indices), certified + int((smallest > 0).sum())
            task.report(min(done * task.world.size, len(labels)), len(labels), "image", certified=certified / done)
        return found

    margins: list[float | None] = []
    certified: list[bool] = []
    radius: dict[str, list[float]] = {norm: [] for norm in settings.norms}
    # batches were dealt round the processes: taking one from each in turn puts the images in order again
    for turn in zip_longest(*task.world.agree(own)):
        for smallest, verdicts, radii in (one for one in turn if one is not None):
            margins += [value if math.isfinite(value) else None for value in smallest]
            certified += verdicts
            for norm, some in radii.items():
                radius[norm] += some
    _finish(
        task,
        {
            "threat": {"norm": plan.threat.norm, "epsilon": plan.threat.epsilon},
            "method": settings.method,
            "radius_method": settings.radius_method or settings.method,
            "margin": margins,
            "certified": certified,
            "radius": radius,
        },
    )


def _radii(network: PixelNetwork, images: Tensor, labels: Tensor, plan: Plan, certified: Tensor) -> dict[str, Tensor]:
    """Certified radii (N,) by norm.

    An image certified at the threat has at least the threat's epsilon as its radius, whichever method found that;
    and of balls of one radius the l_inf ball holds the l_2 ball and that the l_1 ball, so a radius in one norm is at
    least what is known of the norms before it.
    """
    settings = plan.certify
    assert settings is not None
    method = settings.radius_method or settings.method
    found = {norm: certify.radius(network, images, labels, norm, method=method) for norm in settings.norms}
    known = torch.zeros(len(labels), device=images.device, dtype=images.dtype)
    for norm in NORMS:
        if norm == plan.threat.norm:
            known = torch.maximum(known, torch.where(certified, plan.threat.epsilon, 0.0).to(known))
        if norm in found:
            found[norm] = known = torch.maximum(found[norm], known)
    return found


DO: dict[str, Callable[[Task], None]] = {
    "search": _search,
    "train": _train,
    "clean": _clean,
    "attack": _attack,
    "certify": _certify,
}


def _trained(task: Task) -> PixelNetwork:
    """The network that this method and seed trained, on the device, in eval mode."""
    stage = task.plan.stage("train", task.stage.method, task.stage.seed)
    assert stage is not None
    method = task.method
    with seeding.seeded(task.stage.seed, "evaluate", "build"):  # the weights are overwritten at once
        network = train.load(
            task.directory.folder(stage), method.space, task.genotype(), task.plan.dataset, method.train
        )
    return network.to(task.device)


def _test_images(task: Task, wanted: int | None) -> Images:
    """The first `wanted` test images; None: all.

    Raises:
        DataError: the test split has fewer.
    """
    images = task.plan.dataset.split("test")
    return images if wanted is None else First(images, wanted)


def _finish(task: Task, result: dict[str, Any]) -> None:
    task.folder.finish({**result, "provenance": provenance(task.device, task.world)})
    task.world.told(None)  # the others go on when the result is there to be read


def provenance(device: torch.device, world: World) -> dict[str, Any]:
    """What made a result, so that a figure can be traced: versions, device, threads, time."""
    import robustnas

    return {
        "robustnas": robustnas.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
