"""Defaults of the optional members of a regime (`robustnas.contracts.Regime`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustnas.contracts import Regime
from robustnas.threat import ThreatModel

if TYPE_CHECKING:  # settings look at regimes, and cost no torch
    import torch
    from torch import Tensor, nn


class Defaults:
    """The optional members of a regime."""

    sees_threat = True
    advice = ""

    def check(self, epochs: int, threat: ThreatModel | None) -> None:
        """Accept all epochs and threats."""

    def initialise(self, network: nn.Module) -> None:
        """Leave the first weights as they are."""

    def perturbed(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Tensor:
        """Return the images unchanged."""
        return images

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Find the images that are classified rightly."""
        logits: Tensor = network(images)
        return logits.argmax(1) == labels

    def judged(self, epoch: int, epochs: int) -> bool:
        """Judge the network of every epoch."""
        return True

    def schedule(self, passed: float, epochs: int, threat: ThreatModel) -> dict[str, float]:
        """Return no figures, because nothing depends on time."""
        return {}


DEFAULTS = Defaults()


def member(regime: Regime, name: str) -> Any:
    """Return an optional member of a regime: its own, or the default."""
    return getattr(regime, name, getattr(DEFAULTS, name))
