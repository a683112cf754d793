"""How each kind of foolbox attack is run on a batch, and the random numbers it may draw."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.contracts import AttackTraits
from robustnas.errors import OptionError
from robustnas.runtime.machine_faults import blaming
from robustnas.runtime.seeding import derive, seeded
from robustnas.threat import ORDER, ThreatModel


@attrs.frozen(eq=False)
class Runner:
    """One foolbox attack at one radius.

    Args:
        name: which part of the attack this is.
        call: (model, images, criterion, draws) -> images.
        stays_inside: whether it promises to stay inside the ball; else it minimises, and serves every radius.
        takes_draws: whether it draws from what it is handed, so that an image's result does not depend on its batch.
        bounded: whether the ball matters at all.
        access: what it knows of the network.
    """

    name: str
    call: Callable[[Any, Tensor, Any, PerImageRandom], Any]
    stays_inside: bool
    takes_draws: bool
    bounded: bool
    access: str

    @property
    def minimises(self) -> bool:
        """Whether what it finds is near rather than inside."""
        return not self.stays_inside

    def draws(self, seed: int, label: str, indices: Tensor, device: Any) -> PerImageRandom:
        """The draws of the images at `indices` (n,), those of a run of their own."""
        found = PerImageRandom.of_images(seed, f"attack/{label}", indices, device)
        return found.of(self.name) if self.name else found


def runners(attack: Any, threat: ThreatModel, label: str, runs: int = 1, access: str = "white-box") -> list[Runner]:
    """The parts of an attack, in the order in which they are run, each on what the ones before left standing.

    Args:
        runs: how often all of them are run.
        access: what a part knows of the network that does not tell itself.

    Raises:
        OptionError: it is not a foolbox attack, or it measures perturbations in another norm.
    """
    parts = AttackTraits.of(attack).parts or {"": attack}
    once = [_runner(part, threat, label, name, access) for name, part in parts.items()]
    again = [
        attrs.evolve(one, name=" ".join(filter(None, (one.name, f"run {run + 1}"))))
        for run in range(1, runs)
        for one in once
    ]
    return [*once, *again]


def _runner(attack: Any, threat: ThreatModel, label: str, name: str, access: str) -> Runner:
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

    def own(draws: PerImageRandom) -> dict[str, Any]:
        return {"draws": draws} if traits.takes_draws else {}

    if isinstance(attack, base.MinimizationAttack):
        call = lambda model, images, criterion, draws: attack.run(  # noqa: E731
            model, images, criterion, early_stop=None, **own(draws)
        )
    elif isinstance(attack, base.FixedEpsilonAttack):
        call = lambda model, images, criterion, draws: attack.run(  # noqa: E731
            model, images, criterion, epsilon=threat.epsilon, **own(draws)
        )
    else:
        # wrappers (foolbox's `Repeated`) can only be called; the second of three results is clipped to epsilon
        call = lambda model, images, criterion, draws: attack(  # noqa: E731
            model, images, criterion, epsilons=threat.epsilon
        )[1]
    return Runner(
        name=name,
        call=call,
        stays_inside=not isinstance(attack, base.MinimizationAttack),
        takes_draws=bool(traits.takes_draws),
        bounded=not traits.unbounded,
        access=str(traits.access),
    )


@contextmanager
def random_state(seed: int, label: str, first: int) -> Iterator[None]:
    """Every global generator an attack may use, seeded for one batch and put back."""
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


def proposals(
    runner: Runner, model: Any, images: Tensor, labels: Tensor, draws: PerImageRandom, label: str, at: Tensor
) -> Any:
    """What the attack makes of images; it works on copies of its own.

    Raises:
        RunError: the attack raised.
    """
    with blaming(f"attack {label}", f"on images {int(at[0])} to {int(at[-1])}"):
        return runner.call(model, images.clone(), load_foolbox().criteria.Misclassification(labels.clone()), draws)
