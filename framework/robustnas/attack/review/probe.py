"""Probes a network with a handful of images, before anybody believes what attacks say of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.review import answers, gradients
from robustnas.attack.review.flag import Flag
from robustnas.attack.review.inner import gradients_in_forward
from robustnas.contracts import Images
from robustnas.data.images import on_device
from robustnas.data.order import in_order
from robustnas.errors import DataError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.machine_faults import blaming
from robustnas.runtime.precision import float32_with_gradients
from robustnas.runtime.report import Report, silent
from robustnas.runtime.seeding import seeded

LOOKED_AT = 16
"""For each image that is wanted, at most so many are classified in the search for ones that the network has right."""

CHECKS = 6
"""Number of checks, after each of which `report` is called."""


def probe(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    norm: str,
    *,
    count: int = 64,
    device: torch.device,
    seed: int,
    report: Report = silent,
) -> list[Flag]:
    """List the warnings a network earns by itself: at most one of each name, in the order of the checks.

    Meanwhile the network is in eval mode and float32, its parameters frozen and torch's generators seeded; all of this
    is restored.  Finding the images costs at most 16 `count` evaluations; each of them then costs about 20, and at most
    174 where gradients lead nowhere.

    Args:
        network: (N, C, H, W) in [0, 1] -> (N, K) logits, on `device`.
        images: at least N of them.
        labels: (N,) int64.
        norm: `linf`, `l2` or `l1`, in which steps are taken.
        count: at most so many of the first 16 `count` images are probed, those that the network classifies rightly.
            Where there are none, the checks that need no label are done on the first images.
        device: where the network lives.
        seed: of every random draw.
        report: is called after each check.

    Raises:
        RunError: the network raised, or returned what is not finite logits (N, K).
        DataError: no image, or labels that do not fit.
    """
    if labels.dtype != torch.int64 or labels.dim() != 1 or not 0 < len(labels) <= len(images.labels):
        raise DataError(
            f"labels must be int64, one for each of the first images of {len(images.labels)}, and at least one; "
            f"found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    source = on_device(images, device)
    checked = _checked(network)
    flags: list[Flag] = []
    with read_only(network), float32_with_gradients(device), seeded(seed, "review"):
        with torch.no_grad():
            right = _right(checked, source, labels, count, device)
            report(1, CHECKS, "check")
            first = source.take(right if len(right) else torch.arange(min(count, len(labels)))).float()
            once = checked(first)
            flags += answers.randomised(once, checked(first))
            flags += answers.probabilities(once)
        report(2, CHECKS, "check")
        flags += _inner(checked, first)
        report(3, CHECKS, "check")
        if len(right):
            truth, draws = labels[right].to(device), PerImageRandom.of_images(seed, "review", right, device)
            flags += gradients.zero(checked, first, truth)
            report(4, CHECKS, "check")
            flags += gradients.against_noise(checked, first, truth, norm, draws)
            report(5, CHECKS, "check")
            flags += gradients.reaches_zero(checked, first, truth, norm, draws)
    report(CHECKS, CHECKS, "check")
    return flags


def _right(
    network: Callable[[Tensor], Tensor], images: Images, labels: Tensor, count: int, device: torch.device
) -> Tensor:
    """Find the first `count` images that the network classifies rightly, as far as it looks: (n,) int64 on the CPU."""
    right = torch.zeros(0, dtype=torch.int64)
    for indices in in_order(min(len(labels), LOOKED_AT * count), count):
        interrupt.check()
        predictions = network(images.take(indices).float()).argmax(dim=1).cpu()
        right = torch.cat([right, indices[predictions == labels[indices]]])
        if len(right) >= count:
            break
    return right[:count]


def _checked(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Wrap the network so that its faults become a RunError."""

    def call(images: Tensor) -> Tensor:
        with blaming("the network", "in its forward pass"):
            logits = network(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
            what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise RunError(f"the network must return logits (N, K) for N = {len(images)} images, found {what}")
        broken = int((~logits.isfinite().all(dim=1)).sum())
        if broken:
            raise RunError(
                f"the network's logits for {broken} of {len(images)} images are not finite: "
                "its training may have diverged; a smaller learning rate would do"
            )
        return logits

    return call


def _inner(network: Callable[[Tensor], Tensor], images: Tensor) -> list[Flag]:
    """Warn of a network that computes gradients while it answers."""
    if not gradients_in_forward(network, images):
        return []
    text = (
        "the network ran a backward pass during its forward pass: an attack differentiates through that optimisation "
        "or past it, and may miss what it does; an attack made for this network would do"
    )
    return [Flag("optimisation-in-forward", text)]
