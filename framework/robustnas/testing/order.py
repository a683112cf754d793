"""The promises of an order of the search: `gradient`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Context
from robustnas.data.batches import Part
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.seeding import reseed
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.objective import Objective
from robustnas.search.weights import weights
from robustnas.testing.networks import TinySupernet, tiny_images
from robustnas.testing.promise import Judge, close, figures, judged, made, own_randomness
from robustnas.threat import ThreatModel

IMAGES = 8
SHIFT = 1e-5
"""Of an entry of alpha in a finite difference, in float64: rounding and the third derivative are both below 1e-8."""


def check_order(plugin: Any, *, seed: int = 0) -> tuple[str, ...]:
    """Hold an order to its contract on a tiny supernet in float64.

    Its gradients are compared with finite differences of the outer objective where all orders agree: alpha has no say
    in the inner level there, and the learning rate of w is 0.

    Args:
        plugin: the order, or its class, which is made with default options.
        seed: of the supernet, of the images and of draws.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("order", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        order = made(plugin, verdict)
        with verdict.apart():
            _check_left_alone(order, _step(0.05, _Noisy(mixed=True)), verdict)
        _check_gradient(order, _step(0.0, _Noisy(mixed=False)), verdict)
    return tuple(verdict.tried)


@frozen
class _Noisy:
    """A metric whose inner loss draws noise.

    Args:
        mixed: whether alpha has a say in it; else all operations count alike.
    """

    mixed: bool

    def inner_loss(
        self, supernet: PixelSupernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """Cross-entropy of noisy images."""
        noise = torch.rand(images.shape, generator=context.generator, dtype=images.dtype)
        mixing = supernet.mixing()
        if not self.mixed:  # with a graph, whose gradient in alpha is zero
            mixing = {name: 0 * rows + 1 / rows.shape[1] for name, rows in mixing.items()}
        return context.loss(supernet(images + 0.1 * noise, mixing), labels)


def _step(rate: float, metric: _Noisy) -> Step:
    """A step in float64 with filled momentum buffers."""
    supernet = PixelSupernet(TinySupernet(), (0.45,), (0.15,)).double()
    w = weights(supernet)
    optimizer = torch.optim.SGD(w.parameters, rate, momentum=0.9, weight_decay=0.03)
    batches = [tiny_images(IMAGES) for _ in range(2)]
    train, val = ((Part(images.double(), labels, 1.0),) for images, labels in batches)
    torch.autograd.backward(F.cross_entropy(supernet(train[0].images), train[0].labels), inputs=w.parameters)
    optimizer.step()
    optimizer.zero_grad()
    inner, outer = (Context(0.5, torch.Generator().manual_seed(seed), F.cross_entropy) for seed in (1, 2))
    return Step(
        supernet=supernet,
        objective=Objective(((1.0, metric),), ThreatModel("linf", 8 / 255), 0.1),
        weights=w,
        w_optimizer=optimizer,
        train=train,
        val=val,
        inner=inner,
        outer=outer,
    )


def _gradient(order: Any, step: Step, verdict: Judge) -> list[Tensor]:
    """What the order gives, after a look at its form."""
    with verdict.promised("gradient works for a step of a search"):
        found = order.gradient(step)
    verdict.require(isinstance(found, Hypergradient), "gradient returns a Hypergradient", type(found).__name__)
    shapes, wanted = [tuple(one.shape) for one in found.gradients], [tuple(one.shape) for one in step.alpha]
    verdict.require(
        shapes == wanted, "gradient has one tensor a table of alpha, of its shape", f"{shapes}, not {wanted}"
    )
    for one in found.gradients:
        verdict.expect(not one.requires_grad, "gradients have no graph", "one requires a gradient itself")
        verdict.require(bool(one.isfinite().all()), "gradients are finite", figures(one))
    verdict.expect(
        found.validation.loss.shape == () and bool(found.validation.loss.isfinite()),
        "what the validation pass saw is told: a finite loss",
        figures(found.validation.loss),
    )
    return list(found.gradients)


def _check_left_alone(order: Any, step: Step, verdict: Judge) -> None:
    """The step is what it was, its draws included, and the same gradient comes again."""
    inner = step.inner.generator.get_state()
    momentum = [state["momentum_buffer"].clone() for state in step.w_optimizer.state.values()]
    with verdict.unchanged(step.supernet, "the supernet"):
        reseed(0)
        once = _gradient(order, step, verdict)
    verdict.expect(
        torch.equal(step.inner.generator.get_state(), inner),
        "the generator of the inner loss is put back: the inner step draws what its rehearsal drew",
        "its state differs",
    )
    after = [state["momentum_buffer"] for state in step.w_optimizer.state.values()]
    verdict.expect(
        all(torch.equal(one, other) for one, other in zip(momentum, after, strict=True)),
        "the optimiser of w is left as it was",
        "its momentum differs",
    )
    reseed(0)
    step.outer.generator.manual_seed(2)
    again = _gradient(order, step, verdict)
    for one, other in zip(once, again, strict=True):
        verdict.expect(
            close(one, other, 1e-6), "gradient is repeatable given its draws", f"{figures(one)}, then {figures(other)}"
        )


def _check_gradient(order: Any, step: Step, verdict: Judge) -> None:
    """Against central differences of the outer objective, entry by entry."""
    (part,) = step.val

    def objective() -> float:
        with scratch_statistics(step.supernet), torch.no_grad():
            return float(F.cross_entropy(step.supernet(part.images), part.labels))

    for table, gradient in zip(step.alpha, _gradient(order, step, verdict), strict=True):
        wanted = torch.zeros_like(table)
        for entry in range(table.numel()):
            ends = []
            for sign in (1, -2, 1):  # up, down, and back
                with torch.no_grad():
                    table.view(-1)[entry] += sign * SHIFT
                ends.append(objective())
            wanted.view(-1)[entry] = (ends[0] - ends[1]) / (2 * SHIFT)
        verdict.expect(
            close(gradient, wanted, 1e-4),
            "where alpha has no say in the inner level and w does not move, gradient is that of the outer objective",
            f"{figures(gradient)}, by finite differences {figures(wanted)}",
        )
