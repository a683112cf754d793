"""Adversarial training of the supernet: cross-entropy on PGD images in the inner level, and in the outer one.

The attack sees the supernet in eval mode with the batch norm statistics of the clean batch; the loss on what
it found is computed in training mode.

Source: Madry et al. 2018, arXiv:1706.06083; in a supernet as by Guo et al. 2020 (RobNet), arXiv:1911.10695.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from attrs import frozen
from attrs.validators import gt, in_, optional
from torch import Tensor

from robustnas.attack.pgd import pgd
from robustnas.contracts import Context, Supernet
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels


def _step_size(value: str | float | None) -> float | None:
    return None if value is None else pixels(value)


@frozen
class AdversarialTraining:
    """Trains on perturbed images; has no score."""

    steps: int = option(7, "steps of PGD after its random start", at_least=1)
    step_size: float | None = option(
        None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)), converter=_step_size
    )
    levels: Literal["both", "inner"] = option(
        "both",
        "levels that see perturbed images: both, or inner (alpha then moves on clean ones)",
        in_(("both", "inner")),
    )

    def inner_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The loss on perturbed images: (N, C, H, W), (N,) -> scalar."""
        return context.loss(supernet(self._perturbed(supernet, images, labels, threat, context)), labels)

    def outer_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The loss, on perturbed images where `levels` says so: (N, C, H, W), (N,) -> scalar."""
        if self.levels == "both":
            images = self._perturbed(supernet, images, labels, threat, context)
        return context.loss(supernet(images), labels)

    def _perturbed(
        self, supernet: Any, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        with scratch_statistics(supernet):
            with torch.no_grad():
                supernet(images)
            return pgd(
                supernet,
                images,
                lambda logits: context.loss(logits, labels),
                threat,
                steps=self.steps,
                step_size=self.step_size,
                generator=context.generator,
            )
