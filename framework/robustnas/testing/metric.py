"""The promises of a robustness metric: `score`, `inner_loss`, `outer_loss`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import Context, is_differentiable, is_of_batch
from robustnas.runtime.seeding import reseed
from robustnas.testing.networks import CLASSES, SHAPE, TinySupernet, fit, settle, tiny_images, tiny_network
from robustnas.testing.promise import Judge, check_norms, check_suited, close, figures, judged, made, own_randomness
from robustnas.threat import NORMS, ThreatModel

IMAGES = 4
LEVELS = {"inner_loss": "the weights", "outer_loss": "alpha"}
TIMES = (0.0, 0.5, 1.0)
"""Shares of a search that have passed."""


def check_metric(
    plugin: Any,
    *,
    norms: Sequence[str] = NORMS,
    epsilons: tuple[float, float] = (1 / 255, 8 / 255),
    seed: int = 0,
) -> tuple[str, ...]:
    """Hold a metric to its contract on a tiny supernet and a tiny discrete network.

    Args:
        plugin: the metric, or its class, which is made with default options.
        norms: norms of the threat it is checked for.
        epsilons: two radii in pixel units: the score at the larger is not above the score at the smaller.
        seed: of the networks, of the images and of the metric's own draws.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("metric", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        metric = made(plugin, verdict)
        kept = [name for name in ("score", *LEVELS) if callable(getattr(metric, name, None))]
        verdict.require(
            bool(kept), "has at least one of score, inner_loss, outer_loss", f"{type(metric).__name__} has none of them"
        )
        check_norms(norms, verdict)
        verdict.require(len(set(epsilons)) == 2, "is checked for two radii", f"epsilons={epsilons!r}")
        networks = {"a supernet": TinySupernet(), "a discrete network": tiny_network()} if "score" in kept else {}
        for network in networks.values():
            fit(network, *tiny_images(24), steps=15)
        for norm in norms:
            small, large = (ThreatModel(norm, epsilon) for epsilon in sorted(epsilons))
            with verdict.apart():
                check_suited(metric, SHAPE, CLASSES, large, verdict)
            if "score" in kept:
                for name, network in networks.items():
                    with verdict.apart():
                        _check_score(_Score(metric.score, verdict, name, seed), network, (small, large), metric)
                if callable(getattr(metric, "at", None)):
                    with verdict.apart():
                        _check_over_time(metric, networks["a supernet"], verdict, seed, large)
            for level in kept:
                if level in LEVELS:
                    with verdict.apart():
                        _check_loss(getattr(metric, level), level, verdict, large, seed)
    return tuple(verdict.tried)


def _called(call: Callable[..., Any], name: str, where: str, kept: tuple[Tensor, Tensor], verdict: Judge) -> Tensor:
    """Call a method with copies of images and labels, which it has to leave as they are; return its tensor."""
    given, true = kept[0].clone(), kept[1].clone()
    with verdict.promised(f"{name} works for every norm it is checked for", where):
        value = call(given, true)
    form, shape = (
        ("a tensor of shape (N,), a number an image", true.shape) if name == "score" else ("a scalar tensor", ())
    )
    verdict.require(
        isinstance(value, Tensor) and value.shape == shape,
        f"{name} is {form}",
        f"shape {tuple(value.shape)} for N = {len(true)}" if isinstance(value, Tensor) else type(value).__name__,
    )
    verdict.require(bool(value.isfinite().all()), f"{name} is finite", f"{figures(value)} {where}")
    verdict.expect(
        torch.equal(given.detach(), kept[0]) and torch.equal(true, kept[1]) and not given.requires_grad,
        f"{name} leaves the images and labels as they were",
        "they differ after the call",
    )
    return torch.as_tensor(value)


@frozen(eq=False)
class _Score:
    """Calls a metric's `score` as the framework does: seeded, on copies of the images.

    What it does to the network is looked at once; elsewhere it is given a copy, so that one break hides no other.
    """

    score: Callable[..., Tensor]
    verdict: Judge
    place: str
    seed: int

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        seed: int | None = None,
        *,
        copied: bool = True,
    ) -> Tensor:
        reseed(self.seed if seed is None else seed)
        network = copy.deepcopy(network) if copied else network
        where = f"for {self.place} under {threat}"
        return _called(
            lambda *given: self.score(network, *given, threat), "score", where, (images, labels), self.verdict
        )


def _check_score(score: _Score, network: nn.Module, threats: tuple[ThreatModel, ThreatModel], metric: object) -> None:
    """Require a score that is repeatable, of each image alone, not larger for a larger ball, and differentiable.

    Of one that says that it is of the batch or has no gradient, require that instead, or nothing in its place.
    """
    verdict, large = score.verdict, threats[1]
    images, labels = tiny_images(IMAGES)
    left = copy.deepcopy(network)
    _plant_gradients(left)
    with verdict.unchanged(left, "the network", by="score"):
        once = score(left, images, labels, large, copied=False)
    again = score(network, images, labels, large)
    verdict.require(
        close(once, again, 1e-6), "score is repeatable given torch's seed", f"{figures(once)}, then {figures(again)}"
    )
    if is_of_batch(metric):
        with verdict.apart():
            _check_together(score, network, images, labels, large, once)
    else:
        with verdict.apart():
            _check_alone(score, network, images, labels, large, once)
        _check_epsilon(score, network, images, labels, threats, once)
    _check_gradient(score, network, images, labels, large, differentiable=is_differentiable(metric))


def _check_epsilon(
    score: _Score,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threats: tuple[ThreatModel, ThreatModel],
    once: Tensor,
) -> None:
    """Require that a larger ball does not make a larger score; `once` is that of the larger ball."""
    small, large = threats
    wide, narrow = once.detach(), score(network, images, labels, small).detach()
    slack = 1e-4 * (narrow.abs() + wide.abs()) + 1e-6  # scores are sums in float32, whose order may differ
    score.verdict.expect(
        bool((wide <= narrow + slack).all()),
        "score does not grow with epsilon",
        f"{figures(narrow)} under {small}, {figures(wide)} under {large}, for {score.place}",
    )


def _check_together(
    score: _Score, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, once: Tensor
) -> None:
    """Require one number of all images, whatever their order."""
    promise = "of_batch gives all images of a batch one number, whatever their order"
    once = once.detach()
    score.verdict.require(
        close(once, once[:1].expand_as(once), 1e-6), promise, f"{figures(once)} for the images of one batch"
    )
    order = torch.arange(IMAGES).roll(1)
    moved = score(network, images[order], labels[order], threat).detach()
    score.verdict.require(
        close(once, moved), promise, f"{figures(once)}, and {figures(moved)} in another order, {score.place}"
    )


def _check_over_time(metric: Any, network: nn.Module, verdict: Judge, seed: int, threat: ThreatModel) -> None:
    """Require that what `at` gives scores at any time, and at the end as the metric itself."""
    images, labels = tiny_images(IMAGES)
    whole = _Score(metric.score, verdict, "a supernet", seed)(network, images, labels, threat)
    for progress in TIMES:
        with verdict.promised("at returns an object with a score", f"at({progress})"):
            score = metric.at(progress).score
        found = _Score(score, verdict, f"a supernet at progress {progress}", seed)(network, images, labels, threat)
    verdict.expect(
        close(found, whole, 1e-6),
        "at scores at the end as the metric does",
        f"{figures(whole)}, and {figures(found)} from at(1.0)",
    )


def _plant_gradients(network: nn.Module) -> None:
    """Plant gradients that a metric must neither clear nor add to; one parameter has none, and must get none."""
    for one in list(network.parameters())[1:]:
        one.grad = torch.full_like(one, 0.5)


def _check_alone(
    score: _Score, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, together: Tensor
) -> None:
    """Require that an image's score depends on that image only.

    A metric that draws at random draws by position.  So first every *other* image is replaced, which keeps
    each position's draw; a metric that does not draw is also asked for single images and for a moved batch.
    """
    together = together.detach()

    def require(found: Tensor, expected: Tensor, what: str) -> None:
        score.verdict.require(
            close(found, expected),
            "score of an image depends on that image alone",
            what.format(figures(expected), figures(found)) + f", {score.place}",
        )

    others, other_labels = tiny_images(IMAGES)
    others, other_labels = 1 - others, other_labels.roll(1)
    for index in range(IMAGES):
        mixed, mixed_labels = others.clone(), other_labels.clone()
        mixed[index], mixed_labels[index] = images[index], labels[index]
        found = score(network, mixed, mixed_labels, threat)[index].detach()
        require(found, together[index], f"{{}} for image {index}, {{}} beside others")
    if not all(close(score(network, images, labels, threat, seed), together, 1e-6) for seed in (101, 102, 103)):
        return
    moved = torch.arange(IMAGES).roll(1)  # every image has another place
    for order in (moved, *torch.arange(IMAGES).view(-1, 1)):
        found = score(network, images[order], labels[order], threat)
        require(found, together[order], f"{{}} in a batch, {{}} as {order.tolist()}")


def _check_gradient(
    score: _Score,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    differentiable: bool,
) -> None:
    """Require that the score depends on the weights or on alpha, and a finite gradient there that is not zero."""
    once = score(network, images, labels, threat).detach()
    depends = {}
    for name in ("the weights", "alpha"):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for one in _parameters(moved, name):
                one.add_(0.1 * torch.randn_like(one))
        depends[name] = not close(score(moved, images, labels, threat), once, 1e-5)
        if depends[name] and differentiable:
            own = copy.deepcopy(network)
            with score.verdict.apart():
                total = score(own, images, labels, threat, copied=False).sum()
                promise = f"score is differentiable in {name}"
                _require_gradient(score.verdict, total, _parameters(own, name), promise, score.place)
    score.verdict.expect(
        any(depends.values()),
        "score depends on the network's weights or on alpha",
        f"{figures(once)} for {score.place} whatever they are",
    )


def _parameters(network: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters that are alpha, or all others."""
    alphas = list(network.alpha.values()) if isinstance(network, TinySupernet) else []
    return alphas if name == "alpha" else [one for one in network.parameters() if all(one is not a for a in alphas)]


def _require_gradient(verdict: Judge, value: Tensor, group: list[nn.Parameter], promise: str, where: str) -> None:
    """Require a finite gradient of a scalar in a group of parameters, that is not zero in all of them."""
    group = [one for one in group if one.requires_grad]  # what has been frozen is another promise's matter
    verdict.require(value.requires_grad and bool(group), promise, f"the value has no graph, {where}")
    found = torch.autograd.grad(value, group, allow_unused=True, retain_graph=True)
    slopes = [one for one in found if one is not None]
    verdict.require(any(bool(one.abs().sum() > 0) for one in slopes), promise, f"the gradient is zero, {where}")
    verdict.require(all(bool(one.isfinite().all()) for one in slopes), promise, f"the gradient is not finite, {where}")


def _check_loss(loss: Callable[..., Tensor], name: str, verdict: Judge, threat: ThreatModel, seed: int) -> None:
    """Hold a loss of one level to its promises on a supernet in training mode, at three times of a search."""
    supernet = TinySupernet()
    images, labels = tiny_images(IMAGES + 1)
    settle(supernet, images)
    _plant_gradients(supernet)
    group = _parameters(supernet, LEVELS[name])

    def value_at(progress: float) -> Tensor:
        reseed(seed)
        context = Context(progress, torch.Generator().manual_seed(seed), F.cross_entropy)
        call = lambda *given: loss(supernet, *given, threat, context)  # noqa: E731
        return _called(call, name, f"under {threat} at progress {progress}", (images, labels), verdict)

    for progress in TIMES:
        with verdict.unchanged(supernet, "the supernet", by=name, buffers=False):
            value, again = value_at(progress), value_at(progress)
            verdict.expect(
                close(value, again, 1e-6),
                f"{name} gives the same value when the generator is in the same state",
                f"{figures(value)}, then {figures(again)} at progress {progress}",
            )
            with verdict.apart():
                promise = f"{name} is differentiable in {LEVELS[name]}"
                _require_gradient(verdict, value, group, promise, f"under {threat}")
