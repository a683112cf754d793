"""What is proved of a network: certified margins and radii, and those of the classifier that it is under noise."""

from __future__ import annotations

import math
from itertools import zip_longest

import torch
from torch import Tensor, nn

from robustnas import attack, certify, interrupt, smoothing
from robustnas.errors import RunError, UnsupportedOpError
from robustnas.plan import Plan
from robustnas.run.evaluated import evaluated_images, network_of
from robustnas.run.task import Task, finish
from robustnas.threat import NORMS


def certificates(task: Task) -> None:
    """Certified margins at the recipe's threat, and certified radii.

    Raises:
        RunError: the network uses a function without a bound rule.
    """
    plan, settings = task.plan, task.plan.certify
    assert settings is not None
    network, (images, indices) = network_of(task), evaluated_images(plan, settings.images)
    labels = images.labels

    def own() -> list[tuple[list[float], list[bool], dict[str, list[float]]]]:
        """Smallest margin, verdict and radii of the images of this process's batches."""
        found, done, certified = [], 0, 0
        for some in attack.own_batches(len(labels), settings.batch, task.world):
            interrupt.check()
            batch, truth = images.take(some).to(task.device), labels[some].to(task.device)
            try:
                smallest = certify.margins(network, batch, truth, plan.threat, method=settings.method).amin(dim=1)
                radii = _radii(network, batch, truth, plan, smallest > 0)
            except UnsupportedOpError as fault:  # concerns this network's certificates alone
                raise RunError(str(fault)) from fault
            radius = {norm: values.tolist() for norm, values in radii.items()}
            found.append((smallest.tolist(), (smallest > 0).tolist(), radius))
            done, certified = done + len(some), certified + int((smallest > 0).sum())
            task.report(min(done * task.world.size, len(labels)), len(labels), "image", certified=certified / done)
        return found

    margins: list[float | None] = []
    verdicts: list[bool] = []
    radius: dict[str, list[float]] = {norm: [] for norm in settings.norms}
    # batches were dealt round the processes: taking one from each in turn puts the images in order again
    for turn in zip_longest(*task.world.agree(own)):
        for smallest, certified, radii in (one for one in turn if one is not None):
            margins += [value if math.isfinite(value) else None for value in smallest]
            verdicts += certified
            for norm, some in radii.items():
                radius[norm] += some
    finish(
        task,
        {
            "threat": {"norm": plan.threat.norm, "epsilon": plan.threat.epsilon},
            "method": settings.method,
            "radius_method": settings.radius_method or settings.method,
            "index": indices.tolist(),
            "margin": margins,
            "certified": verdicts,
            "radius": radius,
        },
    )


def _radii(network: nn.Module, images: Tensor, labels: Tensor, plan: Plan, certified: Tensor) -> dict[str, Tensor]:
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


def smoothed(task: Task) -> None:
    """Randomised smoothing: the class of the smoothed classifier and its certified radius."""
    settings = task.plan.smoothing
    assert settings is not None
    network, (images, indices) = network_of(task), evaluated_images(task.plan, settings.images)
    found = smoothing.certify(
        network,
        images,
        images.labels,
        sigma=settings.sigma,
        samples=settings.samples,
        selection=settings.selection,
        alpha=settings.alpha,
        batch=settings.batch,
        device=task.device,
        seed=task.stage.seed,
        indices=indices,
        report=task.report,
        world=task.world,
    )
    finish(
        task,
        {
            "sigma": settings.sigma,
            "confidence": 1 - settings.alpha,
            "samples": settings.samples,
            "index": indices.tolist(),
            "labels": images.labels.tolist(),
            "predictions": found.prediction.tolist(),
            "radius": found.certified.tolist(),
            "evaluations": found.evaluations,
        },
    )
