"""What a regime does where it says nothing of its own (see `robustnas.contracts.Regime`)."""

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
        """All epochs and threats suit."""

    def perturbed(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, generator: torch.Generator
    ) -> Tensor:
        """The images as they are."""
        return images

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """The images that are classified rightly."""
        logits: Tensor = network(images)
        return logits.argmax(1) == labels

    def judged(self, epoch: int, epochs: int) -> bool:
        """Every epoch's network may be kept."""
        return True

    def schedule(self, passed: float, epochs: int, threat: ThreatModel) -> dict[str, float]:
        """Nothing depends on time."""
        return {}


DEFAULTS = Defaults()


def member(regime: Regime, name: str) -> Any:
    """An optional member of a regime: its own, or the default."""
    return getattr(regime, name, getattr(DEFAULTS, name))
