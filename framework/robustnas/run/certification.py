"""The stages that prove something: certified margins and radii of a network, and radii of its smoothed classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustnas import certify
from robustnas.bounds import BoundMethod, Branching
from robustnas.certify import smoothing
from robustnas.certify.settings import Certify
from robustnas.data.order import in_order
from robustnas.data.selection import Chosen
from robustnas.errors import RunError, UnsupportedOpError
from robustnas.plan import Plan
from robustnas.run.batchwise import Rows, forget, rows_of
from robustnas.run.evaluated import evaluated_images, network_of
from robustnas.run.taken_over import TakenOver
from robustnas.run.task import Task, finish
from robustnas.threat import NORMS


def certificates(task: Task) -> None:
    """Compute certified margins at the recipe's threat, certified radii, and verdicts at further radii.

    Raises:
        RunError: the network uses a function without a bound rule.
    """
    plan, settings = task.plan, task.plan.certify
    assert settings is not None
    network, (images, indices) = network_of(task), evaluated_images(plan, settings.images)
    names = ("margin", "certified", "refuted" if settings.budget else "certified")
    kept = TakenOver.of(task, task.stage.question, indices, lambda folder: _index(folder.result(), settings.epsilons))
    known = kept.folder.result() if kept.folder else {}

    def bounded(places: Tensor) -> Rows:
        """Compute smallest margin, verdict, radii, and the largest epsilon reached, of a batch."""
        batch, truth = images.take(places).to(task.device), images.labels[places].to(task.device)
        rows = kept.rows[places].tolist()
        try:
            if rows[0] >= 0:  # either all of a batch are taken over or none is
                margin, certified, refuted = ([known[name][row] for row in rows] for name in names)
                radii, reached = _further_radii(network, batch, truth, plan, known, rows)
            else:
                smallest, refuted = _smallest(network, batch, truth, plan)
                margin = [value if math.isfinite(value) else None for value in smallest.tolist()]
                certified = (smallest > 0).tolist()
                radii, reached = _radii(network, batch, truth, plan, smallest > 0)
        except UnsupportedOpError as fault:  # as a RunError it stops this network's certificates alone
            raise RunError(str(fault)) from fault
        return {
            "margin": margin,
            "certified": certified,
            **({"refuted": refuted} if settings.budget else {}),
            **({"reached": reached.tolist()} if settings.epsilons else {}),
            **{norm: values.tolist() for norm, values in radii.items()},
        }

    batches = [some for part in (kept.answered, kept.rest) for some in part.split(settings.batch) if len(some)]
    rows = rows_of(task, batches, bounded)
    finish(
        task,
        {
            "question": task.stage.question,
            **kept.told,
            "threat": {"norm": plan.threat.norm, "epsilon": plan.threat.epsilon},
            "method": settings.method,
            "radius_method": settings.of_radii,
            **settings.budget,
            "index": indices.tolist(),
            "margin": rows["margin"],
            "certified": rows["certified"],
            **({"refuted": rows["refuted"]} if settings.budget else {}),
            "radius": {norm: rows[norm] for norm in settings.norms},
            **(
                {"certified_at": {str(e): [reached >= e for reached in rows["reached"]] for e in settings.epsilons}}
                if settings.epsilons
                else {}
            ),
        },
    )
    forget(task)


def _smallest(network: nn.Module, images: Tensor, labels: Tensor, plan: Plan) -> tuple[Tensor, list[bool]]:
    """Compute the smallest certified margin (N,), and which images method `bab` refuted; none for other methods."""
    settings = plan.certify
    assert settings is not None
    method = _method(settings)
    if not isinstance(method, Branching):
        return certify.margins(network, images, labels, plan.threat, method=method).amin(dim=1), [False] * len(images)
    verified = certify.verify(network, images, labels, plan.threat, method)
    return verified.margins.amin(dim=1), verified.refuted.tolist()


def _method(settings: Certify) -> str | BoundMethod:
    """The bound method of the margins, with its budget where it has one."""
    budget = settings.budget
    return Branching(seconds=budget["seconds"], parts=int(budget["parts"])) if budget else settings.method


def _index(result: dict[str, Any], epsilons: Sequence[float]) -> Sequence[int]:
    """List the images of finished certificates; none where these were raised to radii that are no longer asked for."""
    return result["index"] if set(map(float, result.get("certified_at", {}))) <= set(epsilons) else ()


def _radii(
    network: nn.Module, images: Tensor, labels: Tensor, plan: Plan, certified: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute certified radii (N,) by norm, and the largest epsilon (N,) known to be certified in the threat's norm.

    Radii are raised to what is known otherwise.  An image certified at the threat, or at one of the further radii, has
    at least that epsilon as its radius.  Of balls of one radius, l_inf holds l_2 and l_2 holds l_1, so a radius in one
    norm is at least that in the norms before it.  What a radius decides of the further radii needs no bound.
    """
    settings = plan.certify
    assert settings is not None
    found = {norm: certify.radius(network, images, labels, norm, method=settings.of_radii) for norm in settings.norms}
    reached = certified.cpu().double() * plan.threat.epsilon  # float64, which not every device has
    return _reached(network, images, labels, plan, found, reached, settings.epsilons)


def _further_radii(
    network: nn.Module, images: Tensor, labels: Tensor, plan: Plan, known: dict[str, Any], rows: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Find what `_radii` finds of images whose certificates are the `rows` of a finished result.

    Nothing is bounded at the radii that were asked for then, and raising twice is raising once, to the larger.
    """
    settings = plan.certify
    assert settings is not None
    found = {
        norm: torch.tensor([known["radius"][norm][row] for row in rows], dtype=images.dtype, device=images.device)
        for norm in settings.norms
    }
    asked = {plan.threat.epsilon: known["certified"]}
    asked |= {float(epsilon): held for epsilon, held in known.get("certified_at", {}).items()}
    reached = [max((e for e, held in asked.items() if held[row]), default=0.0) for row in rows]
    further = [epsilon for epsilon in settings.epsilons if str(epsilon) not in known.get("certified_at", {})]
    return _reached(network, images, labels, plan, found, torch.tensor(reached, dtype=torch.float64), further)


def _reached(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    found: dict[str, Tensor],
    reached: Tensor,
    epsilons: Sequence[float],
) -> tuple[dict[str, Tensor], Tensor]:
    """Raise radii (N,) by norm to what is `reached` (N,) in the threat's norm, and to those of `epsilons` that hold."""
    norm, settings = plan.threat.norm, plan.certify
    assert settings is not None
    radii, known = _raised(found, norm, reached, images.dtype)
    if epsilons:
        known = torch.maximum(known.cpu().double(), reached)
        reached = certify.largest_certified(network, images, labels, norm, epsilons, _method(settings), known=known)
        radii, _ = _raised(found, norm, reached, images.dtype)
    return radii, reached


def _raised(
    found: dict[str, Tensor], norm: str, reached: Tensor, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Tensor]:
    """Raise radii (N,) by norm to what is known of smaller balls, and say what is known in one norm.

    Args:
        reached: (N,) float64, an epsilon certified in `norm`, on the CPU.
    """
    device = next((values.device for values in found.values()), reached.device)
    radii, known, in_norm = dict(found), torch.zeros(len(reached), dtype=dtype, device=device), reached
    for other in NORMS:
        if other == norm:
            known = torch.maximum(known, certify.rounded(reached, dtype, up=False).to(device))
        if other in radii:
            radii[other] = known = torch.maximum(radii[other], known)
        if other == norm:
            in_norm = known
    return radii, in_norm


def smoothed(task: Task) -> None:
    """Find the class of the smoothed classifier and its certified radius, by randomised smoothing."""
    settings = task.plan.smoothing
    assert settings is not None
    network, (images, indices) = network_of(task), evaluated_images(task.plan, settings.images)

    def sampled(places: Tensor) -> Rows:
        """Find class and certified radius of a batch."""
        some = Chosen(images, places)
        smoothed = smoothing.certify(
            network,
            some,
            some.labels,
            sigma=settings.sigma,
            samples=settings.samples,
            selection=settings.selection,
            alpha=settings.alpha,
            batch=settings.batch,
            device=task.device,
            seed=task.stage.seed.train,
            indices=indices[places],
        )
        return {
            "prediction": smoothed.prediction.tolist(),
            "certified": (smoothed.certified > 0).tolist(),
            "radius": smoothed.certified.tolist(),
            "evaluations": [smoothed.evaluations // len(places)] * len(places),
        }

    together = max(1, settings.batch // settings.selection)
    rows = rows_of(task, in_order(len(images.labels), together), sampled)
    finish(
        task,
        {
            "sigma": settings.sigma,
            "confidence": 1 - settings.alpha,
            "samples": settings.samples,
            "index": indices.tolist(),
            "labels": images.labels.tolist(),
            "predictions": rows["prediction"],
            "radius": rows["radius"],
            "evaluations": sum(rows["evaluations"]),
        },
    )
    forget(task)
