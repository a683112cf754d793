"""Attacks on linear networks of images of one to four pixels, where it is known how near an image that fools is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted
from robustnas_plugins.attacks.boundary import Boundary
from robustnas_plugins.attacks.cw_linf import MarginPGD
from robustnas_plugins.attacks.deepfool import DeepFool
from robustnas_plugins.attacks.fab import FAB, FABT
from robustnas_plugins.attacks.fmn import FMN
from robustnas_plugins.attacks.hopskipjump import HopSkipJump
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.attacks.square import Square
from support.exact_distances import exact_distances

SHAPES = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (3, 1, 1)]
BEYOND = 1.5
"""Share of the distance of the nearest image that fools, at which an attack has to find one."""

ANY = {
    "apgd-t": AutoPGDTargeted(),
    "fab-t": FABT(steps=20),
    "square": Square(queries=800),
    "square as the reference": Square(queries=800, variant="reference"),
}
"""Those that look at each wrong class by itself, or everywhere."""

TWO = {
    "apgd-ce": AutoPGDCrossEntropy(steps=50),
    "apgd-dlr": AutoPGDLogitsRatio(steps=50),
    "fmn": FMN(steps=150),
    "fab": FAB(steps=20),
}
"""With two classes what is raised has one maximum in ball and box, so any climb ends there."""


def attacks(classes: int, threat: ThreatModel) -> dict[str, object]:
    """By name those from which an answer is asked."""
    if classes > 2:
        return dict(ANY)
    found = {**ANY, **TWO, "pgd": PGD(steps=20, step_size=threat.epsilon / 4)}
    if threat.norm != "l1":
        found |= {
            "mi-fgsm": MomentumFGSM(steps=40, step_size=threat.epsilon / 4),
            "hopskipjump": HopSkipJump(steps=8, samples=30),
        }
    if threat.norm == "linf":
        found |= {"deepfool": DeepFool(), "cw-linf": MarginPGD(steps=20, step_size=threat.epsilon / 4)}
    if threat.norm == "l2":
        found["boundary"] = Boundary(steps=400)
    return found


def cases(classes: int, norm: str) -> Iterator[tuple[nn.Module, Tensor, Tensor, Tensor]]:
    """Networks, images (n, C, H, W), their classes, and how near an image that fools is (n,)."""
    for shape in SHAPES if norm == "linf" else SHAPES[1:3]:
        with seeded(classes, "few pixels", *shape):
            linear = nn.Linear(shape[0] * shape[1] * shape[2], classes).requires_grad_(False)
            images = torch.rand(9, *shape)
        images[::3] = images[::3].round()
        images[1::3, :, :, :1] = 0.0
        network = nn.Sequential(nn.Flatten(), linear)
        labels = predict(network, images)
        yield network, images, labels, exact_distances(network, images, labels, norm)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "norm", ["linf", pytest.param("l2", marks=pytest.mark.slow), pytest.param("l1", marks=pytest.mark.slow)]
)
def test_what_can_be_fooled_is_and_what_cannot_is_not(classes: int, norm: str):
    blind: dict[str, int] = {}
    asked = 0
    for network, images, labels, distance in cases(classes, norm):
        finite = distance[distance.isfinite()]
        if not len(finite):
            continue
        epsilon = float(finite.median()) * BEYOND
        threat = ThreatModel(norm, min(epsilon, 1.0) if norm == "linf" else epsilon)
        due = distance * BEYOND <= threat.epsilon * 1.0001
        asked += int(due.sum())
        for name, attack in attacks(classes, threat).items():
            record = evaluate(network, images, labels, attack.build(threat), threat, Conditions(label=name))  # type: ignore[attr-defined]
            assert not bool((record.success & (distance > threat.epsilon * 1.0001)).any()), name
            blind[name] = blind.get(name, 0) + int((due & ~record.success).sum())
    assert asked >= 10
    assert not any(blind.values()), f"of {asked} images that can be fooled these many stood: {blind}"
