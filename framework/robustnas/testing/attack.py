"""The promises of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.attack import ORDER, TOLERANCE, evaluate
from robustnas.errors import OptionError
from robustnas.foolbox_import import load_foolbox
from robustnas.testing.networks import fit, tiny_images, tiny_network
from robustnas.testing.promise import Judge, judge, made, own_randomness
from robustnas.threat import NORMS, ThreatModel

IMAGES = 12


def check_attack(plugin: Any, *, norms: Sequence[str] | None = None, epsilon: float = 0.05, seed: int = 0) -> None:
    """Hold an attack to its contract on a tiny trained network.

    Args:
        plugin: a factory (its class is made with default options), or a foolbox attack or its class.
        norms: norms it must know; by default those it accepts, at least one.
        epsilon: a radius in pixel units at which ball and box are checked.
        seed: of the network, of the images and of the attack's own draws.

    Raises:
        ConformanceError: a broken promise.
    """
    attack, verdict = made(plugin), judge(plugin)
    verdict.require(norms is None or bool(norms), "is checked for at least one norm", f"norms={norms!r}")
    with own_randomness(seed), torch.enable_grad():
        images, labels = tiny_images(IMAGES)
        network = tiny_network()
        fit(network, *tiny_images(48), steps=150)
        right = network(images).argmax(1) == labels
        if right.sum() < IMAGES - 2:
            raise RuntimeError(f"the kit's own network has not learned from seed {seed}; give another")
        images, labels = images[right], labels[right]  # the harness attacks no others
        for one in network.parameters():
            one.requires_grad_(False)  # as the harness does: foolbox leaves gradients on what is not frozen

        known = _known_norms(attack, verdict)
        for norm in norms or known:
            verdict.require(norm in known, f"knows the norm {norm}", f"it refuses it; it knows {known}")
            for radius in (0.0, epsilon, 1.0):
                with verdict.unchanged(network, "the network"):
                    _check_run(attack, ThreatModel(norm, radius), network, images, labels, verdict, seed)
            _check_success(attack, norm, network, images, labels, verdict, seed)


def _known_norms(attack: Any, verdict: Judge) -> list[str]:
    """The norms an attack accepts; the others it refuses with an OptionError."""
    known = []
    for norm in NORMS:
        try:
            with verdict.promised(f"build accepts the norm {norm} or raises OptionError", unless=(OptionError,)):
                _built(attack, ThreatModel(norm, 0.1), verdict)
        except OptionError:
            continue
        known.append(norm)
    verdict.require(bool(known), f"knows at least one norm of {', '.join(NORMS)}", "it refuses all of them")
    return known


def _built(attack: Any, threat: ThreatModel, verdict: Judge) -> Any:
    """The foolbox attack for a threat: from a factory's `build`, or the entry itself if its distance fits."""
    foolbox = load_foolbox()
    factory = callable(getattr(attack, "build", None))
    built = attack.build(threat) if factory else attack
    verdict.require(
        isinstance(built, foolbox.attacks.base.AttackWithDistance),
        "is a foolbox attack with a distance, or has build(threat) that gives one",
        type(built).__name__,
    )
    fits = getattr(built.distance, "p", None) == ORDER[threat.norm]
    if not factory and not fits:
        raise OptionError(f"this foolbox attack measures {built.distance}, not {threat.norm}")
    verdict.require(fits, "build gives an attack whose distance is the threat's norm", f"{built.distance} for {threat}")
    return built


def _run(built: Any, threat: ThreatModel, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Any, bool]:
    """What the attack gives, run as the harness runs it, and whether it promises to stay in the ball."""
    foolbox = load_foolbox()
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    wrong = foolbox.criteria.Misclassification(labels.clone())
    if isinstance(built, foolbox.attacks.base.MinimizationAttack):
        return built.run(model, images, wrong, early_stop=None), False
    if isinstance(built, foolbox.attacks.base.FixedEpsilonAttack):
        return built.run(model, images, wrong, epsilon=threat.epsilon), True
    return built(model, images, wrong, epsilons=threat.epsilon)[1], True  # a wrapper such as foolbox's Repeated


def _check_run(
    attack: Any,
    threat: ThreatModel,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    verdict: Judge,
    seed: int,
) -> None:
    """What the attack gives at one radius is images, inside ball and box."""
    built = _built(attack, threat, verdict)
    given = images.clone()
    torch.manual_seed(seed)
    with verdict.promised(f"runs under {threat}"):
        found, stays = _run(built, threat, network, given, labels)
    verdict.require(
        isinstance(found, Tensor) and found.shape == images.shape and found.dtype == images.dtype,
        "gives images of the shape and dtype it was given",
        f"{found.dtype}, {tuple(found.shape)} for {images.dtype}, {tuple(images.shape)}"
        if isinstance(found, Tensor)
        else type(found).__name__,
    )
    verdict.require(torch.equal(given.detach(), images), "leaves the clean images as they were", "they differ")
    found = found.detach()
    verdict.require(bool(found.isfinite().all()), "gives finite images", f"it does not, under {threat}")
    low, high = float(found.min()), float(found.max())
    verdict.require(
        low >= -TOLERANCE and high <= 1 + TOLERANCE,
        "stays in the box [0, 1]",
        f"{low:.5g} to {high:.5g} under {threat}",
    )
    if stays:
        moved = float(threat.distance(found, images).max())
        promise = "moves nothing at epsilon 0" if threat.epsilon == 0 else "stays in the ball"
        verdict.require(moved <= threat.epsilon + TOLERANCE, promise, f"moved by {moved:.5g} under {threat}")


def _check_success(
    attack: Any, norm: str, network: nn.Module, images: Tensor, labels: Tensor, verdict: Judge, seed: int
) -> None:
    """Judged by the harness, the attack breaks something in a ball that holds images of every class."""
    threat = ThreatModel(norm, images[0].numel() if norm == "l1" else 1.0)
    records = []
    for _ in range(2):
        with verdict.promised(f"the harness takes what it gives under {threat}"):
            records.append(evaluate(network, images, labels, _built(attack, threat, verdict), threat, seed=seed))
    once, again = records
    verdict.require(
        torch.equal(once.perturbed, again.perturbed) and torch.allclose(once.distance, again.distance, atol=1e-6),
        "draws at random from seeded global generators only, so that a run can be repeated",
        "two runs from one seed differ",
    )
    verdict.require(
        bool(once.success.any()),
        "breaks an image of a small network at epsilon 1 (l1: the number of pixel values)",
        f"all {int(once.correct.sum())} images that are right stay right under {threat}",
    )
