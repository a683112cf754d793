"""The promises of a training regime: `loss`, and what it may have beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.nn.normalize import PixelNetwork
from robustnas.testing.networks import settle, tiny_images, tiny_network
from robustnas.testing.promise import Judge, close, figures, judge, made, own_randomness
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes.defaults import member

IMAGES = 6
EPOCHS = 8


def check_regime(plugin: Any, *, norms: Sequence[str] = NORMS, epsilon: float = 8 / 255, seed: int = 0) -> None:
    """Hold a training regime to its contract on a tiny discrete network.

    Args:
        plugin: the regime, or its class, which is made with default options.
        norms: norms of the threat it is checked for.
        epsilon: radius of the threat, in pixel units.
        seed: of the network, of the images and of draws.

    Raises:
        ConformanceError: a broken promise.
    """
    regime, verdict = made(plugin), judge(plugin)
    verdict.require(
        bool(norms) and set(norms) <= set(NORMS), f"is checked for norms of {', '.join(NORMS)}", f"norms={norms!r}"
    )
    with own_randomness(seed), torch.enable_grad():
        for norm in norms:
            threat = ThreatModel(norm, epsilon)
            for known in (None, threat):
                with verdict.promised(f"check lets pass {EPOCHS} epochs and {known or 'any threat'}"):
                    member(regime, "check")(EPOCHS, known)
            network = PixelNetwork(tiny_network(), (0.45,), (0.15,))
            settle(network, tiny_images(IMAGES)[0])
            for passed in (0.0, EPOCHS / 2, float(EPOCHS)):
                _check_loss(regime, network, threat, passed, verdict)
                _check_schedule(regime, threat, passed, verdict)
            _check_right(regime, network, threat, verdict)


def _check_loss(regime: Any, network: PixelNetwork, threat: ThreatModel, passed: float, verdict: Judge) -> None:
    """Its form, its gradient, and what it leaves behind, once the backward pass is done."""
    images, labels = tiny_images(IMAGES)
    network.train()
    values, before = [], copy.deepcopy(network.state_dict())
    for _ in range(2):
        network.load_state_dict(before)  # images are perturbed with running statistics, which the first pass has moved
        given, true = images.clone(), labels.clone()
        with verdict.unchanged(network, "the network", buffers=False), ExitStack() as held:
            torch.manual_seed(0)
            context = TrainingContext(
                passed, EPOCHS, torch.Generator().manual_seed(0), F.cross_entropy, _plain, held.enter_context
            )
            with verdict.promised(
                f"loss works under {threat}", "name the norms it knows: check_regime(..., norms=...)"
            ):
                found = regime.loss(network, given, true, threat, context)
            _check_form(found, labels, verdict)
            slopes = torch.autograd.grad(found.loss, list(network.parameters()), allow_unused=True)
        values.append(found.loss.detach())
        there = [slope for slope in slopes if slope is not None]
        verdict.require(
            bool(there)
            and all(bool(slope.isfinite().all()) for slope in there)
            and any(slope.any() for slope in there),
            "loss is differentiable in the weights",
            f"no finite gradient other than zero after {passed:g} of {EPOCHS} epochs",
        )
        verdict.require(
            torch.equal(given.detach(), images) and torch.equal(true, labels) and not given.requires_grad,
            "loss leaves the images and labels as they were",
            "they differ after the call",
        )
        statistics = dict(network.named_buffers())
        verdict.require(
            all(bool(one.isfinite().all()) and not one.requires_grad for one in statistics.values()),
            "running statistics move as in an ordinary pass",
            "one is not finite, or has a graph",
        )
    verdict.require(
        close(values[0], values[1], 1e-4), "loss is repeatable given its draws", f"{figures(values[0])}, then others"
    )


def _check_form(found: Any, labels: Tensor, verdict: Judge) -> None:
    verdict.require(isinstance(found, TrainingLoss), "loss returns a TrainingLoss", type(found).__name__)
    verdict.require(
        found.loss.shape == () and bool(found.loss.isfinite()) and found.loss.requires_grad,
        "the loss is a finite scalar with its graph",
        figures(found.loss),
    )
    verdict.require(
        found.logits.dim() == 2 and len(found.logits) == len(labels),
        "the logits are (N, K)",
        f"{tuple(found.logits.shape)} for N = {len(labels)}",
    )
    for name, figure in found.figures.items():
        verdict.require(
            figure.shape == labels.shape, f"figure {name!r} has a number an image", f"{tuple(figure.shape)}"
        )


def _check_schedule(regime: Any, threat: ThreatModel, passed: float, verdict: Judge) -> None:
    schedule = member(regime, "schedule")(passed, EPOCHS, threat)
    verdict.require(
        all(isinstance(figure, float) and abs(figure) < float("inf") for figure in schedule.values()),
        "schedule gives finite numbers by name",
        f"{schedule}",
    )


def _check_right(regime: Any, network: PixelNetwork, threat: ThreatModel, verdict: Judge) -> None:
    """Which images held out count, in eval mode."""
    images, labels = tiny_images(IMAGES)
    network.eval()
    with verdict.unchanged(network, "the network"), torch.no_grad():
        judged = member(regime, "perturbed")(network, images, labels, threat, torch.Generator().manual_seed(0))
        right = member(regime, "right")(network, judged, labels, threat)
    verdict.require(
        judged.shape == images.shape and not bool((threat.distance(judged, images) > 1.001 * threat.epsilon).any()),
        "perturbed gives images of the ball",
        f"{tuple(judged.shape)}, up to {figures(threat.distance(judged, images).max())} away",
    )
    verdict.require(
        isinstance(right, Tensor) and right.shape == labels.shape and right.dtype == torch.bool,
        "right tells which images count, (N,) bool",
        f"{right!r:.60}",
    )
    verdict.require(
        bool(member(regime, "judged")(EPOCHS, EPOCHS)), "the network after the last epoch may be kept", "judged says no"
    )


def _plain(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of standard training, and the logits."""
    logits: Tensor = network(images)
    return F.cross_entropy(logits, labels), logits
