"""How each kind of foolbox attack is run on a batch, and the random numbers it may draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.contracts import AttackTraits
from robustnas.errors import OptionError
from robustnas.runtime.seeding import derive, seeded
from robustnas.threat import ORDER, ThreatModel


@attrs.frozen(eq=False)
class Runner:
    """One foolbox attack at one radius.

    Args:
        name: which part of the attack this is.
        attack: the foolbox attack.
        epsilon: the radius.
        access: what the attack knows of the network.
        takes_draws: whether it takes its random numbers as an argument, so that an image's result does not depend on
            its batch.
        bounded: whether the ball matters at all; for a corruption it does not.
        minimises: whether it looks for the smallest perturbation, and so serves every radius; other attacks promise to
            stay in the ball.
    """

    name: str
    attack: Any
    epsilon: float
    access: str
    takes_draws: bool
    bounded: bool
    minimises: bool

    @property
    def stays_inside(self) -> bool:
        """Whether it promises to stay inside the ball."""
        return not self.minimises

    def call(self, model: Any, images: Tensor, criterion: Any, draws: PerImageRandom) -> Any:
        """Run the attack, and return the images that it proposes in the place of these."""
        drawn = {"draws": draws} if self.takes_draws else {}
        if self.minimises:
            return self.attack.run(model, images, criterion, early_stop=None, **drawn)
        if isinstance(self.attack, load_foolbox().attacks.base.FixedEpsilonAttack):
            return self.attack.run(model, images, criterion, epsilon=self.epsilon, **drawn)
        # wrappers such as foolbox's `Repeated` have no `run`; of the three results of a call the second is clipped
        return self.attack(model, images, criterion, epsilons=self.epsilon)[1]

    def draws(self, seed: int, label: str, indices: Tensor, device: Any) -> PerImageRandom:
        """Make the random numbers of the images at `indices` (n,); each part of an attack has its own."""
        found = PerImageRandom.of_images(seed, f"attack/{label}", indices, device)
        return found.of(self.name) if self.name else found


def runners(attack: Any, threat: ThreatModel, label: str, runs: int = 1, access: str = "white-box") -> list[Runner]:
    """List the parts of an attack, in the order in which they are run, each on what the parts before left standing.

    Args:
        attack: a foolbox attack, perhaps of several parts.
        threat: norm and radius.
        label: the attack's name in messages.
        runs: how often all of them are run.
        access: what parts know of the network, for those that do not say so themselves.

    Raises:
        OptionError: this is not a foolbox attack, or it measures perturbations in another norm.
    """
    parts = AttackTraits.of(attack).parts or {"": attack}
    once = [_runner(part, threat, label, name, access) for name, part in parts.items()]
    again = [
        attrs.evolve(runner, name=f"{runner.name} run {run + 1}".strip()) for run in range(1, runs) for runner in once
    ]
    return [*once, *again]


def _runner(attack: Any, threat: ThreatModel, label: str, name: str, access: str) -> Runner:
    """Make a runner of one part of an attack."""
    base = load_foolbox().attacks.base
    if not isinstance(attack, base.Attack):
        raise OptionError(f"attack {label}: {type(attack).__name__} is not a foolbox Attack")
    order = getattr(getattr(attack, "distance", None), "p", None)
    if order is not None and order != ORDER[threat.norm]:
        raise OptionError(
            f"attack {label} perturbs in l_{order:g} and the threat is {threat}; "
            "give the attack a threat of its own, or use an attack of that norm"
        )
    traits = AttackTraits.of(attack, access)
    return Runner(
        name=name,
        attack=attack,
        epsilon=threat.epsilon,
        access=str(traits.access),
        takes_draws=bool(traits.takes_draws),
        bounded=not traits.unbounded,
        minimises=isinstance(attack, base.MinimizationAttack),
    )


@contextmanager
def random_state(seed: int, label: str, first: int) -> Iterator[None]:
    """Seed every global generator that an attack may use, for one batch, and restore them afterwards."""
    with seeded(seed, "attack", label, first):
        legacy, plain = np.random.get_state(), random.getstate()
        number = derive(seed, "attack", label, first)
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(legacy)
            random.setstate(plain)
