"""The families by name, each at one severity a foolbox attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from robustnas.attack.foolbox_attack import Corruption
from robustnas.attack.per_image_random import PerImageRandom
from robustnas_plugins.attacks.corruption import blur, digital, noise, weather

Family = Callable[[Tensor, int, PerImageRandom], Tensor]
"""Images (N, C, H, W) in [0, 1], severity 1 to 5, draws -> images of the same shape, near [0, 1]."""

FAMILIES: Mapping[str, Family] = {
    family.__name__.replace("_", "-"): family
    for family in (
        *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise, noise.speckle_noise),
        *(blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur, blur.gaussian_blur),
        *(weather.snow, weather.frost, weather.fog, weather.spatter),
        *(digital.brightness, digital.contrast, digital.saturate),
        *(digital.elastic, digital.pixelate, digital.jpeg),
    )
}


class Natural(Corruption):
    """One family at one severity.

    Args:
        norm: in which the harness reports the size of the change.
        family: its name.
        severity: 1 to 5.
    """

    def __init__(self, norm: str, family: str, severity: int):
        super().__init__(norm)
        self.family = family
        self.severity = severity

    def corrupted(self, images: Tensor, draws: PerImageRandom) -> Tensor:
        """The family's images, clipped to [0, 1]."""
        return FAMILIES[self.family](images, self.severity, draws).clamp(0.0, 1.0)
