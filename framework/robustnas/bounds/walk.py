"""One forward pass of a network on bounded values, and the linear bounds its backward pass gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.ball import Ball
from robustnas.bounds.region import Region
from robustnas.bounds.value import Value
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.nn.wrappers import eager
from robustnas.runtime.strangers import text_of

Network = Callable[[Tensor], Tensor]

ENTRIES = 2**24
"""Entries of the widest layer that one batched backward pass may hold: sets how many rows go at once."""


@frozen(eq=False)
class Rays:
    """The lower lines of one rectifier, which a backward pass may choose.

    Args:
        control: (N, ...) the output through which a backward pass is given slopes (rules/rectifier.py).
        slopes: (N, ...) those it takes where it is given none.
        least: of the slopes that may be chosen; the largest is 1.
    """

    control: Tensor
    slopes: Tensor
    least: float


class Walk:
    """State of one pass.  Rules reach it through the values.

    Args:
        network: maps (N, ...) images to (N, K) logits.
        region: the admissible images.
        backward: the clean values get a graph, so that linear bounds can be pulled back through it.
        tighten: intervals in front of nonlinearities come from linear bounds too (method `crown`).
        keeps_plain: the clean values are needed to the end.
        rescales: intervals that widen beyond a limit are carried with an exponent (`scale.py`).
        optimises: the lower lines of rectifiers are chosen by ascent (method `alpha-crown`).

    Attributes:
        differentiable: gradients were enabled when the pass began; the bounds then carry a graph.
        relaxing: while True the backward pass of a nonlinearity follows its lines instead of its derivative.
             It is an attribute of the pass, not of a thread, because torch runs backward passes on threads
             of its own.
        batched: the backward pass under way bounds several linear functions at once.
        probe: (N, ...) zeros added to the images; gradients with respect to it are the slopes A.
        rays: of the rectifiers passed so far, where the walk optimises.
        budget: (N,) zeros; gradients with respect to it are the sums of <A_i, line_i(z_i) - f_i(z_i)>.
    """

    def __init__(
        self,
        network: Network,
        region: Region,
        backward: bool,
        tighten: bool = False,
        keeps_plain: bool = True,
        rescales: bool = False,
        optimises: bool = False,
    ):
        self.network = network
        self.region = region
        self.backward = backward
        self.tighten = tighten
        self.keeps_plain = keeps_plain or backward
        self.rescales, self.optimises = rescales, optimises
        self.rays: list[Rays] = []
        self.differentiable = torch.is_grad_enabled()
        self.relaxing = False
        self.batched = False
        self.images = region.images.shape[0]
        self.widest = 1
        self.probe = torch.zeros_like(region.images, requires_grad=backward)
        self.budget = torch.zeros_like(region.epsilon, requires_grad=backward)

    def saw(self, value: Value) -> None:
        """Called for every value: remembers the widest layer, which limits the rows of a batched backward
        pass."""
        self.widest = max(self.widest, value.centre.numel() // max(self.images, 1))

    def steer(self, rays: Rays) -> None:
        """Called by every rectifier whose rays may be chosen, in the order of the forward pass."""
        self.rays.append(rays)

    def intervals(self) -> AbstractContextManager[Any]:
        """Gradient mode for interval arithmetic: the caller's, whatever the clean values need."""
        return torch.set_grad_enabled(self.differentiable)

    def run(self) -> Value:
        """Logits of all admissible images, (N, K)."""
        region = self.region
        with torch.set_grad_enabled(self.backward or self.differentiable):
            plain = region.images + self.probe if self.keeps_plain else None
            images = Value(self, plain, region.centre, region.radius)
            images.ball = Ball.of(region.images) if region.norm != "linf" else None
            with torch.autocast(region.images.device.type, enabled=False), eager():
                logits = _answer(self.network, images)
        if not isinstance(logits, Value):
            raise InputError(f"the network returned {type(logits).__name__}, not logits that depend on the images")
        if logits.centre.dim() != 2 or logits.centre.shape[1] < 2:
            raise InputError(f"logits have shape {tuple(logits.centre.shape)}; expected (N, K) with at least 2 classes")
        return logits

    def interval(
        self, value: Value, matters: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of every entry, for the lines of a nonlinearity, after `tightened`."""
        self.tightened(value, matters)
        with self.intervals():
            return value.centre - value.radius, value.centre + value.radius

    def tightened(self, value: Value, matters: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        """Shrink the value's interval where the walk bounds intermediate values by backward passes too.

        The entries for which `matters(lower, upper)` is true in any image are bounded.  Those bounds are constants to
        a gradient: a graph of theirs would lead back to `probe` through the clean values, and the next backward pass
        would take slopes along it that belong to no line.
        """
        if not self.tighten or value.tightened or value.plain is None or not value.plain.requires_grad:
            return
        value.tightened = True
        with self.intervals():
            lower, upper = value.centre - value.radius, value.centre + value.radius
        entries = torch.ones_like(lower, dtype=torch.bool) if matters is None else matters(lower, upper)
        wanted = entries.flatten(1).any(dim=0).nonzero().squeeze(1)
        if wanted.numel() == 0:
            return
        below: list[Tensor] = []
        above: list[Tensor] = []
        for part in torch.split(wanted, self.rows()):
            unit = torch.zeros(part.numel(), 1, lower[0].numel(), dtype=lower.dtype, device=lower.device)
            unit = unit.scatter(2, part.view(-1, 1, 1), 1.0).reshape(part.numel(), 1, *lower.shape[1:])
            unit = unit.expand(-1, *lower.shape)
            for ends, sign in ((below, 1.0), (above, -1.0)):
                fall = self.fall(value, sign * unit, differentiable=False)
                ends.append(sign * value.plain.detach().flatten(1)[:, part].T - fall)
        with self.intervals():
            low, high = torch.cat(below).T, -torch.cat(above).T
            low = torch.where(low.isnan(), -torch.inf, low)
            high = torch.where(high.isnan(), torch.inf, high)
            flat_lower, flat_upper = lower.flatten(1), upper.flatten(1)
            low = torch.maximum(low, flat_lower[:, wanted])
            high = torch.minimum(high, flat_upper[:, wanted])
            # where both bounds meet, rounding may let them cross
            low, high = torch.minimum(low, high), torch.maximum(low, high)
            lower = flat_lower.index_copy(1, wanted, low).view_as(lower)
            upper = flat_upper.index_copy(1, wanted, high).view_as(upper)
            value.centre, value.radius = (lower + upper) / 2, (upper - lower) / 2

    def rows(self) -> int:
        """How many linear functions one batched backward pass may bound."""
        held = sum(rays.slopes[0].numel() for rays in self.rays) if self.optimises else 0
        return max(1, ENTRIES // (max(self.widest, held) * max(self.images, 1)))

    def fall(
        self, value: Value, coefficients: Tensor, differentiable: bool = True, slopes: Sequence[Tensor] = ()
    ) -> Tensor:
        """How far linear functions <c, x> of a value may fall below <c, z>: (S, N, ...) coefficients -> (S, N).

            <c, x>  >=  <c, z> + min <A, x - x0> + sum_i <A_i, line_i(z_i) - f_i(z_i)>

        in the value's units, with z at the clean images x0; A and the sum are gradients with respect to `probe` and
        `budget`.

        Args:
            slopes: (S, N, ...) of the rays of the rectifiers passed so far, to which the bound is then differentiable.
        """
        assert value.plain is not None
        differentiable = (differentiable and self.differentiable) or any(slope.requires_grad for slope in slopes)
        if not value.plain.requires_grad:
            return coefficients.new_zeros(coefficients.shape[:2])
        batched = coefficients.shape[0] > 1
        outputs = [value.plain, *(rays.control for rays, _ in zip(self.rays, slopes, strict=False))]
        given = [coefficients, *slopes]

        def pull(*vectors: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                outputs,
                (self.probe, self.budget),
                vectors,
                retain_graph=True,
                create_graph=differentiable,
                allow_unused=True,
                materialize_grads=True,
            )

        self.relaxing, self.batched = True, batched
        try:
            # not `is_grads_batched`: that is torch's old vmap, which takes convolutions row by row
            pulled = _of_rows(pull, given) if batched else pull(*(each[0] for each in given))
        finally:
            self.relaxing = self.batched = False
        slope, gaps = pulled if batched else (each[None] for each in pulled)
        with torch.set_grad_enabled(differentiable):
            return -self.region.minimum(slope) - gaps


def _answer(network: Network, images: Value) -> Tensor:
    try:
        return network(images)
    except RuntimeError as fault:
        if "TorchScript" not in text_of(fault):
            raise
        raise UnsupportedOpError(
            "the network calls a function that is TorchScript (torch.jit.script), whose operations can be run, not "
            "looked into; the function itself, without the decorator, would do"
        ) from fault


def _of_rows(pull: Callable[..., tuple[Tensor, ...]], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One backward pass for all rows."""
    with warnings.catch_warnings():
        # some rare functions are taken row by row inside it, which is slower and equal; torch warns of each
        warnings.filterwarnings("ignore", message="There is a performance drop")
        pulled: tuple[Tensor, ...] = torch.func.vmap(pull)(*given)
        return pulled
