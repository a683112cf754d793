"""The promises that a supernet and a discrete network have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustnas.bounds import margins
from robustnas.nn.read_only import lent
from robustnas.testing.networks import settle
from robustnas.testing.promise import Judge, close, figures
from robustnas.threat import ThreatModel


def built(build: Callable[[], object], seed: int, promise: str, verdict: Judge) -> nn.Module:
    """A module built from a seed, in training mode."""
    torch.manual_seed(seed)
    with verdict.promised(promise):
        module = build()
    if not isinstance(module, nn.Module):
        verdict.require(False, f"{promise}, as an nn.Module", type(module).__name__)
    return cast("nn.Module", module).train()


def logits_of(module: nn.Module, images: Tensor, classes: int, what: str, verdict: Judge, **more: Any) -> Tensor:
    """What a supernet or a network gives, after a look at its shape."""
    promise = f"{what} maps images (N, C, H, W) to logits (N, K)"
    with verdict.promised(promise), lent(module):
        logits: Tensor = module(images, **more)
    shape = (len(images), classes)
    verdict.require(
        isinstance(logits, Tensor) and logits.shape == shape,
        promise,
        f"{tuple(logits.shape)} instead of {shape} for images {tuple(images.shape)}"
        if isinstance(logits, Tensor)
        else type(logits).__name__,
    )
    verdict.require(
        logits.dtype == torch.float32 and bool(logits.isfinite().all()),
        f"{what} gives finite float32 logits",
        f"{logits.dtype}, {figures(logits)}",
    )
    return logits


def check_repeatable(one: nn.Module, other: nn.Module, what: str, verdict: Judge) -> None:
    """Two builds from one seed hold the same tensors."""
    first, second = one.state_dict(), other.state_dict()
    verdict.require(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first),
        f"{what} is the same when torch's seed is the same",
        "two builds from one seed have other tensors",
    )


def check_alone(module: nn.Module, images: Tensor, classes: int, what: str, verdict: Judge) -> None:
    """In eval mode, batch norm's statistics measured, an image's logits depend on that image alone."""
    torch.manual_seed(0)
    settle(module, images)
    module.eval()
    with torch.no_grad():
        together = logits_of(module, images, classes, what, verdict)
        for index in range(len(images)):
            alone = logits_of(module, images[index : index + 1], classes, what, verdict)[0]
            verdict.require(
                close(alone, together[index]),
                f"in eval mode {what} treats each image alone",
                f"{figures(together[index])} in a batch, {figures(alone)} alone",
            )


def check_bounds(
    module: nn.Module,
    images: Tensor,
    classes: int,
    methods: Sequence[str],
    norms: Sequence[str],
    verdict: Judge,
    what: str,
) -> None:
    """Every operation of a module in eval mode has a bound rule, and bounds are below the plain margins."""
    module.eval()
    labels = torch.arange(len(images)) % classes
    with torch.no_grad():
        logits = module(images)
    wrong = ~nn.functional.one_hot(labels, classes).bool()
    plain = (logits.gather(1, labels[:, None]) - logits)[wrong].view(len(images), classes - 1)
    slack = 1e-4 * logits.abs().max() + 1e-5
    for method in methods:
        for norm in norms:
            with (
                verdict.promised(f"bounds cover every operation of {what} ({method}, {norm})"),
                torch.no_grad(),
            ):
                lower = margins(module, images, labels, ThreatModel(norm, 1e-6), method=method)
            verdict.require(
                lower.shape == (len(images), classes - 1) and bool(lower.isfinite().all()),
                f"bounds of {what} are finite ({method}, {norm}, epsilon 1e-6)",
                figures(lower),
            )
            verdict.require(
                bool((lower <= plain + slack).all()),
                f"bounds of {what} hold at the clean images ({method}, {norm})",
                f"lower bounds {figures(lower)} of margins {figures(plain)}",
            )
