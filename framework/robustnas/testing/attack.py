"""The promises of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.errors import OptionError
from robustnas.testing.networks import fit, tiny_images, tiny_network
from robustnas.testing.promise import Judge, judge, made, own_randomness
from robustnas.threat import NORMS, ThreatModel

IMAGES = 12
SLACK = 1e-5
"""How far outside the ball rounding may put an image, in pixel units; the harness clips that much."""


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
        right = (network(images).argmax(1) == labels).sum().item()
        if right < IMAGES - 2:
            raise RuntimeError(f"the kit's own network has not learned (seed {seed}): {right} of {IMAGES} right")
        for one in network.parameters():
            one.requires_grad_(False)  # as the harness does: foolbox leaves gradients on what is not frozen

        known = _known_norms(attack, verdict)
        for norm in norms or known:
            verdict.require(norm in known, f"knows the norm {norm}", f"it refuses it; it knows {known}")
            for radius in (0.0, epsilon, 1.0):
                with verdict.unchanged(network, "the network"):
                    _check_radius(attack, ThreatModel(norm, radius), network, images, labels, verdict, seed)


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
    """The foolbox attack for one threat: from a factory's `build`, or the entry itself if its distance fits."""
    from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack
    from foolbox.distances import LpDistance

    factory = callable(getattr(attack, "build", None))
    built = attack.build(threat) if factory else attack
    verdict.require(
        isinstance(built, FixedEpsilonAttack | MinimizationAttack),
        "is a foolbox attack (with a fixed epsilon, or minimising), or has build(threat) that gives one",
        f"{type(built).__name__}",
    )
    order = {"linf": float("inf"), "l2": 2.0}[threat.norm]
    fits = isinstance(built.distance, LpDistance) and built.distance.p == order
    if not factory and not fits:
        raise OptionError(f"this foolbox attack measures {built.distance}, not {threat.norm}")
    verdict.require(fits, "build gives an attack whose distance is the threat's norm", f"{built.distance} for {threat}")
    return built


def _check_radius(
    attack: Any, threat: ThreatModel, network: nn.Module, images: Tensor, labels: Tensor, verdict: Judge, seed: int
) -> None:
    """One run of the attack, as the harness runs it, at one radius."""
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.criteria import Misclassification
    from foolbox.models import PyTorchModel

    built = _built(attack, threat, verdict)
    model = PyTorchModel(network, bounds=(0, 1), device="cpu")
    fixed = isinstance(built, FixedEpsilonAttack)
    radius = {"epsilon": threat.epsilon} if fixed else {"early_stop": threat.epsilon}
    given = images.clone()
    torch.manual_seed(seed)
    with verdict.promised(f"runs under {threat}"):
        found = built.run(model, given, Misclassification(labels.clone()), **radius)
    verdict.require(
        isinstance(found, Tensor) and found.shape == images.shape and found.dtype == images.dtype,
        "gives images of the shape and dtype it was given",
        f"{found.dtype}, {tuple(found.shape)} for {images.dtype}, {tuple(images.shape)}"
        if isinstance(found, Tensor)
        else type(found).__name__,
    )
    found = found.detach()
    verdict.require(torch.equal(given.detach(), images), "leaves the clean images as they were", "they differ")
    verdict.require(bool(found.isfinite().all()), "gives finite images", f"it does not, under {threat}")
    low, high = float(found.min()), float(found.max())
    verdict.require(
        low >= -SLACK and high <= 1 + SLACK, "stays in the box [0, 1]", f"{low:.5g} to {high:.5g} under {threat}"
    )
    distances = threat.distance(found, images)
    if fixed:
        promise = "moves nothing at epsilon 0" if threat.epsilon == 0 else "stays in the ball"
        # rounding of an l_2 length grows with it
        allowed = threat.epsilon * (1 + 1e-5) + SLACK
        verdict.require(
            bool((distances <= allowed).all()), promise, f"moved by {float(distances.max()):.5g} under {threat}"
        )
    if threat.epsilon == 1.0:
        with torch.no_grad():
            right = network(images).argmax(1) == labels
            broken = right & (network(threat.project(found, images)).argmax(1) != labels)
        verdict.require(
            bool((broken & (distances <= 1 + SLACK)).any()),
            "breaks an image of a small network at epsilon 1",
            f"all {int(right.sum())} images that are right stay right under {threat}",
        )
