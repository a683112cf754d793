"""What a network does: its clean answers, what a probe finds, and what attacks do to it.

An attack reads the clean answers, spares the images that attacks before it fooled,
and holds what fools against the certificates there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from robustnas import attack
from robustnas.attack import columns as tables
from robustnas.attack.column import Column
from robustnas.attack.evaluation import evaluate
from robustnas.attack.progress import Progress
from robustnas.attack.radii import at_radii
from robustnas.attack.record import AttackRecord
from robustnas.attack.review.flag import Flag
from robustnas.attack.review.probe import probe as probed
from robustnas.attack.review.records import of_options
from robustnas.certify.verdicts import contradicted
from robustnas.contracts import AttackTraits, Images
from robustnas.errors import OptionError, RunDirectoryError, RunError, VerdictError
from robustnas.plan import sources
from robustnas.run.evaluated import evaluated_images, network_of
from robustnas.run.layout import VIOLATION
from robustnas.run.task import Task, finish, trainable
from robustnas.runtime.artifacts import damaged
from robustnas.runtime.strangers import text_of
from robustnas.threat import ThreatModel


def clean(task: Task) -> None:
    """The network's answers on clean images."""
    loaded: list[str] = []
    network, (images, indices) = network_of(task, tell=loaded.append), evaluated_images(task.plan)
    predictions = attack.predict(
        network, images, task.plan.evaluate.batch, task.device, task.processes, report=task.report, places=indices
    )
    finish(
        task,
        {
            "index": indices.tolist(),
            "labels": images.labels.tolist(),
            "predictions": predictions.tolist(),
            "parameters": trainable(network),
            **({"weights": loaded[0]} if loaded else {}),
        },
    )


def probe(task: Task) -> None:
    """What a reviewer would ask of the network before believing an attack."""
    network, (images, _) = network_of(task), evaluated_images(task.plan)
    found: list[dict[str, Any]] = []
    if task.processes.first:
        flags = probed(
            network,
            images,
            images.labels,
            task.plan.threat.norm,
            device=task.device,
            seed=task.stage.seed,
            report=task.report,
        )
        found = [flag.plain() for flag in flags]
    finish(task, {"flags": found})


def attacked(task: Task) -> None:
    """One attack of the recipe, at all its radii, or in all its variants."""
    plan, column = task.plan, task.stage.column
    assert column is not None
    network, (images, indices) = network_of(task), evaluated_images(plan)
    answers = _clean_answers(task, images)
    earlier = _earlier(task)
    progress = Progress(task.folder, task.processes.rank)
    settings: dict[str, Any] = {
        "batch": plan.evaluate.batch,
        "seed": task.stage.seed,
        "device": task.device,
        "report": task.report,
        "processes": task.processes,
        "clean": answers,
        "expectation": column.expectation,
        "runs": column.runs,
        "access": column.access,
        "progress": progress,
        "watch": _watch(task, indices),
        "places": indices,
    }
    plugin = plan.attacks[column.label]

    def variant(built: Any, called: str, source: nn.Module | None = None) -> AttackRecord:
        """One of several columns of one attack: every image, one radius."""
        return evaluate(
            network,
            images,
            images.labels,
            built,
            column.threat,
            label=column.name,
            variant=called,
            source=source,
            **settings,
        )

    def left(epsilon: float) -> Tensor:
        """(N,) bool, not fooled by the attacks before this one."""
        fooled = [one.tensor("success")[torch.from_numpy(one.arrays["epsilon"] <= epsilon)] for one in earlier]
        return ~torch.cat([torch.zeros(1, len(answers), dtype=torch.bool), *fooled]).any(dim=0)

    def recorded(built: Any) -> list[AttackRecord]:
        """One a radius or a variant."""
        if column.transfers:
            return [variant(built, f"from {method}", source) for method, source in _sources(task).items()]
        if traits.every and traits.parts:
            return [variant(part, called) for called, part in traits.parts.items()]
        return at_radii(
            network,
            images,
            images.labels,
            lambda threat: build(plugin, threat),
            column.threats,
            label=column.name,
            left=left,
            carry=plan.evaluate.attacked == "survivors",
            **settings,
        )

    try:
        built = build(plugin, column.threat)
        traits = AttackTraits.of(built)
        records = recorded(built)
    except OptionError as fault:  # what is made of the options shows only here, and concerns this attack alone
        raise RunError(text_of(fault)) from fault
    found = tables.of_records(records, indices)
    tables.write(found, task.folder)
    finish(
        task,
        {
            "attack": column.name,
            "threat": {"norm": column.threat.norm, "epsilon": column.threat.epsilon},
            "radii": list(column.radii),
            "access": column.access,
            "parts": list(records[0].parts),
            "left_out": list(records[0].left_out),
            "variants": [record.variant for record in records],
            "attacked": [int((record.tried > 0).sum()) for record in records],
            "fooled": [int(record.success.sum()) for record in records],
            "evaluations": sum(record.evaluations for record in records),
            "batch": plan.evaluate.batch,
            "draws": "an image" if traits.takes_draws else "a batch",
            "foolbox": _foolbox_version(),
            "flags": [flag.plain() for flag in (*_left_out(column, records[0]), *_weak_steps(column, plugin, built))],
        },
    )
    if task.processes.first:
        progress.forget()


def build(plugin: Any, threat: ThreatModel) -> Any:
    """The foolbox attack of a plugin for a threat."""
    return plugin.build(threat) if hasattr(plugin, "build") else plugin


def _foolbox_version() -> str:
    """Its results have changed between versions."""
    from robustnas.attack.foolbox_import import load_foolbox

    return str(load_foolbox().__version__)


def _left_out(column: Column, record: AttackRecord) -> list[Flag]:
    """A warning where a part of the attack found no gradient to follow and was not run."""
    if not record.left_out:
        return []
    text = (
        f"the network has no gradients, and {', '.join(record.left_out)} of {column.label} follow them: only "
        f"{', '.join(record.parts)} was run; more attacks without gradients, or images of a smooth stand-in, would do"
    )
    return [Flag("zero-gradients", text, column.label)]


def _weak_steps(column: Column, plugin: Any, built: Any) -> list[Flag]:
    """A warning for each radius that the steps of an attack inside the ball cannot cross."""
    from robustnas.attack.foolbox_import import load_foolbox

    if isinstance(built, load_foolbox().attacks.base.MinimizationAttack) or column.is_corruption:
        return []
    found = []
    for threat in column.threats:
        steps, size = getattr(plugin, "steps", None), getattr(plugin, "step_size", None)
        if size is None and getattr(plugin, "rel_stepsize", None) is not None:
            size = plugin.rel_stepsize * threat.epsilon
        if getattr(plugin, "abs_stepsize", None) is not None:
            size = plugin.abs_stepsize
        found += of_options(column.label, threat, steps if isinstance(steps, int) else None, size)
    return found


def _clean_answers(task: Task, images: Images) -> Tensor:
    """The network's answers on clean images, as the clean stage found them."""
    stage = task.plan.stage("clean", task.stage.method, task.stage.seed)
    assert stage is not None
    folder = task.directory.folder(stage)
    answers = folder.result().get("predictions")
    if not isinstance(answers, list) or len(answers) != len(images.labels):
        raise RunDirectoryError(damaged(folder.result_file, "it has no prediction for each image"))
    return torch.tensor(answers, dtype=torch.int64)


def _earlier(task: Task) -> list[tables.Columns]:
    """What the attacks before this one did, as far as they are done."""
    stages = [stage for stage in task.plan.stages_of(task.stage.method, task.stage.seed) if stage.kind == "attack"]
    folders = [task.directory.folder(stage) for stage in stages if stage.key in task.stage.after]
    return [tables.read(folder.path) for folder in folders if folder.done]


def _sources(task: Task) -> dict[str, nn.Module]:
    """The networks of the other methods, by method, each once."""
    return {
        method: network_of(task, method) for method in sources(task.plan.networks, task.stage.method, task.stage.seed)
    }


def _watch(task: Task, indices: Tensor) -> Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], None] | None:
    """Holds every image that fools against its certified radii, in the certificate's own norm.

    Raises:
        VerdictError: by what it returns, when an image was fooled within a certified radius; the image is saved.
    """
    stage = task.plan.stage("certify", task.stage.method, task.stage.seed)
    if stage is None or not task.directory.done(stage):
        return None
    result = task.directory.folder(stage).result()
    radii = {norm: torch.tensor(values, dtype=torch.float64) for norm, values in result["radius"].items()}
    threat = task.plan.threat
    certified = torch.tensor(result["certified"], dtype=torch.bool)
    radii.setdefault(threat.norm, certified.double() * threat.epsilon)

    def contradicts(norm: str, places: Tensor, size: Tensor) -> Tensor:
        """(n,) bool: fooled within the certified radius, or at a threat at which the image is certified."""
        wrong = contradicted(radii[norm][places], size)
        return wrong | certified[places] & (size <= threat.epsilon) if norm == threat.norm else wrong

    def watch(places: Tensor, given: Tensor, perturbed: Tensor, sizes: dict[str, Tensor]) -> None:
        for norm, radius in radii.items():
            known = places < len(radius)
            if not bool(known.any()):
                continue
            wrong = contradicts(norm, places[known], sizes[norm][known])
            if bool(wrong.any()):
                at = int(known.nonzero().squeeze(1)[int(wrong.nonzero()[0])])
                place = int(places[at])
                kept = attrs.evolve(task.folder, writes=True)
                kept.save_tensors(
                    "violation.pt",
                    {
                        "index": int(indices[place]),
                        "clean": given[at].clone(),
                        "perturbed": perturbed[at].clone(),
                        "norm": norm,
                        "radius": float(radius[place]),
                        "size": float(sizes[norm][at]),
                    },
                )
                text = (
                    f"test image {int(indices[place])} has a certified {norm} radius of {float(radius[place]):.6g} and "
                    f"was fooled by a perturbation of {float(sizes[norm][at]):.6g}; a bound or the attack is wrong.  "
                    f"Both images are in {kept.path / 'violation.pt'}"
                )
                certificates = task.directory.folder(stage).path.relative_to(task.directory.path).as_posix()
                kept.write_json(VIOLATION, {"certify": certificates, "text": text})
                raise VerdictError(f"{task.stage.title}: {text}")

    return watch
