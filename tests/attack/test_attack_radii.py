"""One attack at several radii: from small to large, what fell falls no second time, and who minimises runs once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from robustnas.attack import Conditions, Outcomes, evaluate, predict
from robustnas.attack.foolbox_attack import BallAttack, InTurn, NearestAttack, Network
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.radii import at_radii
from robustnas.data.images import InMemory
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy
from robustnas_plugins.attacks.ddn import DDN
from robustnas_plugins.attacks.deepfool import DeepFool
from robustnas_plugins.attacks.fab import FABT
from robustnas_plugins.attacks.pgd import PGD
from support.evaluated_digits import some, trained

COUNT = 60
RADII = (0.03, 0.08, 0.15, 0.25)
SETTINGS: dict[str, Any] = {"label": "x", "batch": 25, "seed": 2}


def threats(*radii: float, norm: str = "linf") -> list[ThreatModel]:
    return [ThreatModel(norm, radius) for radius in radii]


def grid(
    build: Callable[[ThreatModel], Any],
    wanted: list[ThreatModel],
    left: Callable[[float], Tensor] = lambda _: torch.ones(COUNT, dtype=torch.bool),
    *,
    carry: bool = True,
    **settings: Any,
) -> list[Outcomes]:
    images, labels = some(COUNT)
    network, conditions = trained(), Conditions(**{**SETTINGS, **settings})
    return at_radii(network, InMemory(images, labels), labels, build, wanted, conditions, left=left, carry=carry)


def alone(build: Callable[[ThreatModel], Any], threat: ThreatModel, **settings: Any) -> Outcomes:
    images, labels = some(COUNT)
    held = {name: settings.pop(name) for name in ("among", "before") if name in settings}
    conditions = Conditions(**{**SETTINGS, **settings})
    return evaluate(trained(), images, labels, build(threat), threat, conditions, **held)


def right() -> Tensor:
    images, labels = some(COUNT)
    return predict(trained(), images) == labels


class Watched(BallAttack):
    """PGD that remembers how many images it was given at each radius."""

    def __init__(self, seen: dict[float, int], epsilon: float):
        super().__init__("linf")
        self.inner = PGD(steps=6, step_size=0.06).build(ThreatModel("linf", epsilon))
        self.seen = seen

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        self.seen[threat.epsilon] = self.seen.get(threat.epsilon, 0) + len(images)
        found: Tensor = self.inner.perturbed(network, images, labels, threat, draws)
        return found


def test_what_fell_in_a_small_ball_is_not_attacked_in_a_larger_one():
    seen: dict[float, int] = {}
    records = grid(lambda threat: Watched(seen, threat.epsilon), threats(*RADII))
    standing = int(right().sum())
    assert list(seen) == list(RADII), "from small to large"
    for record, radius in zip(records, RADII, strict=True):
        assert seen[radius] == standing == int((record.tried > 0).sum())
        standing = int((record.correct & ~record.success).sum())
    assert standing < seen[RADII[0]]
    for small, large in pairwise(records):
        assert torch.all(large.success >= small.success)
        torch.testing.assert_close(large.distance[small.success], small.distance[small.success])  # the nearer one
        assert not (large.tried[small.success] > 0).any()


def test_without_carrying_everything_is_attacked_at_every_radius_with_the_same_verdicts():
    seen: dict[float, int] = {}
    build = lambda threat: Watched(seen, threat.epsilon)  # noqa: E731
    every = grid(build, threats(*RADII), carry=False)
    assert set(seen.values()) == {int(right().sum())}
    for one, other in zip(every, grid(build, threats(*RADII)), strict=True):
        known = torch.stack([record.success for record in every[: every.index(one) + 1]]).any(dim=0)
        assert torch.equal(known, other.success)
    for record, threat in zip(every, threats(*RADII), strict=True):
        single = alone(build, threat)
        for name in ("success", "prediction", "distance", "tried"):
            assert torch.equal(getattr(record, name), getattr(single, name))


def test_each_radius_is_given_what_others_left_there():
    seen: dict[float, int] = {}
    gone = {radius: torch.arange(COUNT) < 10 * place for place, radius in enumerate(RADII)}
    records = grid(lambda threat: Watched(seen, threat.epsilon), threats(*RADII), lambda radius: ~gone[radius])
    for place, (record, radius) in enumerate(zip(records, RADII, strict=True)):
        tried = record.tried > 0
        assert not (tried & gone[radius]).any()
        fell = records[place - 1].success if place else torch.zeros(COUNT, dtype=torch.bool)
        assert torch.equal(tried, right() & ~gone[radius] & ~fell)


MINIMISERS: dict[str, tuple[str, tuple[float, ...], Callable[[ThreatModel], Any]]] = {
    "fab-t": ("linf", RADII, FABT(steps=3, target_classes=4).build),
    "deepfool": ("l2", (0.4, 0.7, 1.2), DeepFool(steps=4, candidates=4).build),
    "ddn": ("l2", (0.4, 0.7, 1.2), DDN(steps=30).build),
}


@pytest.mark.parametrize(("name", "runs"), [("fab-t", 1), ("fab-t", 2), ("deepfool", 2), ("ddn", 1)])
def test_who_minimises_runs_once_and_says_at_each_radius_what_it_would_say_alone(name: str, runs: int):
    norm, radii, build = MINIMISERS[name]
    records = grid(build, threats(*radii, norm=norm), runs=runs)
    singles = [alone(build, threat, runs=runs) for threat in threats(*radii, norm=norm)]
    assert records[0].evaluations == max(single.evaluations for single in singles) > 0
    assert not any(record.evaluations for record in records[1:]), "all radii cost one run"
    for record, single in zip(records, singles, strict=True):
        assert record.threat == single.threat
        assert torch.equal(record.success, single.success)
        assert torch.equal(record.prediction[record.success], single.prediction[record.success])
        torch.testing.assert_close(record.distance[record.success], single.distance[single.success], atol=1e-5, rtol=0)
        assert torch.equal(record.by >= 0, record.success)
    assert 0 < int(records[0].success.sum()) < int(records[-1].success.sum())


class Nearing(NearestAttack):
    """Towards black, as far as it must: each run goes half as far as the one before, as draws would have it."""

    def __init__(self, calls: list[int]):
        super().__init__("linf")
        self.calls = calls

    def nearest(self, network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
        self.calls.append(len(images))
        return images + (1.0 - images) * 0.6 ** len(self.calls)


def test_a_later_run_may_find_what_is_nearer_for_a_small_radius():
    """Fooled within the largest ball is not fooled within the smallest: the image is given to the next run."""
    calls: list[int] = []
    records = grid(lambda threat: Nearing(calls), threats(0.3, 0.7), runs=3, batch=COUNT)
    small, large = records
    later = small.success & (small.by > 0)
    assert later.any()
    assert (large.success & ~small.success).any()
    # both radii know the smallest perturbation and who found it
    assert torch.equal(small.found, large.found)
    assert torch.equal(small.by[small.success], large.by[small.success])
    for record in records:
        attack = Nearing([])
        single = alone(lambda _, attack=attack: attack, record.threat, runs=3, batch=COUNT)
        assert torch.equal(record.success, single.success)


def both(counts: dict[str, int]) -> Callable[[ThreatModel], Any]:
    """A weak attack inside the ball, then one that minimises, each counting what it is given."""

    def build(threat: ThreatModel) -> Any:
        ball = Watched({}, threat.epsilon)
        ball.inner = PGD(steps=1, step_size=0.02, random_start=False).build(threat)
        near = FABT(steps=3, target_classes=4).build(threat)
        run = near.nearest

        def counted(network: Network, images: Tensor, labels: Tensor, draws: PerImageRandom) -> Tensor:
            counts["near"] = counts.get("near", 0) + len(images)
            found: Tensor = run(network, images, labels, draws)
            return found

        object.__setattr__(near, "nearest", counted)  # a plugin is frozen
        return InTurn("linf", {"ball": ball, "near": near})

    return build


def test_a_part_that_minimises_runs_once_for_all_radii():
    counts: dict[str, int] = {}
    records = grid(both(counts), threats(*RADII))
    assert counts["near"] <= int(right().sum()), "no image twice"
    assert records[0].parts == ("ball", "near")
    for place, threat in enumerate(threats(*RADII)):
        single = alone(both({}), threat)
        known = torch.stack([record.success for record in records[: place + 1]]).any(dim=0)
        assert torch.equal(known, records[place].success)
        assert torch.all(records[place].success >= single.success)
        assert torch.equal(records[place].by >= 0, records[place].success), "every image that fell fell to somebody"
    fell_later = records[-1].success & ~records[0].success
    assert (records[-1].by[fell_later] == 1).any(), "to what was found at the smallest radius"


def test_a_radius_of_zero_is_nobodys_ball():
    for build in (MINIMISERS["fab-t"][2], AutoPGDCrossEntropy(steps=3).build):
        records = grid(build, threats(0.0, *RADII[2:]))
        assert not records[0].success.any()
        assert records[1].success.any()
        assert torch.equal(records[0].prediction, records[0].clean)


def test_sizes_are_of_the_same_perturbation_in_every_norm():
    """l_inf <= l_2 <= l_1, and what is known grows with no radius."""
    records = grid(PGD(steps=6, step_size=0.06).build, threats(*RADII))
    for small, large in pairwise(records):
        for norm in NORMS:
            assert torch.all(large.sizes[norm] <= small.sizes[norm])
    last = records[-1].sizes
    assert last["linf"].isfinite().any()
    assert torch.all(last["linf"] <= last["l2"] + 1e-9)
    assert torch.all(last["l2"] <= last["l1"] + 1e-9)
