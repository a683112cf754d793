"""The stages that evaluate a network: its clean answers, a probe, and attacks.

An attack reads the clean answers, skips the images that attacks before it fooled, and checks every image that fools
against the certificates there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from robustnas import attack
from robustnas.attack import examples, outcomes
from robustnas.attack.column import Column
from robustnas.attack.conditions import Conditions, Watch
from robustnas.attack.evaluation import evaluate
from robustnas.attack.examples import Example
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.outcomes import Outcomes
from robustnas.attack.progress import Progress
from robustnas.attack.radii import at_radii
from robustnas.attack.review.flag import Flag
from robustnas.attack.review.probe import probe as probed
from robustnas.attack.review.records import of_options
from robustnas.certify.verdicts import contradicted, fooled
from robustnas.contracts import AttackTraits, Images
from robustnas.data.selection import Chosen
from robustnas.errors import OptionError, RunDirectoryError, RunError, VerdictError
from robustnas.plan import digest, sources
from robustnas.run.evaluated import evaluated_images, network_of
from robustnas.run.layout import VIOLATION
from robustnas.run.taken_over import TakenOver
from robustnas.run.task import Task, finish
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.strangers import text_of
from robustnas.threat import ThreatModel
from robustnas.train.capacity import count


def clean(task: Task) -> None:
    """Find the network's answers on clean images."""
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
            "parameters": count(network),
            **({"weights": loaded[0]} if loaded else {}),
        },
    )


def probe(task: Task) -> None:
    """Look for what a reviewer would object to before any attack."""
    network, (images, _) = network_of(task), evaluated_images(task.plan)

    def own() -> list[Flag]:
        """Look in the first process, while the others wait for what it finds, or for its end."""
        if not task.processes.first:
            return []
        return probed(
            network,
            images,
            images.labels,
            task.plan.threat.norm,
            device=task.device,
            seed=task.stage.seed.train,
            report=task.report,
        )

    (flags, *_) = task.processes.run_together(own)
    finish(task, {"flags": [flag.plain() for flag in flags]})


def attacked(task: Task) -> None:
    """Run one attack of the recipe, at all its radii or in all its variants."""
    plan, column = task.plan, task.stage.column
    assert column is not None
    plugin = plan.attacks[column.label]
    network, (images, indices) = network_of(task), evaluated_images(plan)
    pictures, certified = examples.Kept(task.folder, task.processes.rank, column), _watch(task, indices)
    progress, clean = Progress(task.folder, task.processes.rank, pictures.write), _clean_answers(task, images)

    def watch(fooled: Outcomes, clean: Tensor, perturbed: Tensor) -> None:
        """Keep the first images that are broken, and hold all against the certificates there are."""
        pictures.note(fooled, clean, perturbed)
        if certified is not None:
            certified(fooled, clean, perturbed)

    conditions = Conditions(
        label=column.name,
        batch=plan.evaluate.batch,
        seed=task.stage.seed.train,
        device=task.device,
        expectation=column.expectation,
        runs=column.runs,
        access=column.access,
        progress=progress,
        watch=watch,
        report=task.report,
        processes=task.processes,
    )
    earlier = _earlier(task)

    def left(epsilon: float) -> Tensor:
        """Find the images that no attack before this one fooled, (N,) bool."""
        return torch.from_numpy(
            ~np.any([np.zeros(len(indices), bool), *(fooled(rows, epsilon) for rows in earlier)], 0)
        )

    def outcomes_of(built: Any, at: Tensor) -> list[Outcomes]:
        """Run the attack on the images at `at` (n,): a row a radius or a variant."""
        some = images if len(at) == len(indices) else Chosen(images, at)
        own = attrs.evolve(conditions, clean=clean[at], places=indices[at])

        def variant(part: Any, called: str, source: nn.Module | None = None) -> Outcomes:
            """Run one of several variants of the attack, on every image at one radius."""
            changed = attrs.evolve(own, variant=called, source=source)
            return evaluate(network, some, some.labels, part, column.threat, changed)

        if column.transfers:
            return [variant(built, f"from {method}", source) for method, source in _sources(task).items()]
        if traits.every and traits.parts:
            return [variant(part, called) for called, part in traits.parts.items()]
        return at_radii(
            network,
            some,
            some.labels,
            lambda threat: build(plugin, threat),
            column.threats,
            own,
            left=lambda epsilon: left(epsilon)[at],
            carry=plan.evaluate.attacked == "survivors",
        )

    try:
        built = build(plugin, column.threat)
        traits = AttackTraits.of(built)
        # averaged passes and foolbox's attacks draw for a whole batch: they do other things to an image in another one
        alone = column.expectation == 1 and _draws_an_image(built)
        question = digest("question", [task.stage.question, str(load_foolbox().__version__)]) if alone else None
        spared = [indices[~left(threat.epsilon)].tolist() for threat in column.threats]
        kept = TakenOver.of(task, question, indices, lambda folder: _index(folder, spared))
        rows = outcomes_of(built, kept.rest) if len(kept.rest) else []
        if kept.folder is not None:
            stored = outcomes.load(kept.folder.path)
            if rows and rows[0].parts != stored[0].parts:  # it found a gradient where there was none, or the reverse
                kept, rows = TakenOver(torch.full_like(indices, -1)), outcomes_of(built, torch.arange(len(indices)))
            else:
                rows = kept.completed(stored, rows)
    except OptionError as fault:  # options meet the network only here, and a RunError stops this attack alone
        raise RunError(text_of(fault)) from fault
    outcomes.save(rows, task.folder)
    examples.save(_examples(task, kept, indices, pictures.found), task.folder)
    finish(
        task,
        {
            **({} if question is None else {"question": question, "spared": spared}),
            **kept.told,
            "attack": column.name,
            "threat": {"norm": column.threat.norm, "epsilon": column.threat.epsilon},
            "radii": list(column.radii),
            "access": column.access,
            "parts": list(rows[0].parts),
            "left_out": list(rows[0].left_out),
            "variants": [row.variant for row in rows],
            "attacked": [int((row.tried > 0).sum()) for row in rows],
            "fooled": [int(row.success.sum()) for row in rows],
            "evaluations": sum(row.evaluations for row in rows),
            "batch": plan.evaluate.batch,
            "draws": "an image" if traits.takes_draws else "a batch",
            "foolbox": str(load_foolbox().__version__),  # results of foolbox have changed between versions
            "flags": [flag.plain() for flag in (*_left_out(column, rows[0]), *_weak_steps(column, plugin, built))],
        },
    )
    if task.processes.first:
        progress.forget()
        pictures.forget()


def _examples(task: Task, kept: TakenOver, indices: Tensor, own: list[Example]) -> list[Example]:
    """Put together what all processes, and the stage that images were taken over from, show of the attack."""
    found = [one for some in task.processes.gather(own) for one in some]
    if kept.folder is not None and kept.folder.holds(examples.FILE):  # one of an older version does not
        answered = set(indices[kept.answered].tolist())
        found += [one for one in examples.load(kept.folder) if one.index in answered]
    return examples.first(found)


def build(plugin: Any, threat: ThreatModel) -> Any:
    """Make the foolbox attack of a plugin for a threat."""
    return plugin.build(threat) if hasattr(plugin, "build") else plugin


def _left_out(column: Column, row: Outcomes) -> list[Flag]:
    """Warn where a part of the attack found no gradient to follow and was not run."""
    if not row.left_out:
        return []
    text = (
        f"the network has no gradients, and {', '.join(row.left_out)} of {column.label} follow them: only "
        f"{', '.join(row.parts)} was run; more attacks without gradients, or images of a smooth stand-in, would do"
    )
    return [Flag("zero-gradients", text, column.label)]


def _weak_steps(column: Column, plugin: Any, built: Any) -> list[Flag]:
    """Warn of each radius that the steps of an attack inside the ball cannot cross."""
    if isinstance(built, load_foolbox().attacks.base.MinimizationAttack) or column.is_corruption:
        return []
    flags = []
    for threat in column.threats:
        steps, size = getattr(plugin, "steps", None), getattr(plugin, "step_size", None)
        if size is None and getattr(plugin, "rel_stepsize", None) is not None:
            size = plugin.rel_stepsize * threat.epsilon
        if getattr(plugin, "abs_stepsize", None) is not None:
            size = plugin.abs_stepsize
        flags += of_options(column.label, threat, steps if isinstance(steps, int) else None, size)
    return flags


def _clean_answers(task: Task, images: Images) -> Tensor:
    """Read the network's answers on clean images from the result of the clean stage."""
    stage = task.plan.stage("clean", task.stage.method, task.stage.seed)
    assert stage is not None
    folder = task.directory.folder(stage)
    answers = folder.result().get("predictions")
    if not isinstance(answers, list) or len(answers) != len(images.labels):
        raise RunDirectoryError(damaged(folder.result_file, "it has no prediction for each image"))
    return torch.tensor(answers, dtype=torch.int64)


def _draws_an_image(attack: Any) -> bool:
    """Whether what an attack does to an image depends on that image alone, as none of its parts draws for a batch."""
    traits = AttackTraits.of(attack)
    return all(map(_draws_an_image, traits.parts.values())) if traits.parts else bool(traits.takes_draws)


def _index(finished: StageFolder, spared: Sequence[Sequence[int]]) -> Sequence[int]:
    """List the images of a finished attack by their places, with -1 for one that was `spared` at other radii than now.

    Nothing is taken over where parts were left out, which another image may have run.
    """
    result = finished.result()
    if result["left_out"]:
        return ()
    differ = set().union(*(set(now) ^ set(then) for now, then in zip(spared, result["spared"], strict=True)))
    return [-1 if place in differ else place for place in outcomes.load(finished.path)[0].index.tolist()]


def _earlier(task: Task) -> list[list[Outcomes]]:
    """Read what the attacks before this one did, as far as they are done."""
    stages = [stage for stage in task.plan.stages_of(task.stage.method, task.stage.seed) if stage.kind == "attack"]
    folders = [task.directory.folder(stage) for stage in stages if stage.key in task.stage.after]
    return [outcomes.load(folder.path) for folder in folders if folder.done]


def _sources(task: Task) -> dict[str, nn.Module]:
    """Load the networks of the other methods, by method, each once."""
    return {
        method: network_of(task, method) for method in sources(task.plan.networks, task.stage.method, task.stage.seed)
    }


def _watch(task: Task, indices: Tensor) -> Watch | None:
    """Make the function that checks every image that fools against its certified radii, each in its own norm.

    Args:
        indices: (N,) places of the images in the test split, of which the first have certificates.

    Raises:
        VerdictError: raised by the function when an image was fooled within a certified radius; the image is saved.
    """
    stage = task.plan.stage("certify", task.stage.method, task.stage.seed)
    if stage is None or not task.directory.done(stage):
        return None
    certificates = task.directory.folder(stage)
    result = certificates.result()
    threat = task.plan.threat
    certified = torch.tensor(result["certified"], dtype=torch.bool)
    radii = {norm: torch.tensor(values, dtype=torch.float64) for norm, values in result["radius"].items()}
    further = [float(e) * torch.tensor(held, dtype=torch.float64) for e, held in result.get("certified_at", {}).items()]
    radii.setdefault(threat.norm, torch.stack([certified.double() * threat.epsilon, *further]).amax(dim=0))
    row_of = {place: row for row, place in enumerate(indices.tolist())}

    def watch(fooled: Outcomes, clean: Tensor, perturbed: Tensor) -> None:
        rows = torch.tensor([row_of[place] for place in fooled.index.tolist()])
        for norm, radius in radii.items():
            known = (rows < len(radius)).nonzero().squeeze(1)
            held, size = rows[known], fooled.sizes[norm][known]
            wrong = contradicted(radius[held], size)
            if norm == threat.norm:  # a certificate at the threat counts like a radius of its epsilon
                wrong |= certified[held] & (size <= threat.epsilon)
            if bool(wrong.any()):
                first = int(known[wrong][0])
                refuse(norm, float(radius[rows[first]]), fooled, clean[first], perturbed[first], first)

    def refuse(norm: str, radius: float, fooled: Outcomes, clean: Tensor, perturbed: Tensor, at: int) -> None:
        place, size = int(fooled.index[at]), float(fooled.sizes[norm][at])
        kept = attrs.evolve(task.folder, writes=True)
        images = {"clean": clean.clone(), "perturbed": perturbed.clone()}
        kept.save_tensors("violation.pt", {"index": place, **images, "norm": norm, "radius": radius, "size": size})
        text = (
            f"test image {place} has a certified {norm} radius of {radius:.6g} and was fooled by a perturbation of "
            f"{size:.6g}; a bound or the attack is wrong.  Both images are in {kept.path / 'violation.pt'}"
        )
        where = certificates.path.relative_to(task.directory.path).as_posix()
        kept.write_json(VIOLATION, {"certify": where, "text": text})
        raise VerdictError(f"{task.stage.title}: {text}")

    return watch
