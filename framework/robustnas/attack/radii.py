"""One attack at several radii, from small to large: an image fooled at one is fooled at every larger one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from robustnas.attack.conditions import Conditions
from robustnas.attack.evaluation import evaluate
from robustnas.attack.outcomes import Outcomes
from robustnas.attack.runner import runners
from robustnas.contracts import Images
from robustnas.threat import ThreatModel


def at_radii(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    build: Callable[[ThreatModel], Any],
    threats: Sequence[ThreatModel],
    conditions: Conditions,
    *,
    left: Callable[[float], Tensor],
    carry: bool = True,
) -> list[Outcomes]:
    """Run an attack at each radius, in the order of `threats`.

    An attack that minimises runs once and serves all of them; its evaluations are counted at the smallest.

    Args:
        network: as `evaluate` takes it, like images, labels and conditions.
        build: makes the attack for a threat.
        threats: of one norm, epsilon ascending.
        left: (N,) bool of a radius: the images that earlier attacks left standing there.
        carry: whether an image fooled at one radius is left out at the larger ones; False attacks it again.

    Raises:
        RunError, OptionError, DataError: as `evaluate`.
    """
    # run for the smallest ball, as if it were the only one: an image that a part fools in a larger ball alone goes on
    # to the next part
    least = next((threat for threat in threats if threat.epsilon > 0), threats[-1])
    if all(part.minimises for part in runners(build(least), least, conditions.label or "")):
        first = evaluate(network, images, labels, build(least), least, conditions, among=left(threats[0].epsilon))
        return [
            attrs.evolve(first.at(threat.epsilon), evaluations=0 if row else first.evaluations)
            for row, threat in enumerate(threats)
        ]
    rows: list[Outcomes] = []
    for threat in threats:
        before, among = rows[-1] if carry and rows else None, left(threat.epsilon)
        rows.append(evaluate(network, images, labels, build(threat), threat, conditions, among=among, before=before))
    return rows
