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
from robustnas.testing.networks import CLASSES, fit, tiny_images, tiny_network
from robustnas.testing.promise import Judge, check_suited, judge, made, own_randomness
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
        torch.manual_seed(seed)
        draws = PerImageRandom.of_images(self.seed, runner.name, chosen)
        found = runner.call(model, given, foolbox.criteria.Misclassification(labels.clone()), draws)
        self.verdict.require(
            torch.equal(given.detach(), self.images[chosen]), "leaves the clean images as they were", "they differ"
        )
        return found, counted.images


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
    access = AttackTraits.of(attack).access
    verdict.require(access in ACCESS, f"access is one of {', '.join(ACCESS)}", repr(access))
    _check_promised_cost(attack, verdict)
    network, images, labels = copy.deepcopy(_learned(seed))
    bench = _Bench(attack, access, network, images, labels, seed, verdict)
    with own_randomness(seed), torch.enable_grad():
        known = _known_norms(attack, verdict)
        for norm in norms or known:
            verdict.require(norm in known, f"knows the norm {norm}", f"it refuses it; it knows {known}")
            check_suited(attack, images.shape[1:], CLASSES, ThreatModel(norm, epsilon), verdict)
            # what a corruption does depends on no radius
            for radius in (epsilon,) if access == "corruption" else (0.0, epsilon, 1.0):
                with verdict.unchanged(network, "the network"):
                    _check_radius(bench, ThreatModel(norm, radius))
            _check_success(bench, ThreatModel(norm, largest_radius(norm, images[0].numel())))


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


def _check_promised_cost(attack: Any, verdict: Judge) -> None:
    """Require that `evaluations`, where there is one, gives a positive number for any number of classes."""
    tells = AttackTraits.of(attack).evaluations
    if tells is None:
        return
    for classes in (2, CLASSES, 1000):
        with verdict.promised(f"evaluations({classes}) tells what an image costs at most"):
            cost = tells(classes)
        verdict.require(
            isinstance(cost, int | float) and math.isfinite(cost) and cost > 0,
            "evaluations is a positive number",
            f"{cost!r} for {classes} classes",
        )


def _known_norms(attack: Any, verdict: Judge) -> list[str]:
    """Return the norms an attack accepts; require that it refuses the others with an OptionError."""
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
    bench.verdict.require(
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
        with bench.verdict.promised(f"{part.name or 'it'} runs under {threat}", _hint(bench)):
            found, used = bench.run(part, everything, bench.seed)
        cost += used
        _check_images(bench, part, found, threat)
        if part.takes_draws:
            _check_independence(bench, part, found.detach(), threat)
    if (tells := AttackTraits.of(bench.attack).evaluations) is not None:
        promised = tells(CLASSES)
        bench.verdict.require(
            cost <= promised * count,
            "an image costs at most `evaluations`",
            f"{cost / count:g} on average under {threat}, where {promised:g} are promised",
        )


def _hint(bench: _Bench) -> str:
    """Say what may be wrong where an attack was not shown gradients."""
    return "" if bench.sighted else f"an attack whose access is {bench.access} sees no gradients"


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
    verdict.require(
        low >= -TOLERANCE and high <= 1 + TOLERANCE,
        "stays in the box [0, 1]",
        f"{low:.5g} to {high:.5g} under {threat}",
    )
    if part.stays_inside and part.bounded:
        moved = float(threat.distance(found, images).max())
        promise = "moves nothing at epsilon 0" if threat.epsilon == 0 else "stays in the ball"
        verdict.require(moved <= threat.epsilon + TOLERANCE, promise, f"moved by {moved:.5g} under {threat}")


def _check_independence(bench: _Bench, part: Runner, whole: Tensor, threat: ThreatModel) -> None:
    """Require that an image gets the same among others, in another order and with other global generators.

    One image may differ: where rounding decides a comparison, an attack may go another way from there.
    """
    chosen = torch.arange(len(whole) - 1, -1, -2)
    with bench.verdict.promised(f"runs on {len(chosen)} images as on {len(whole)}"):
        found, _ = bench.run(part, chosen, bench.seed + 1)
    apart = (found.detach() - whole[chosen]).abs().flatten(1).amax(dim=1)
    bench.verdict.require(
        int((apart > SAME).sum()) <= 1,
        "draws from the draws it takes and treats each image alone",
        f"of {len(chosen)} images {int((apart > SAME).sum())} differ among other images, by up to "
        f"{float(apart.max()):.3g}, under {threat}",
    )


def _check_success(bench: _Bench, threat: ThreatModel) -> None:
    """Require the same of two runs of the harness; what searches has to break something in the largest ball."""
    verdict, records = bench.verdict, []
    for _ in range(2):
        with verdict.promised(f"the harness takes what it gives under {threat}"):
            built = _built(bench.attack, threat, verdict)
            records.append(
                evaluate(bench.network, bench.images, bench.labels, built, threat, Conditions(seed=bench.seed))
            )
    once, again = records
    verdict.require(
        torch.equal(once.prediction, again.prediction) and torch.allclose(once.distance, again.distance, atol=1e-6),
        "draws at random from seeded global generators only, so that a run can be repeated",
        "two runs from one seed differ",
    )
    if bench.access in SEARCHES:
        verdict.require(
            bool(once.success.any()),
            "breaks an image of a small network in the ball that holds every image",
            f"all {int(once.correct.sum())} images that are right stay right under {threat}",
        )
