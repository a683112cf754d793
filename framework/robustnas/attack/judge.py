"""Judges proposed images: each must be an image and admissible, and then the network's own answer decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustnas.attack.outcomes import Outcomes
from robustnas.attack.runner import Runner
from robustnas.errors import RunError
from robustnas.threat import NORMS, ORDER, ThreatModel

TOLERANCE = 1e-5
"""Rounding may carry an image out of ball or box by so many pixel units; it is then projected back."""


def tolerance(threat: ThreatModel, values: int) -> float:
    """Say by how much a perturbation of an image of `values` pixel values may exceed epsilon by rounding.

    In l_1 the roundings of all pixels add up: half a unit of float32's last place for each, at most.
    """
    return max(TOLERANCE, values * 2.0**-25) if threat.norm == "l1" else TOLERANCE


def refuse(wrong: Tensor, label: str, at: Tensor, what: Callable[[int], str]) -> None:
    """Raise a RunError for the first image that is `wrong` (n,) bool; `what` says what was found there."""
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise RunError(f"attack {label} returned for image {int(at[first])} {what(first)}; its results are not used")


def check_images(proposed: Any, clean: Tensor, label: str, at: Tensor) -> None:
    """Check that an attack returned images: same shape, type and device, finite, in [0, 1] to rounding.

    Raises:
        RunError: one of them is not; names the attack and the first such image.
    """
    if not isinstance(proposed, Tensor):
        raise RunError(f"attack {label} returned {type(proposed).__name__} instead of a tensor of images")
    if (proposed.shape, proposed.dtype, proposed.device) != (clean.shape, clean.dtype, clean.device):
        raise RunError(
            f"attack {label} returned {proposed.dtype} of shape {tuple(proposed.shape)} on {proposed.device} "
            f"for images {clean.dtype} of shape {tuple(clean.shape)} on {clean.device}, "
            f"of which the first is image {int(at[0])}"
        )
    flat = proposed.detach().flatten(1)
    refuse(~flat.isfinite().all(dim=1), label, at, lambda _: "pixels that are not finite")
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    refuse(
        (low < -TOLERANCE) | (high > 1 + TOLERANCE),
        label,
        at,
        lambda i: f"pixels from {float(low[i]):.6g} to {float(high[i]):.6g}, outside [0, 1]",
    )


def judge(
    answers: Callable[[Tensor], Tensor],
    proposed: Tensor,
    clean: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    runner: Runner,
    label: str,
    at: Tensor,
) -> tuple[Tensor, Outcomes]:
    """Judge what proposed images prove: the images that were judged, (n, C, H, W), and the outcomes.

    Args:
        answers: the network's answers, (n, C, H, W) -> (n,); called once.
        proposed: (n, C, H, W), as the attack returned them.
        clean: the images they were made from; the network is right on all of them.
        labels: (n,) int64.
        threat: ball and box.
        runner: the part of the attack: whether it promises to stay in the ball, and whether the ball matters at all
            (a corruption is judged where it is).
        label: the attack's name in messages.
        at: (n,) the images' places in the data set.

    Raises:
        RunError: a perturbation outside the ball, although the attack promises to stay inside.
    """
    boxed = proposed.clamp(0.0, 1.0)
    inside = torch.ones(len(proposed), dtype=torch.bool, device=proposed.device)
    judged = boxed
    if runner.bounded:
        size = threat.distance(proposed, clean)
        # an attack that minimises does not promise to stay in a ball: its images get no allowance for rounding
        slack = tolerance(threat, clean[0].numel()) if runner.stays_inside else 0.0
        inside = size <= threat.epsilon + slack
        if runner.stays_inside:
            refuse(
                ~inside,
                label,
                at,
                lambda i: f"a perturbation of {float(size[i]):.6g}, outside the ball of {threat}",
            )
        # one forward pass judges all: the admissible image where there is one, else the image beyond the ball
        judged = torch.where(inside.view(-1, *[1] * (clean.dim() - 1)), threat.project(proposed, clean), boxed)
    answer, truth, inside = answers(judged).cpu(), labels.cpu(), inside.cpu()
    fooled = answer != truth
    nowhere = torch.tensor(float("inf"), dtype=torch.float64)
    sizes = {norm: torch.where(fooled, _size(norm, judged, clean), nowhere) for norm in NORMS}
    if runner.bounded:
        least = sizes[threat.norm].clamp_max(threat.epsilon)
        sizes[threat.norm] = torch.where(fooled & inside, least, sizes[threat.norm])
    outcomes = Outcomes(
        threat,
        index=at,
        label=truth,
        clean=truth,
        success=fooled & inside,
        prediction=torch.where(inside, answer, truth),
        distance=threat.distance(judged, clean).cpu(),
        answer=answer,
        admissible=inside,
        size_linf=sizes["linf"],
        size_l2=sizes["l2"],
        size_l1=sizes["l1"],
    )
    return judged, outcomes


def _size(norm: str, images: Tensor, clean: Tensor) -> Tensor:
    """Measure perturbations, (n,) float64 on the CPU: rounding must not decide where certificates are compared."""
    delta = (images.detach().cpu().double() - clean.detach().cpu().double()).flatten(1)
    length: Tensor = torch.linalg.vector_norm(delta, ord=ORDER[norm], dim=1)
    return length
