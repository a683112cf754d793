"""Foolbox attacks written in plain torch: what an author leaves to a base class.

    BallAttack      proposes an image inside the ball                  has `perturbed`
    NearestAttack   proposes the nearest image that fools, anywhere    has `nearest`
    Corruption      changes an image with no ball in mind              has `corrupted`
    InTurn          several attacks, each on the images that still stand
    Each            several attacks, each on every image

All are foolbox attacks: `attack(model, images, criterion, epsilons=...)` works.  The harness also hands them the draws
of each image (`robustnas.attack.per_image_random`), so that what an image gets does not depend on the batch it is in.

Images that are fooled should leave the batch: `network` may be called with any of the images, as few as stand.

This module imports foolbox; a plugin's module imports it inside `build`, so that listing plugins stays fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from torch import Tensor

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.errors import OptionError
from robustnas.threat import ThreatModel

_foolbox: Any = load_foolbox()
_base: Any = _foolbox.attacks.base

Network = Callable[[Tensor], Tensor]
"""(n, C, H, W) pixels -> (n, K) logits; differentiable in the pixels."""


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool, as the harness judges: the class of the largest logit is not the label."""
    return logits.argmax(dim=1) != labels


class _InTorch:
    """The norm an attack measures in, and the way in and out of foolbox's types.

    Args:
        norm: `linf`, `l2` or `l1`.

    A class that does not look at gradients says so: `access = "black-box"`.
    """

    takes_draws = True
    """The harness hands such attacks `draws`."""

    def __init__(self, norm: str):
        self.norm = norm

    @property
    def distance(self) -> Any:
        """Foolbox's distance for the norm."""
        return getattr(_foolbox.distances, self.norm)

    def _torch(
        self, inputs: Any, criterion: Any, draws: PerImageRandom | None, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, PerImageRandom, Callable[[Tensor], Any]]:
        """Images, labels, draws, and the way back to the caller's type.

        Raises:
            OptionError: the criterion is targeted, or there are arguments that no attack here knows.
        """
        if kwargs:
            raise OptionError(f"{type(self).__name__}.run knows no {', '.join(sorted(kwargs))}")
        given = _foolbox.attacks.base.get_criterion(criterion)
        if not isinstance(given, _foolbox.criteria.Misclassification):
            raise OptionError(f"{type(self).__name__} is untargeted: Misclassification would do, found {given!r}")
        tensor, restore = astensor_(inputs)
        images: Tensor = tensor.raw
        labels: Tensor = given.labels.raw.long()
        return (
            images,
            labels,
            draws or PerImageRandom.fresh(len(images), images.device),
            lambda found: restore(astensor(found)),
        )


class BallAttack(_InTorch, _base.FixedEpsilonAttack, ABC):  # type: ignore[misc]
    """An untargeted attack inside a ball."""

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: float,
        draws: PerImageRandom | None = None,
        **kwargs: Any,
    ) -> Any:
        """(N, C, H, W) in [0, 1] -> the same, within epsilon of it; `criterion` is `Misclassification`."""
        images, labels, draws, back = self._torch(inputs, criterion, draws, kwargs)
        with torch.enable_grad():
            return back(self.perturbed(model, images, labels, ThreatModel(self.norm, epsilon), draws).detach())

    @abstractmethod
    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """Admissible images that fool, as far as the attack finds any.

        Args:
            network: takes any number of images.
            images: (N, C, H, W) in [0, 1]; left as they are.
            labels: (N,) int64; the network is right on all of the images.
            threat: ball and box; its norm is the attack's.
            draws: of these N images; every random number comes from them.

        Returns:
            (N, C, H, W) in ball and box; an image that does not fool may be any admissible one.
        """


class NearestAttack(_InTorch, _base.MinimizationAttack, ABC):  # type: ignore[misc]
    """An untargeted attack that looks for the nearest image that fools: run once, it serves every epsilon."""

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: Any = None,
        draws: PerImageRandom | None = None,
        **kwargs: Any,
    ) -> Any:
        """(N, C, H, W) in [0, 1] -> the same, the nearest images found that fool."""
        images, labels, draws, back = self._torch(inputs, criterion, draws, kwargs)
        with torch.enable_grad():
            return back(self.nearest(model, images, labels, draws).detach())

    @abstractmethod
    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        """The nearest images found that fool: (N, C, H, W) in [0, 1]; one that was not fooled may be any image.

        Arguments as for `BallAttack.perturbed`, without a threat.
        """


class Corruption(BallAttack):
    """A change of the image that no ball bounds: judged where it is, and never part of the worst case."""

    unbounded = True
    """The harness does not ask where in the ball the images are."""

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """See `corrupted`."""
        return self.corrupted(images, draws)

    @abstractmethod
    def corrupted(self, images: Tensor, draws: PerImageRandom) -> Tensor:
        """(N, C, H, W) in [0, 1] -> the same shape, in [0, 1]."""


class InTurn(BallAttack):
    """Attacks one after the other, each on the images that still stand; one column, `parts` tell who broke what.

    Args:
        norm: of all parts.
        parts: foolbox attacks by name, in the order in which they are tried.
    """

    every = False
    """Whether each part is run on every image, and the column is their mean."""

    def __init__(self, norm: str, parts: Mapping[str, Any]):
        super().__init__(norm)
        self.parts = dict(parts)

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """What the first part that fools an image finds."""
        found = images.clone()
        standing = torch.arange(len(images), device=images.device)
        for name, part in self.parts.items():
            if not len(standing):
                break
            criterion = _foolbox.criteria.Misclassification(labels[standing])
            own: dict[str, Any] = {}
            if getattr(part, "takes_draws", False):
                own["draws"] = draws.of(name).at(standing)
            if isinstance(part, _base.MinimizationAttack):
                proposed = part.run(network, images[standing], criterion, **own)
            else:
                proposed = part.run(network, images[standing], criterion, epsilon=threat.epsilon, **own)
            proposed = threat.project(proposed, images[standing])
            with torch.no_grad():
                broken = fooled(network(proposed), labels[standing])
            found[standing[broken]] = proposed[broken]
            standing = standing[~broken]
        return found


class Each(InTurn):
    """Attacks that are each run on every image; their column is the mean over them."""

    every = True
