"""Restarts of a random attack in which fooled images leave: a run sees only the images that still stand."""

from __future__ import annotations

from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from torch import Tensor

from robustnas.foolbox_import import load_foolbox

_base: Any = load_foolbox().attacks.base
_misclassification: Any = load_foolbox().criteria.Misclassification


class Restarted(_base.FixedEpsilonAttack):  # type: ignore[misc]
    """`attack`, up to `times` times, from new random draws; an image keeps the first result that fools.

    An image that no run fools keeps the result of the last.  Foolbox's own `repeat` runs every image every
    time and has no `run`.

    Args:
        attack: an attack inside a ball, untargeted.
        times: largest number of runs of one image.
    """

    def __init__(self, attack: Any, times: int):
        self.attack = attack
        self.times = times

    @property
    def distance(self) -> Any:
        """That of the attack."""
        return self.attack.distance

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """(N, C, H, W) in [0, 1] -> the same, within epsilon of it; `criterion` is `Misclassification`."""
        tensor, restore = astensor_(inputs)
        images: Tensor = tensor.raw
        labels: Tensor = criterion.labels.raw
        found: Tensor = self.attack.run(model, images, criterion, epsilon=epsilon, **kwargs)
        standing = torch.arange(len(images), device=images.device)
        latest = found
        for _ in range(1, self.times):
            with torch.no_grad():
                stands = model(latest).argmax(dim=1) == labels[standing]
            standing = standing[stands]
            if not len(standing):
                break
            rest = _misclassification(labels[standing])
            latest = self.attack.run(model, images[standing], rest, epsilon=epsilon, **kwargs)
            # the latest result of whoever still stands: it is kept if it fools, and replaced if it does not
            found = found.index_copy(0, standing, latest)
        return restore(astensor(found))
