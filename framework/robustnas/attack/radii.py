"""One attack at several radii, from small to large: an image fooled at one is fooled at every larger one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from robustnas.attack.evaluation import evaluate
from robustnas.attack.record import AttackRecord
from robustnas.attack.runner import runners
from robustnas.contracts import Images
from robustnas.threat import ThreatModel


def at_radii(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    build: Callable[[ThreatModel], Any],
    threats: Sequence[ThreatModel],
    *,
    label: str,
    left: Callable[[float], Tensor],
    carry: bool = True,
    **settings: Any,
) -> list[AttackRecord]:
    """A record for each radius, in the order of `threats`.

    An attack that minimises runs once and serves all of them.

    Args:
        build: makes the attack for a threat.
        threats: of one norm, epsilon ascending.
        label: the attack's name in messages and seeds.
        left: (N,) bool of a radius: the images that earlier attacks left standing there.
        carry: whether an image fooled at one radius is left out at the larger ones; False attacks it again.
        settings: what else `evaluate` takes.

    Raises:
        RunError, OptionError, DataError: as `evaluate`.
    """
    # at the smallest ball: what is fooled in a larger one alone goes on, as it would if the smallest were the only one
    least = next((threat for threat in threats if threat.epsilon > 0), threats[-1])
    if all(part.minimises for part in runners(build(least), least, label)):
        record = evaluate(
            network, images, labels, build(least), least, label=label, among=left(threats[0].epsilon), **settings
        )
        found = [record.at(threat) for threat in threats]
        return [found[0], *(_free(one) for one in found[1:])]
    records: list[AttackRecord] = []
    for threat in threats:
        records.append(
            evaluate(
                network,
                images,
                labels,
                build(threat),
                threat,
                label=label,
                among=left(threat.epsilon),
                before=records[-1] if carry and records else None,
                **settings,
            )
        )
    return records


def _free(record: AttackRecord) -> AttackRecord:
    """A record that cost nothing: its evaluations are counted at the smallest radius."""
    return attrs.evolve(record, evaluations=0)
