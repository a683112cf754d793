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
from robustnas.runtime.seeding import reseed
from robustnas.testing.networks import settle, tiny_images, tiny_network
from robustnas.testing.promise import Judge, check_norms, close, figures, judged, made, own_randomness
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes.defaults import member

IMAGES = 6
EPOCHS = 8


def check_regime(
    plugin: Any, *, norms: Sequence[str] = NORMS, epsilon: float = 8 / 255, seed: int = 0
) -> tuple[str, ...]:
    """Hold a training regime to its contract on a tiny discrete network.

    Args:
        plugin: the regime, or its class, which is made with default options.
        norms: norms of the threat it is checked for.
        epsilon: radius of the threat, in pixel units.
        seed: of the network, of the images and of draws.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("regime", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        regime = made(plugin, verdict)
        check_norms(norms, verdict)
        for norm in norms:
            threat = ThreatModel(norm, epsilon)
            for known in (None, threat):
                where = f"{EPOCHS} epochs and {known or 'any threat'}"
                with verdict.apart(), verdict.promised("check lets pass what the kit tries it on", where):
                    member(regime, "check")(EPOCHS, known)
            network = PixelNetwork(tiny_network(), (0.45,), (0.15,))
            settle(network, tiny_images(IMAGES)[0])
            for passed in (0.0, EPOCHS / 2, float(EPOCHS)):
                with verdict.apart():
                    _check_loss(regime, copy.deepcopy(network), threat, passed, verdict)
                with verdict.apart():
                    _check_schedule(regime, threat, passed, verdict)
            with verdict.apart():
                _check_right(regime, network, threat, verdict)
    return tuple(verdict.tried)


def _check_loss(regime: Any, network: PixelNetwork, threat: ThreatModel, passed: float, verdict: Judge) -> None:
    """Its form, its gradient, and what it leaves behind, once the backward pass is done."""
    images, labels = tiny_images(IMAGES)
    values, before = [], copy.deepcopy(network.state_dict())
    for _ in range(2):
        network.load_state_dict(before)  # images are perturbed with running statistics, which the first pass has moved
        network.train()
        given, true = images.clone(), labels.clone()
        with verdict.unchanged(network, "the network", buffers=False), ExitStack() as held:
            reseed(0)
            context = TrainingContext(
                passed, EPOCHS, torch.Generator().manual_seed(0), F.cross_entropy, _plain, held.enter_context
            )
            with verdict.promised("loss works for every norm it is checked for", f"{threat}"):
                found = regime.loss(network, given, true, threat, context)
            _check_form(found, labels, verdict)
            slopes = torch.autograd.grad(found.loss, list(network.parameters()), allow_unused=True)
        values.append(found.loss.detach())
        there = [slope for slope in slopes if slope is not None]
        verdict.expect(
            bool(there)
            and all(bool(slope.isfinite().all()) for slope in there)
            and any(slope.any() for slope in there),
            "loss is differentiable in the weights",
            f"no finite gradient other than zero after {passed:g} of {EPOCHS} epochs",
        )
        verdict.expect(
            torch.equal(given.detach(), images) and torch.equal(true, labels) and not given.requires_grad,
            "loss leaves the images and labels as they were",
            "they differ after the call",
        )
        statistics = dict(network.named_buffers())
        verdict.expect(
            all(bool(one.isfinite().all()) and not one.requires_grad for one in statistics.values()),
            "running statistics move as in an ordinary pass",
            "one is not finite, or has a graph",
        )
    verdict.expect(
        close(values[0], values[1], 1e-4), "loss is repeatable given its draws", f"{figures(values[0])}, then others"
    )


def _check_form(found: Any, labels: Tensor, verdict: Judge) -> None:
    verdict.require(isinstance(found, TrainingLoss), "loss returns a TrainingLoss", type(found).__name__)
    verdict.require(
        found.loss.shape == () and bool(found.loss.isfinite()) and found.loss.requires_grad,
        "the loss is a finite scalar with its graph",
        figures(found.loss),
    )
    verdict.expect(
        found.logits.dim() == 2 and len(found.logits) == len(labels),
        "the logits are (N, K)",
        f"{tuple(found.logits.shape)} for N = {len(labels)}",
    )
    for name, figure in found.figures.items():
        verdict.expect(figure.shape == labels.shape, "figures have a number an image", f"{name!r}: {figure.shape}")


def _check_schedule(regime: Any, threat: ThreatModel, passed: float, verdict: Judge) -> None:
    schedule = member(regime, "schedule")(passed, EPOCHS, threat)
    verdict.expect(
        all(isinstance(figure, float) and abs(figure) < float("inf") for figure in schedule.values()),
        "schedule gives finite numbers by name",
        f"{schedule}",
    )


def _check_right(regime: Any, network: PixelNetwork, threat: ThreatModel, verdict: Judge) -> None:
    """Which images held out count, in eval mode."""
    images, labels = tiny_images(IMAGES)
    network.eval()
    with verdict.unchanged(network, "the network"), torch.no_grad():
        shown = member(regime, "perturbed")(network, images, labels, threat, torch.Generator().manual_seed(0))
        right = member(regime, "right")(network, shown, labels, threat)
    verdict.expect(
        shown.shape == images.shape and not bool((threat.distance(shown, images) > 1.001 * threat.epsilon).any()),
        "perturbed gives images of the ball",
        f"{tuple(shown.shape)}, up to {figures(threat.distance(shown, images).max())} away",
    )
    verdict.expect(
        isinstance(right, Tensor) and right.shape == labels.shape and right.dtype == torch.bool,
        "right tells which images count, (N,) bool",
        f"{right!r:.60}",
    )
    last = bool(member(regime, "judged")(EPOCHS, EPOCHS))
    verdict.expect(last, "judged lets the network after the last epoch be kept", "it says no")


def _plain(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of standard training, and the logits."""
    logits: Tensor = network(images)
    return F.cross_entropy(logits, labels), logits
