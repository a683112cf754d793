"""The promises that a supernet and a discrete network have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.bounds import margins
from robustnas.contracts import SearchSpace, Shape
from robustnas.nn.read_only import lent
from robustnas.runtime.seeding import reseed
from robustnas.testing.networks import settle
from robustnas.testing.promise import Judge, close, figures
from robustnas.threat import ThreatModel


@frozen(eq=False)
class Bench:
    """Holds a search space and what it is tried on: images (N, C, H, W), their classes, and a seed to build from."""

    space: SearchSpace
    images: Tensor
    classes: int
    seed: int
    verdict: Judge

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the images."""
        _, channels, rows, columns = self.images.shape
        return channels, rows, columns

    @property
    def place(self) -> str:
        """What the space is asked for, in a message."""
        return f"for images {self.shape} and {self.classes} classes"

    def built(self, build: Callable[[], object], what: str, promise: str) -> Any:
        """Build a module in training mode; require that two builds from one seed are the same."""
        twice = []
        for _ in range(2):
            reseed(self.seed)
            with self.verdict.promised(promise, self.place):
                module = build()
            self.verdict.require(isinstance(module, nn.Module), f"{what} is an nn.Module", type(module).__name__)
            twice.append(module.train())  # type: ignore[attr-defined]
        first, second = (module.state_dict() for module in twice)
        self.verdict.expect(
            first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first),
            f"{what} is the same when torch's seed is the same",
            "two builds from one seed have other tensors",
        )
        return twice[0]

    def logits(self, module: nn.Module, images: Tensor, what: str) -> Tensor:
        """Return the logits of a supernet or a network; require their shape and that they are finite."""
        promise, shape = f"{what} maps images (N, C, H, W) to logits (N, K)", (len(images), self.classes)
        with self.verdict.promised(promise, self.place), lent(module):
            logits: Tensor = module(images)
        self.verdict.require(
            isinstance(logits, Tensor) and logits.shape == shape,
            promise,
            f"{tuple(logits.shape)} instead of {shape} for images {tuple(images.shape)}"
            if isinstance(logits, Tensor)
            else type(logits).__name__,
        )
        self.verdict.require(
            logits.dtype == torch.float32 and bool(logits.isfinite().all()),
            f"{what} gives finite float32 logits",
            f"{logits.dtype}, {figures(logits)}",
        )
        return logits

    def check_alone(self, module: nn.Module, what: str) -> None:
        """Require that in eval mode, batch norm's statistics measured, an image's logits depend on that image alone."""
        reseed(0)
        settle(module, self.images)
        module.eval()
        with torch.no_grad(), self.verdict.apart():
            together = self.logits(module, self.images, what)
            for image, expected in zip(self.images.split(1), together, strict=True):
                alone = self.logits(module, image, what)[0]
                self.verdict.require(
                    close(alone, expected),
                    f"in eval mode {what} treats each image alone",
                    f"{figures(expected)} in a batch, {figures(alone)} alone",
                )

    def check_bounds(self, module: nn.Module, what: str, methods: Sequence[str], norms: Sequence[str]) -> None:
        """Require a bound rule for every operation of a module in eval mode, and bounds below the plain margins."""
        module.eval()
        labels = torch.arange(len(self.images)) % self.classes
        with torch.no_grad():
            logits = module(self.images)
        wrong = ~nn.functional.one_hot(labels, self.classes).bool()
        plain = (logits.gather(1, labels[:, None]) - logits)[wrong].view(len(labels), self.classes - 1)
        slack = 1e-4 * logits.abs().max() + 1e-5  # bounds sum the same products in another order
        for method in methods:
            for norm in norms:
                where = f"by {method} in {norm}"
                with self.verdict.promised(f"bounds cover every operation of {what}", where), torch.no_grad():
                    lower = margins(module, self.images, labels, ThreatModel(norm, 1e-6), method=method)
                self.verdict.require(
                    lower.shape == plain.shape and bool(lower.isfinite().all()),
                    f"bounds of {what} are finite",
                    f"{figures(lower)} {where}, epsilon 1e-6",
                )
                self.verdict.expect(
                    bool((lower <= plain + slack).all()),
                    f"bounds of {what} hold at the clean images",
                    f"lower bounds {figures(lower)} of margins {figures(plain)} {where}",
                )
