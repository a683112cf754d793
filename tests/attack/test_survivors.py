"""Attacks on survivors only: the verdicts of attacking everything, for fewer evaluations, however the work is cut."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustnas.attack import Conditions, Outcomes, evaluate, predict
from robustnas.cli import main
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import Processes
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDTargeted
from robustnas_plugins.attacks.cw_linf import MarginPGD
from robustnas_plugins.attacks.fab import FABT
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.noise import GaussianNoise
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.attacks.square import Square
from support.evaluated_digits import columns, prepare, run, some, table, trained

LABELS = ("fgsm", "mi-fgsm", "pgd", "apgd", "deepfool", "fab")
"""In the order in which they are run: from cheap to expensive."""

ATTACKS = """\
attacks:
  - {name: fgsm, label: fgsm, random_start: true}
  - {name: pgd, label: pgd, steps: 8, step_size: 0.03}
  - {name: apgd-ce, label: apgd, steps: 8}
  - {name: mi-fgsm, label: mi-fgsm, steps: 2, step_size: 0.03}
  - {name: fab-t, label: fab, steps: 3, target_classes: 9}
  - {name: deepfool, label: deepfool, steps: 4, candidates: 4}
evaluate: {images: 80, batch: 30, epsilons: [0.04, 0.12, 0.2]}
certify: {method: crown, images: 20, norms: [linf, l2]}
"""
RADII = (0.04, 0.06, 0.12, 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same recipe run with `survivors` and with `all`."""
    folder = tmp_path_factory.mktemp("survivors")
    with contextlib.chdir(folder):
        prepare(folder, ATTACKS)
        for how in ("survivors", "all"):
            assert run(folder, f"evaluate.attacked={how}", out=how) == 0
        yield folder


def fooled(folder: Path, labels: tuple[str, ...], epsilon: float) -> Any:
    """(N,) bool, by any of the attacks at this radius or a smaller one."""
    found = [columns(folder, label) for label in labels]
    return np.any([one["success"][one["epsilon"] <= epsilon].any(axis=0) for one in found], axis=0)


def test_each_image_has_the_same_verdict_at_each_radius(folder: Path):
    for epsilon in RADII:
        spared, every = (fooled(folder / how, LABELS, epsilon) for how in ("survivors", "all"))
        assert np.array_equal(spared, every), epsilon
        assert 0 < spared.sum() < len(spared), "both verdicts occur"
    spared, every = (table(folder / how) for how in ("survivors", "all"))
    assert spared["robust"] == every["robust"]
    assert spared["robust_at"] == every["robust_at"]
    assert len(spared["robust_at"]) == 3
    # the columns say different things: what stands so far, and what each attack alone leaves
    assert spared["attacks"]["fab"] == spared["robust"]
    assert all(spared["attacks"][one]["mean"] <= every["attacks"][one]["mean"] for one in LABELS)


def test_no_attack_of_the_recipe_does_the_work_of_all(folder: Path):
    """What makes the comparison worth something: several attacks break images that those before them did not."""
    broke = 0
    for place, label in enumerate(LABELS):
        before = fooled(folder / "all", LABELS[:place], 0.12) if place else False
        broke += bool((fooled(folder / "all", (label,), 0.12) & ~np.asarray(before)).any())
    assert broke >= 3


def test_attacks_are_run_from_cheap_to_expensive_whatever_the_recipe_says(folder: Path):
    assert list(table(folder / "survivors")["attacks"]) == list(LABELS)


def test_every_survivor_saw_every_attack_and_nobody_else_did(folder: Path):
    looked = 0
    for place, label in enumerate(LABELS):
        one = columns(folder / "survivors", label)
        right = one["clean"] == one["label"]
        for row, epsilon in enumerate(one["epsilon"]):
            earlier = fooled(folder / "survivors", LABELS[:place], epsilon) if place else np.zeros_like(right)
            tried = one["tried"][row] > 0
            own = one["success"][:row].any(axis=0) if row else np.zeros_like(right)
            assert np.all(tried[right & ~earlier & ~own]), (label, epsilon)
            assert not np.any(tried[~right]), (label, epsilon)
            if label not in ("deepfool", "fab"):  # run once, for all radii
                assert not np.any(tried[earlier | own]), (label, epsilon)
            looked += int(tried.sum())
    assert looked > 500


def test_it_costs_fewer_evaluations(folder: Path):
    costs = {how: {label: columns(folder / how, label)["evaluations"].sum() for label in LABELS} for how in HOWS}
    for label in LABELS:
        assert 0 < costs["survivors"][label] <= costs["all"][label]
    assert sum(costs["survivors"].values()) < 0.9 * sum(costs["all"].values())
    for label in ("deepfool", "fab"):
        assert not columns(folder / "all", label)["evaluations"][1:].any(), "run once, for all radii"


HOWS = ("survivors", "all")


@pytest.mark.parametrize("how", HOWS)
def test_certified_robust_clean_image_by_image(folder: Path, how: str):
    (where,) = (folder / how / "certify").iterdir()
    result = StageFolder(where).result()
    certified = np.array(result["certified"])
    first = columns(folder / how, "fgsm")
    right = first["clean"] == first["label"]
    robust = right & ~fooled(folder / how, LABELS, 0.06)
    assert len(certified) == 20
    assert certified.any()
    assert np.all(robust[:20] >= certified)
    assert np.all(right >= robust)
    found = 0
    for norm, radius in result["radius"].items():
        size = np.min([columns(folder / how, label)[f"size_{norm}"].min(axis=0) for label in LABELS], axis=0)[:20]
        assert np.all(np.array(radius) <= size * (1 + 1e-6)), norm
        found += int(np.isfinite(size).sum())
    assert found > 20
    assert not list(folder.rglob("violation.pt"))


LINF = ThreatModel("linf", 0.12)
OURS: dict[str, Callable[[], Any]] = {
    "fgsm": lambda: FGSM(random_start=True),
    "pgd": lambda: PGD(steps=4, step_size=0.05, restarts=2),
    "mi-fgsm": lambda: MomentumFGSM(steps=4, step_size=0.04),
    "cw-linf": lambda: MarginPGD(steps=4, step_size=0.05),
    "apgd-ce": lambda: AutoPGDCrossEntropy(steps=6, restarts=2),
    "apgd-t": lambda: AutoPGDTargeted(steps=3, target_classes=2),
    "fab-t": lambda: FABT(steps=3, restarts=2, target_classes=3),
    "square": lambda: Square(queries=20),
    "gaussian-noise": lambda: GaussianNoise(),
}


class Turns(Processes):
    """Several processes, one after the other in this one: each deals itself its batches, and all hear of all."""

    def run_together(self, compute: Callable[[], Any]) -> list[Any]:
        found = []
        for rank in range(self.size):
            object.__setattr__(self, "rank", rank)
            found.append(compute())
        object.__setattr__(self, "rank", 0)
        return found

    def broadcast(self, value: Any) -> Any:
        return value


def attacked(name: str, count: int = 60, **settings: Any) -> Outcomes:
    images, labels = some(count)
    network = trained()
    among = settings.pop("among", None)
    conditions = Conditions(**{"label": name, "seed": 4, "clean": predict(network, images), "batch": 64, **settings})
    return evaluate(network, images, labels, OURS[name]().build(LINF), LINF, conditions, among=among)


def same(one: Outcomes, other: Outcomes, among: Tensor | slice = slice(None)) -> None:
    for name in ("tried", "success", "prediction", "by", "answer"):
        assert torch.equal(getattr(one, name)[among], getattr(other, name)[among]), name
    torch.testing.assert_close(one.distance[among], other.distance[among], atol=1e-4, rtol=0)
    for norm, size in one.sizes.items():
        torch.testing.assert_close(size[among], other.sizes[norm][among], atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module", params=list(OURS))
def whole(request: pytest.FixtureRequest) -> tuple[str, Outcomes]:
    """An attack of ours, and what it does to all images in one batch."""
    record = attacked(request.param)
    assert record.success.any()
    assert (record.correct & ~record.success).any()
    return request.param, record


def test_a_record_does_not_depend_on_the_batch(whole: tuple[str, Outcomes]):
    name, record = whole
    pieces = attacked(name, batch=7)
    same(record, pieces)
    assert pieces.evaluations == record.evaluations


def test_a_record_does_not_depend_on_what_else_is_attacked(whole: tuple[str, Outcomes]):
    name, record = whole
    among = torch.arange(60) % 3 == 0
    part = attacked(name, among=among)
    same(record, part, among)
    assert not part.success[~among].any()
    assert not part.tried[~among].any()
    assert part.evaluations < record.evaluations


def test_a_record_depends_on_the_place_in_the_data_set_and_not_on_the_order(whole: tuple[str, Outcomes]):
    name, record = whole
    images, labels = some(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:40]
    threat, attack = LINF, OURS[name]().build(LINF)
    conditions = Conditions(label=name, seed=4, batch=16, places=order)
    mixed = evaluate(trained(), images[order], labels[order], attack, threat, conditions)
    assert torch.equal(mixed.success, record.success[order])
    assert torch.equal(mixed.by, record.by[order])
    torch.testing.assert_close(mixed.distance, record.distance[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [2, 3])
def test_a_record_does_not_depend_on_how_many_processes_there_are(whole: tuple[str, Outcomes], size: int):
    name, record = whole
    shared = attacked(name, batch=9, processes=Turns(0, size))
    same(record, shared)
    assert shared.evaluations == record.evaluations


def test_another_seed_draws_other_numbers(whole: tuple[str, Outcomes]):
    """The comparisons can fail: of attacks that draw at all."""
    name, record = whole
    other = evaluate(trained(), *some(60), OURS[name]().build(LINF), LINF, Conditions(label=name, seed=5))
    same_draws = torch.equal(other.sizes["l2"], record.sizes["l2"])
    if name != "fab-t":  # its restarts draw, and seldom find what is nearer
        assert same_draws == (name == "mi-fgsm")


def test_what_is_shared_is_shown_twice_and_what_is_not_asked_for_is_told(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    again = '  again: {network: "evaluated_nets:make", weights: weights.pt}\n'
    weak = "attacks: [fgsm, {name: pgd, steps: 2, step_size: 0.01, label: one}]\nevaluate: {images: 20}\n"
    prepare(tmp_path, again + weak + "certify: null\n")
    assert run(tmp_path) == 0
    first, second = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert first["robust"] is not None
    assert {**second, "method": "net"} == first
    assert [flag["attack"] for flag in first["flags"]] == ["one"]
    capsys.readouterr()
    fewer = "attacks: [{name: pgd, steps: 3, step_size: 0.01, label: another}]\nevaluate: {images: 20}\n"
    for out, kept in (("run", True), ("fresh", False)):
        prepare(tmp_path, fewer + "certify: null\n")
        assert main(["run", "r.yaml", "--out", out]) == 0
        told = "does not ask for them: finished stages of net (attack 2); they are kept"
        assert (told in capsys.readouterr().out) == kept
    assert (tmp_path / "run" / "table.json").read_bytes() == (tmp_path / "fresh" / "table.json").read_bytes()
    prepare(tmp_path, weak.replace("label: one", "label: renamed") + "certify: null\n")
    assert run(tmp_path) == 0
    assert [flag["attack"] for flag in table(tmp_path / "run")["flags"]] == ["renamed"]


def test_results_that_contradict_each_other_are_left_out_and_told(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "attacks: [fgsm]\nevaluate: {images: 40}\ncertify: {method: ibp, norms: [linf]}\n")
    assert run(tmp_path) == 0
    (file,) = (tmp_path / "run" / "certify").glob("*/result.json")
    result = json.loads(file.read_text())
    StageFolder(file.parent).finish({**result, "radius": {"linf": [0.9] * 40}})
    capsys.readouterr()
    assert main(["table", str(tmp_path / "run")]) == 1
    printed = capsys.readouterr()
    assert "has a certified linf radius of 0.9 and was fooled by a perturbation of 0.06" in printed.err
    assert "left out, because results contradict each other" in printed.out
    row = table(tmp_path / "run")
    assert row["clean"] is not None
    assert row["attacks"]["fgsm"] is row["robust"] is row["certified"] is None
