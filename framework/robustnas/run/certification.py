"""The stages that prove something: certified margins and radii of a network, and radii of its smoothed classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustnas import certify
from robustnas.certify import smoothing
from robustnas.data.order import in_order
from robustnas.data.selection import Chosen
from robustnas.errors import RunError, UnsupportedOpError
from robustnas.plan import Plan
from robustnas.run.batchwise import Rows, forget, rows_of
from robustnas.run.evaluated import evaluated_images, network_of
from robustnas.run.task import Task, finish
from robustnas.threat import NORMS


def certificates(task: Task) -> None:
    """Compute certified margins at the recipe's threat, and certified radii.

    Raises:
        RunError: the network uses a function without a bound rule.
    """
    plan, settings = task.plan, task.plan.certify
    assert settings is not None
    network, (images, indices) = network_of(task), evaluated_images(plan, settings.images)

    def bounded(places: Tensor) -> Rows:
        """Compute smallest margin, verdict and radii of a batch."""
        batch, truth = images.take(places).to(task.device), images.labels[places].to(task.device)
        try:
            smallest = certify.margins(network, batch, truth, plan.threat, method=settings.method).amin(dim=1)
            radii = _radii(network, batch, truth, plan, smallest > 0)
        except UnsupportedOpError as fault:  # as a RunError it stops this network's certificates alone
            raise RunError(str(fault)) from fault
        return {
            "margin": [value if math.isfinite(value) else None for value in smallest.tolist()],
            "certified": (smallest > 0).tolist(),
            **{norm: values.tolist() for norm, values in radii.items()},
        }

    rows = rows_of(task, in_order(len(images.labels), settings.batch), bounded)
    finish(
        task,
        {
            "threat": {"norm": plan.threat.norm, "epsilon": plan.threat.epsilon},
            "method": settings.method,
            "radius_method": settings.radius_method or settings.method,
            "index": indices.tolist(),
            "margin": rows["margin"],
            "certified": rows["certified"],
            "radius": {norm: rows[norm] for norm in settings.norms},
        },
    )
    forget(task)


def _radii(network: nn.Module, images: Tensor, labels: Tensor, plan: Plan, certified: Tensor) -> dict[str, Tensor]:
    """Compute certified radii (N,) by norm.

    Radii are raised to what is known otherwise.  An image certified at the threat has at least the threat's epsilon as
    its radius.  Of balls of one radius, l_inf holds l_2 and l_2 holds l_1, so a radius in one norm is at least that in
    the norms before it.
    """
    settings = plan.certify
    assert settings is not None
    method = settings.radius_method or settings.method
    radii = {norm: certify.radius(network, images, labels, norm, method=method) for norm in settings.norms}
    known = torch.zeros(len(labels), device=images.device, dtype=images.dtype)
    for norm in NORMS:
        if norm == plan.threat.norm:
            epsilon = certify.rounded(torch.tensor(plan.threat.epsilon, dtype=torch.float64), known.dtype, up=False)
            known = torch.maximum(known, torch.where(certified, epsilon.to(known.device), 0.0))
        if norm in radii:
            radii[norm] = known = torch.maximum(radii[norm], known)
    return radii


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
            seed=task.stage.seed,
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
