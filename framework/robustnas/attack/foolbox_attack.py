"""Base classes of attacks in plain torch; each asks its author for one method.

    BallAttack      proposes an image inside the ball                  has `perturbed`
    NearestAttack   proposes the nearest image that fools, anywhere    has `nearest`
    Corruption      changes an image with no ball in mind              has `corrupted`
    InTurn          several attacks, each on the images that still stand
    Each            several attacks, each on every image

An attrs class that derives from one of the first three is a plugin: its fields are its options, `norms` says which
norms it knows, and the inherited `build` makes the attack for one of them.  What is built is a foolbox attack:
`attack(model, images, criterion, epsilons=...)` works.  The harness also hands it the draws of each image
(`robustnas.attack.per_image_random`), so that what an image gets does not depend on the batch it is in.

Images that are fooled should leave the batch: `network` may be called with any of the images, as few as stand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from torch import Tensor

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.contracts import AttackTraits
from robustnas.errors import OptionError
from robustnas.threat import NORMS, ORDER, ThreatModel

_foolbox: Any = load_foolbox()
_base: Any = _foolbox.attacks.base

Network = Callable[[Tensor], Tensor]
"""(n, C, H, W) pixels -> (n, K) logits; differentiable in the pixels."""


def fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Find images that the harness would judge as fooled, (n,) bool: the largest logit is not the label's."""
    return logits.argmax(dim=1) != labels


class KnownNorms:
    """An attack that says which norms it knows, and refuses the others with one message."""

    name: str = ""
    """The attack's name in a recipe, for messages."""

    norms: tuple[str, ...] = NORMS
    """The norms that the attack knows."""

    instead: str = ""
    """Which attack to use in the other norms, for messages."""

    def require(self, threat: ThreatModel) -> None:
        """Refuse a threat in a norm that the attack does not know.

        Raises:
            OptionError: the norm is none of the attack's; says which norms it knows and what to use instead.
        """
        if threat.norm not in self.norms:
            known = f"it knows {' and '.join(self.norms)}"
            advice = f"; {self.instead}" if self.instead else ""
            name = self.name or type(self).__name__
            raise OptionError(f"attack {name} does not know the norm {threat.norm}; {known}{advice}")


class _InTorch(KnownNorms):
    """Holds the norm that an attack measures in, and converts to and from foolbox's types.

    A plugin has options instead of this constructor, and gets its norm from `build`.  A class that does not look at
    gradients sets `access = "black-box"`.

    Args:
        norm: `linf`, `l2` or `l1`.
    """

    takes_draws = True
    """Whether the harness passes `draws` to the attack."""

    norm: str = ""
    """The norm that the attack was made for; empty before `build`."""

    def __init__(self, norm: str):
        self.norm = norm
        self.norms = (norm,)

    def build(self, threat: ThreatModel) -> Any:
        """Copy this attack, set to the norm of a threat.

        Raises:
            OptionError: the attack does not know that norm.
        """
        self.require(threat)
        if self.norm == threat.norm:
            return self
        built = copy(self)
        object.__setattr__(built, "norm", threat.norm)  # a plugin is a frozen attrs class
        return built

    @property
    def distance(self) -> Any:
        """Foolbox's distance for the norm."""
        return getattr(_foolbox.distances, self.norm)

    def size(self, delta: Tensor) -> Tensor:
        """Measure perturbations in the attack's norm: (n, ...) -> (n,)."""
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), ORDER[self.norm], dim=1)
        return size

    def _torch(
        self, inputs: Any, criterion: Any, draws: PerImageRandom | None, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, PerImageRandom, Callable[[Tensor], Any]]:
        """Convert the arguments to torch: images, labels, draws, and a function back to the caller's type."""
        if kwargs:
            raise OptionError(f"{type(self).__name__}.run knows no {', '.join(sorted(kwargs))}")
        goal = _foolbox.attacks.base.get_criterion(criterion)
        if not isinstance(goal, _foolbox.criteria.Misclassification):
            raise OptionError(f"{type(self).__name__} is untargeted: Misclassification would do, found {goal!r}")
        tensor, restore = astensor_(inputs)
        images: Tensor = tensor.raw
        labels: Tensor = goal.labels.raw.long()
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
        """Look for admissible images that fool the network.

        Args:
            network: takes any number of images.
            images: (N, C, H, W) in [0, 1]; left as they are.
            labels: (N,) int64; the network is right on all of the images.
            threat: ball and box; its norm is the attack's.
            draws: the random numbers of these N images; the attack uses no others.

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
        """(N, C, H, W) in [0, 1] -> the same; returns the nearest images found that fool."""
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
    """Tells the harness not to check that images are in the ball."""

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """Corrupt the images, whatever the network and the threat."""
        return self.corrupted(images, draws)

    @abstractmethod
    def corrupted(self, images: Tensor, draws: PerImageRandom) -> Tensor:
        """(N, C, H, W) in [0, 1] -> the same shape, in [0, 1]."""


class InTurn(BallAttack):
    """Runs attacks one after the other, each on the images that still stand; `parts` tell which attack fooled what.

    Args:
        norm: the norm of all parts.
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
        """Return for each image what the first part that fools it finds, and the clean image where none does."""
        adversarial = images.clone()
        standing = torch.arange(len(images), device=images.device)
        for name, part in self.parts.items():
            if not len(standing):
                break
            criterion = _foolbox.criteria.Misclassification(labels[standing])
            own: dict[str, Any] = {}
            if AttackTraits.of(part).takes_draws:
                own["draws"] = draws.of(name).at(standing)
            if isinstance(part, _base.MinimizationAttack):
                proposed = part.run(network, images[standing], criterion, **own)
            else:
                proposed = part.run(network, images[standing], criterion, epsilon=threat.epsilon, **own)
            proposed = threat.project(proposed, images[standing])
            with torch.no_grad():
                broken = fooled(network(proposed), labels[standing])
            adversarial[standing[broken]] = proposed[broken]
            standing = standing[~broken]
        return adversarial


class Each(InTurn):
    """Attacks that are each run on every image; their column is the mean over them."""

    every = True
