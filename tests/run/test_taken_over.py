"""Images that stay when others come or go are neither attacked nor bounded again, and the result is a fresh run's."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustnas import certify
from robustnas.attack import evaluation
from support.evaluated_digits import prepare, run

LABELS = ("fgsm", "apgd", "deepfool", "pgd", "noise")
"""In the order in which they are run; `deepfool` is foolbox's own, of which nobody knows what it draws."""

ATTACKS = """\
attacks:
  - {name: fgsm, label: fgsm, random_start: true}
  - {name: apgd-ce, label: apgd, steps: 4}
  - {name: deepfool, label: deepfool, steps: 3, candidates: 3}
  - {name: pgd, label: pgd, steps: 4, step_size: 0.03, restarts: 2}
  - {name: gaussian-noise, label: noise}
"""
BOUNDS = """\
evaluate: {images: 12, batch: 7}
certify: {method: crown-ibp, images: 12, norms: [linf, l2], batch: 7}
"""
SECTIONS = ATTACKS + BOUNDS.replace("batch: 7}", "batch: 7, epsilons: [0.1]}", 1)
FURTHER = "certify.epsilons=[0.005, 0.02, 0.03]"
MEASURED = ("distance", "size_linf", "size_l2", "size_l1")


def images(count: int) -> tuple[str, str]:
    return f"evaluate.images={count}", f"certify.images={count}"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs, of 12 and of 24 images; the working directory."""
    folder = tmp_path_factory.mktemp("fresh")
    with contextlib.chdir(folder):
        prepare(folder, SECTIONS)
        for count in (12, 24):
            assert run(folder, *images(count), out=str(count)) == 0
        yield folder


def results(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The results of the stages that the last recipe run in a folder asks for, by label, without what tells them."""
    (seeds,) = json.loads((folder / "layout.json").read_text())["methods"].values()
    places = seeds["0"]["attacks"] if kind == "attack" else {kind: seeds["0"][kind]}
    found = {}
    for label, where in places.items():
        result = json.loads((folder / where / "result.json").read_text())
        arrays = {}
        if kind == "attack":
            with np.load(folder / where / "columns.npz", allow_pickle=False) as columns:
                arrays = dict(columns)
        found[label] = {**arrays, **result, "provenance": None}
    return found


def same(folder: Path, expected: Path, taken: dict[str, int], *, counted: bool = True) -> None:
    """Hold results to those of a fresh run: figures that another batch rounds otherwise to rounding, others exactly.

    Args:
        taken: how many images were taken over, by label; all others have taken over none.
        counted: whether evaluations are counted exactly.
    """
    for kind in ("certify", "attack"):
        one, other = results(folder, kind), results(expected, kind)
        assert one.keys() == other.keys()
        for label, result in one.items():
            assert result.pop("taken_over", {"images": 0})["images"] == taken.get(label, 0), label
            assert result.keys() == other[label].keys()
            for name, value in result.items():
                if name == "radius":
                    for norm, radii in value.items():
                        np.testing.assert_allclose(radii, other[label][name][norm], rtol=2e-3)
                elif name == "margin" or name in MEASURED:
                    left, right = (np.array(one, dtype=float) for one in (value, other[label][name]))
                    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6, err_msg=name)
                elif name != "evaluations" or counted:
                    equal = value == other[label][name]
                    assert equal.all() if isinstance(value, np.ndarray) else equal, (label, name)
                else:
                    np.testing.assert_allclose(value, other[label][name], rtol=0.3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the images that are bounded at the threat, searched for radii, bounded at further ones, and attacked."""
    counted = dict.fromkeys(("margins", "radius", "largest_certified", "attacked"), 0)

    def counting(owner: Any, name: str, called: str, of: int) -> None:
        compute = getattr(owner, name)

        def count(*given: Any, **named: Any) -> Any:
            counted[called] += len(given[of])
            return compute(*given, **named)

        monkeypatch.setattr(owner, name, count)

    for name in ("margins", "radius", "largest_certified"):
        counting(certify, name, name, 1)
    counting(evaluation._Run, "_batch", "attacked", 3)
    return counted


def test_images_that_come_are_done_and_those_that_stay_are_not(fresh: Path, asked: dict[str, int]):
    shutil.copytree(fresh / "12", fresh / "grown")
    assert run(fresh, *images(24), out="grown") == 0
    taken = dict.fromkeys(("certify", "fgsm", "apgd", "pgd", "noise"), 12)
    same(fresh / "grown", fresh / "24", taken)
    assert (asked["margins"], asked["radius"]) == (12, 2 * 12)
    (deepfool,) = (result for label, result in results(fresh / "grown", "attack").items() if label == "deepfool")
    every = sum(sum(result["attacked"]) for result in results(fresh / "24", "attack").values())
    assert 0 < sum(deepfool["attacked"]) < asked["attacked"] < 0.8 * every


def test_images_that_go_leave_the_others(fresh: Path, asked: dict[str, int]):
    shutil.copytree(fresh / "24", fresh / "shrunk")
    assert run(fresh, *images(12), out="shrunk") == 0
    taken = dict.fromkeys(("certify", "fgsm", "apgd", "pgd", "noise"), 12)
    same(fresh / "shrunk", fresh / "12", taken, counted=False)
    assert asked["margins"] == asked["radius"] == 0
    assert 0 < asked["attacked"] <= 12, "deepfool's"


def test_of_further_radii_the_new_ones_alone_are_bounded(fresh: Path, asked: dict[str, int]):
    prepare(fresh, BOUNDS)
    for count in (12, 24):
        assert run(fresh, *images(count), out=f"bounds-{count}") == 0
    assert run(fresh, *images(24), FURTHER, out="further") == 0
    (expected,) = results(fresh / "further", "certify").values()
    assert len({sum(held) for held in expected["certified_at"].values()} - {0, 24}) >= 2
    same(fresh / "further", fresh / "further", {})
    shutil.copytree(fresh / "bounds-12", fresh / "added")
    for name in asked:
        asked[name] = 0
    assert run(fresh, *images(12), "certify.epsilons=[0.02]", out="added") == 0
    assert asked == {"margins": 0, "radius": 0, "largest_certified": 12, "attacked": 0}
    assert run(fresh, *images(24), FURTHER, out="added") == 0
    assert (asked["margins"], asked["radius"], asked["largest_certified"]) == (12, 24, 12 + 24)
    same(fresh / "added", fresh / "further", {"certify": 12})
    # without them radii are smaller: those that were raised to a further radius are bounded anew
    assert run(fresh, *images(24), out="further") == 0
    same(fresh / "further", fresh / "bounds-24", {})
    prepare(fresh, SECTIONS)


def test_only_images_that_another_attack_before_spares_otherwise_are_attacked_again(fresh: Path, asked: dict[str, int]):
    prepare(fresh, SECTIONS.replace("random_start: true", "random_start: false"))
    assert run(fresh, *images(24), out="other") == 0
    shutil.copytree(fresh / "24", fresh / "changed")
    attacked, asked["attacked"] = asked["attacked"], 0
    assert run(fresh, *images(24), out="changed") == 0
    prepare(fresh, SECTIONS)
    found = {label: result.get("taken_over", {"images": 0})["images"] for label, result in
             results(fresh / "changed", "attack").items()}  # fmt: skip
    assert found["fgsm"] == found["deepfool"] == 0
    assert 12 < found["apgd"] < 24
    same(fresh / "changed", fresh / "other", found, counted=False)
    assert asked["attacked"] < attacked


def test_what_would_be_taken_over_is_held_to_what_was_written_before_anything_is_done(
    fresh: Path, asked: dict[str, int], capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(fresh / "12", fresh / "damaged")
    (file,) = (fresh / "damaged").glob("attack/net-seed0-pgd-*/columns.npz")
    file.write_bytes(file.read_bytes()[:-1])
    assert run(fresh, *images(24), out="damaged") == 2
    assert str(file.parent.name) in capsys.readouterr().err
    assert not any(asked.values())
    file.parent.joinpath("digests.json").unlink()  # as an older version's, which is not taken over
    assert run(fresh, *images(24), out="damaged") == 0
    taken = dict.fromkeys(("certify", "fgsm", "apgd", "noise"), 12)
    same(fresh / "damaged", fresh / "24", taken)


def test_averaged_passes_depend_on_the_batch(fresh: Path):
    prepare(fresh, "attacks: [{name: fgsm, expectation: 2}]\ncertify: null\n")
    for count in (5, 9):
        assert run(fresh, f"evaluate.images={count}", out="averaged") == 0
    prepare(fresh, SECTIONS)
    (result,) = results(fresh / "averaged", "attack").values()
    assert not {"question", "taken_over"} & result.keys()
