"""The promises of an attack."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.attack import TOLERANCE, Conditions, evaluate
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.runner import Runner, runners
from robustnas.contracts import ACCESS, AttackTraits
from robustnas.errors import OptionError
from robustnas.runtime.seeding import reseed
from robustnas.testing.networks import CLASSES, fit, tiny_images, tiny_network
from robustnas.testing.promise import Judge, check_norms, check_suited, judged, made, own_randomness
from robustnas.threat import NORMS, ORDER, ThreatModel, largest_radius

IMAGES = 12

SEARCHES = ("white-box", "black-box")
"""Access of attacks that look for an image that fools; the others show what comes."""

SAME = 1e-3
"""Pixel units by which an image may differ that was attacked among other images."""


class _NoGradient(nn.Module):
    """Answers as a network does, without a gradient: what an attack without sight is shown."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.detach())
        return logits.detach()


@frozen(eq=False)
class _Bench:
    """Holds an attack and what it is tried on: a network that is right on all of the images."""

    attack: Any
    access: str
    cost: float | None
    network: nn.Module
    images: Tensor
    labels: Tensor
    seed: int
    verdict: Judge

    @property
    def sighted(self) -> bool:
        """Whether it may see gradients, of the network it attacks or of the other methods' networks."""
        return self.access == "white-box" or bool(AttackTraits.of(self.attack).transfers)

    def run(self, runner: Runner, chosen: Tensor, seed: int) -> tuple[Any, int]:
        """Run a part as the harness does on the images at `chosen` (n,); return images and how many it evaluated.

        Args:
            seed: of the global generators; each image's own draws are the same whatever it is.
        """
        foolbox = load_foolbox()
        counted = Counted(self.network if self.sighted else _NoGradient(self.network))
        counted.eval()
        model = foolbox.PyTorchModel(counted, bounds=(0, 1), device="cpu")
        given, labels = self.images[chosen], self.labels[chosen]
        reseed(seed)
        draws = PerImageRandom.of_images(self.seed, runner.name, chosen)
        found = runner.call(model, given, foolbox.criteria.Misclassification(labels.clone()), draws)
        self.verdict.expect(
            torch.equal(given.detach(), self.images[chosen]), "leaves the clean images as they were", "they differ"
        )
        return found, counted.images


def check_attack(
    plugin: Any, *, norms: Sequence[str] | None = None, epsilon: float = 0.05, seed: int = 0
) -> tuple[str, ...]:
    """Hold an attack to its contract on a tiny trained network.

    Args:
        plugin: a factory (its class is made with default options), or a foolbox attack or its class.
        norms: norms it must know; by default those it accepts, at least one.
        epsilon: a radius in pixel units at which ball and box are checked.
        seed: of the network, of the images and of the attack's own draws.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("attack", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        attack = made(plugin, verdict)
        check_norms(NORMS if norms is None else norms, verdict)
        access = AttackTraits.of(attack).access
        verdict.expect(access in ACCESS, f"access is one of {', '.join(ACCESS)}", repr(access))
        cost = _promised_cost(attack, verdict)
        known = _known_norms(attack, verdict)
        for norm in norms or known:
            if not verdict.expect(norm in known, "knows the norms it is checked for", f"{norm}; it knows {known}"):
                continue
            network, images, labels = copy.deepcopy(_learned(seed))
            bench = _Bench(attack, access, cost, network, images, labels, seed, verdict)
            with verdict.apart():
                check_suited(attack, images.shape[1:], CLASSES, ThreatModel(norm, epsilon), verdict)
            # what a corruption does depends on no radius
            for radius in (epsilon,) if access == "corruption" else (0.0, epsilon, 1.0):
                with verdict.unchanged(network, "the network"), verdict.apart():
                    _check_radius(bench, ThreatModel(norm, radius))
            with verdict.apart():
                _check_success(bench, ThreatModel(norm, largest_radius(norm, images[0].numel())))
    return tuple(verdict.tried)


@functools.cache
def _learned(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Train the kit's network; return it frozen with images that it is right on, as the harness attacks no others."""
    with own_randomness(seed), torch.enable_grad():
        images, labels = tiny_images(IMAGES)
        network = tiny_network()
        fit(network, *tiny_images(48), steps=150)
        right = network(images).argmax(1) == labels
    if right.sum() < IMAGES - 2:
        raise RuntimeError(f"the kit's own network has not learned from seed {seed}; give another")
    for one in network.parameters():
        one.requires_grad_(False)  # as the harness does: foolbox leaves gradients on what is not frozen
    return network, images, labels


def _promised_cost(attack: Any, verdict: Judge) -> float | None:
    """Require that `evaluations` gives a positive number for any number of classes; return that for the kit's.

    None where the attack has no `evaluations`, or breaks this promise.
    """
    tells, costs = AttackTraits.of(attack).evaluations, dict[int, float]()
    if tells is None:
        return None
    with verdict.apart():
        for classes in (2, CLASSES, 1000):
            with verdict.promised("evaluations tells what an image costs at most", f"evaluations({classes})"):
                costs[classes] = cost = tells(classes)
            verdict.require(
                isinstance(cost, int | float) and math.isfinite(cost) and cost > 0,
                "evaluations is a positive number",
                f"{cost!r} for {classes} classes",
            )
        return costs[CLASSES]
    return None


def _known_norms(attack: Any, verdict: Judge) -> list[str]:
    """Return the norms an attack accepts; require that it refuses the others with an OptionError."""
    known = []
    for norm in NORMS:
        try:
            with (
                verdict.apart(),
                verdict.promised("build accepts a norm or raises OptionError", norm, unless=(OptionError,)),
            ):
                _built(attack, ThreatModel(norm, 0.1), verdict)
                known.append(norm)
        except OptionError:
            continue
    verdict.require(bool(known), f"knows at least one norm of {', '.join(NORMS)}", "it refuses all of them")
    return known


def _built(attack: Any, threat: ThreatModel, verdict: Judge) -> Any:
    """Return the foolbox attack for a threat: what a factory builds, or the entry itself if its distance fits."""
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


def _parts(bench: _Bench, threat: ThreatModel) -> list[Runner]:
    """Return the parts of the attack as the harness takes it apart; one that is not composed is its own part."""
    built = _built(bench.attack, threat, bench.verdict)
    composed = AttackTraits.of(built).parts
    if composed is not None:
        bench.verdict.require(bool(composed), "is composed of at least one part", "parts is empty")
    with bench.verdict.promised("every part is a foolbox attack whose distance is the threat's norm"):
        parts = runners(built, threat, bench.verdict.plugin)
    bench.verdict.expect(
        bench.access == "corruption" or all(part.bounded for part in parts),
        "an attack without a ball has the access corruption: others count for the worst case",
        bench.access,
    )
    return parts


def _check_radius(bench: _Bench, threat: ThreatModel) -> None:
    """Check what all parts give at one radius, what that costs, and that each image is attacked alone."""
    cost, count = 0, len(bench.images)
    for part in _parts(bench, threat):
        everything = torch.arange(count)
        with bench.verdict.promised("runs under every threat it accepts", f"{part.name or 'run'} under {threat}"):
            found, used = bench.run(part, everything, bench.seed)
        cost += used
        _check_images(bench, part, found, threat)
        if part.takes_draws:
            _check_independence(bench, part, found.detach(), threat)
    if bench.cost is not None:
        bench.verdict.expect(
            cost <= bench.cost * count,
            "an image costs at most `evaluations`",
            f"{cost / count:g} on average under {threat}, where {bench.cost:g} are promised",
        )


def _check_images(bench: _Bench, part: Runner, found: Any, threat: ThreatModel) -> None:
    """Require that what a part gives is images, inside ball and box."""
    images, verdict = bench.images, bench.verdict
    verdict.require(
        isinstance(found, Tensor) and found.shape == images.shape and found.dtype == images.dtype,
        "gives images of the shape and dtype it was given",
        f"{found.dtype}, {tuple(found.shape)} for {images.dtype}, {tuple(images.shape)}"
        if isinstance(found, Tensor)
        else type(found).__name__,
    )
    found = found.detach()
    verdict.require(bool(found.isfinite().all()), "gives finite images", f"it does not, under {threat}")
    low, high = float(found.min()), float(found.max())
    verdict.expect(
        low >= -TOLERANCE and high <= 1 + TOLERANCE,
        "stays in the box [0, 1]",
        f"{low:.5g} to {high:.5g} under {threat}",
    )
    if part.stays_inside and part.bounded:
        moved = float(threat.distance(found, images).max())
        promise = "moves nothing at epsilon 0" if threat.epsilon == 0 else "stays in the ball"
        verdict.expect(moved <= threat.epsilon + TOLERANCE, promise, f"moved by {moved:.5g} under {threat}")


def _check_independence(bench: _Bench, part: Runner, whole: Tensor, threat: ThreatModel) -> None:
    """Require that an image gets the same among others, in another order and with other global generators.

    One image may differ: where rounding decides a comparison, an attack may go another way from there.
    """
    chosen = torch.arange(len(whole) - 1, -1, -2)
    with bench.verdict.promised("runs on some of the images as on all of them"):
        found, _ = bench.run(part, chosen, bench.seed + 1)
    apart = (found.detach() - whole[chosen]).abs().flatten(1).amax(dim=1)
    bench.verdict.expect(
        int((apart > SAME).sum()) <= 1,
        "draws from the draws it takes and treats each image alone",
        f"of {len(chosen)} images {int((apart > SAME).sum())} differ among other images, by up to "
        f"{float(apart.max()):.3g}, under {threat}",
    )


def _check_success(bench: _Bench, threat: ThreatModel) -> None:
    """Require the same of two runs of the harness; what searches has to break something in the largest ball."""
    verdict, records = bench.verdict, []
    for _ in range(2):
        with verdict.promised("the harness takes what it gives", f"under {threat}"):
            built = _built(bench.attack, threat, verdict)
            records.append(
                evaluate(bench.network, bench.images, bench.labels, built, threat, Conditions(seed=bench.seed))
            )
    once, again = records
    verdict.expect(
        torch.equal(once.prediction, again.prediction) and torch.allclose(once.distance, again.distance, atol=1e-6),
        "draws at random from seeded global generators only, so that a run can be repeated",
        "two runs from one seed differ",
    )
    if bench.access in SEARCHES:
        verdict.expect(
            bool(once.success.any()),
            "breaks an image of a small network in the ball that holds every image",
            f"all {int(once.correct.sum())} images that are right stay right under {threat}",
        )
