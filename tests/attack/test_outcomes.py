"""What an attack did: its parts put together, other radii, and the file, which tells the same as the CSV."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from robustnas.attack import Conditions, Outcomes, evaluate
from robustnas.attack.foolbox_attack import InTurn
from robustnas.attack.outcomes import FIGURES, FILE, STORED, load, save
from robustnas.cli import main
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.fab import FABT
from robustnas_plugins.attacks.pgd import PGD
from support.evaluated_digits import columns, prepare, run, some, stage, trained

COUNT = 60
NAMES = {*STORED, "norm", "parts", "access", "epsilon", "variant", "evaluations"}


@pytest.fixture(scope="module")
def rows() -> list[Outcomes]:
    """Two radii of an attack of two parts."""
    images, labels = some(COUNT)
    found = []
    for epsilon in (0.06, 0.12):
        threat = ThreatModel("linf", epsilon)
        parts = {
            "pgd": PGD(steps=2, step_size=0.03).build(threat),
            "fab": FABT(steps=2, target_classes=3).build(threat),
        }
        conditions = Conditions(label="two", places=torch.arange(COUNT) * 3)
        found.append(evaluate(trained(), images, labels, InTurn("linf", parts), threat, conditions))
    return found


def test_more_parts_are_counted_than_a_byte_holds(rows: list[Outcomes], tmp_path: Path):
    """`runs: 200`, say."""
    many = attrs.evolve(rows[0], tried=torch.full((COUNT,), 200), by=torch.full((COUNT,), 150))
    save([many], StageFolder(tmp_path))
    (again,) = load(tmp_path)
    assert set(again.tried.tolist()) == {200}
    assert set(again.by.tolist()) == {150}


def test_what_is_written_is_what_is_read_and_numpy_alone_reads_it(rows: list[Outcomes], tmp_path: Path):
    save(rows, StageFolder(tmp_path))
    with np.load(tmp_path / FILE, allow_pickle=False) as found:
        assert set(found.files) == NAMES
        assert not any(found[name].dtype.hasobject for name in NAMES)
    for again, row in zip(load(tmp_path), rows, strict=True):
        for name in STORED:
            assert np.array_equal(getattr(again, name), getattr(row, name).numpy()), name
            assert getattr(again, name).dtype == FIGURES[name].dtype
        for field in ("threat", "parts", "access", "variant", "evaluations"):
            assert getattr(again, field) == getattr(row, field)
    assert rows[0].index.tolist() == [3 * place for place in range(COUNT)]


def test_success_is_right_when_clean_and_wrong_then(rows: list[Outcomes]):
    for row in rows:
        assert torch.equal(row.success, row.correct & (row.prediction != row.label))
        assert torch.equal(row.success, row.by >= 0)
        assert row.success.any()
    assert {int(part) for row in rows for part in row.by} == {-1, 0, 1}, "both parts broke something"


def test_what_a_part_did_is_put_beside_what_was_known():
    """By hand: fooled beyond the ball, fooled inside, and an admissible image that does not fool."""
    threat, index = ThreatModel("linf", 0.1), torch.tensor([7, 3, 5])
    known = Outcomes(threat, index=index, label=torch.zeros(3).long(), clean=torch.zeros(3).long())
    part = {
        "prediction": torch.tensor([2, 0]),
        "answer": torch.tensor([2, 1]),
        "success": torch.tensor([True, False]),
        "admissible": torch.tensor([True, False]),
        "distance": torch.tensor([0.08, 0.3]),
        "size_linf": torch.tensor([0.08, 0.3]).double(),
        "cost": torch.tensor([2.5, 2.5]).double(),
    }
    labels = torch.zeros(2).long()
    found = known.add(Outcomes(threat, index=torch.tensor([5, 3]), label=labels, clean=labels, **part), 4)
    assert found.index.tolist() == [7, 3, 5]
    assert found.success.tolist() == [False, False, True]
    assert found.prediction.tolist() == [0, 0, 2]
    assert found.by.tolist() == [-1, -1, 4]
    assert found.finder.tolist() == [-1, 4, 4]
    assert found.distance.tolist() == pytest.approx([0, 0, 0.08])
    assert found.found.tolist() == pytest.approx([np.inf, 0.3, 0.08])
    assert found.evaluations == 5
    wider = found.at(0.3 + 1e-6)
    assert wider.success.tolist() == [False, True, True]
    assert wider.prediction.tolist() == [0, 1, 2]
    assert found.at(0.01).by.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("wrong", [{"tried": torch.zeros(2)}, {"success": torch.zeros(3, dtype=torch.bool)}])
def test_figures_that_are_not_of_the_schema_are_refused(wrong: dict[str, Any]):
    labels = torch.zeros(2).long()
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        Outcomes(ThreatModel("linf", 0.1), index=labels, label=labels, clean=labels, **wrong)


def test_another_process_writes_for_this_one(rows: list[Outcomes], tmp_path: Path):
    save(rows, StageFolder(tmp_path, writes=False))
    assert not list(tmp_path.iterdir())


def test_it_is_compact(rows: list[Outcomes], tmp_path: Path):
    """At most 40 bytes an image and radius on the disk, where every other image was fooled."""
    generator = np.random.default_rng(0)
    chosen = torch.from_numpy(generator.integers(0, COUNT, 4000))
    many = [row.chosen(chosen) for row in rows]
    for name in ("size_linf", "size_l2", "size_l1", "distance"):  # real ones do not repeat
        noise = [torch.from_numpy(generator.uniform(0.9, 1.1, 4000)) for _ in many]
        kind = getattr(many[0], name).dtype
        many = [
            attrs.evolve(row, **{name: (getattr(row, name) * draws).to(kind)})
            for row, draws in zip(many, noise, strict=True)
        ]
    save(many, StageFolder(tmp_path))
    assert 0.2 < torch.cat([row.success for row in many]).double().mean() < 0.8
    assert (tmp_path / FILE).stat().st_size < 40 * 4000 * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:300]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not an archive"),
        lambda file: np.savez(file, index=np.arange(3), epsilon=np.ones(1)),
        lambda file: np.savez(file, **{**np.load(file), "tried": np.zeros((2, 3))}),
        lambda file: np.savez(file, **{name: np.array([{}], dtype=object) for name in NAMES}),
        lambda file: file.unlink(),
    ],
    ids=["cut", "empty", "text", "columns are missing", "columns of other images", "pickles", "gone"],
)
def test_a_damaged_file_is_told(rows: list[Outcomes], tmp_path: Path, damage: Any):
    save(rows, StageFolder(tmp_path))
    damage(tmp_path / FILE)
    with pytest.raises(RunDirectoryError, match=r"columns.npz is damaged") as caught:
        load(tmp_path)
    assert f"delete the folder {tmp_path} and run the same command again" in str(caught.value)


RECIPE = """\
attacks:
  - {name: fgsm, label: fgsm}
  - {name: pgd, label: "pgd, own", steps: 4, step_size: 0.1, threat: {norm: l2, epsilon: 0.4}}
  - {name: corruptions, label: fog, families: [fog], severities: [1, 3]}
evaluate: {images: 30, batch: 20, epsilons: [0.03]}
certify: null
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("columns")
    with contextlib.chdir(folder):
        prepare(folder, RECIPE)
        assert run(folder) == 0
        yield folder


LABELS = {"fgsm": "fgsm", "pgd, own": "pgd__own", "fog": "fog"}
"""Labels, and what folders call them."""


def test_the_csv_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["records", str(folder / "run")]) == 0
    printed = capsys.readouterr().out
    lines = list(csv.DictReader(io.StringIO(printed)))
    assert len(lines) == 30 * (2 + 1 + 2)
    compared = 0
    for label, name in LABELS.items():
        arrays = columns(folder / "run", name)
        own = [line for line in lines if line["attack"] == label]
        rows = list(zip(arrays["epsilon"].tolist(), arrays["variant"].tolist(), strict=True))
        for row, (epsilon, variant) in enumerate(rows):
            told = [one for one in own if (float(one["epsilon"]), one["variant"]) == (epsilon, variant)]
            assert len(told) == 30
            for place, line in enumerate(told):
                assert (line["method"], line["seed"], line["norm"]) == ("net", "0", str(arrays["norm"]))
                for column in ("index", "label", "clean"):
                    assert int(line[column]) == arrays[column][place]
                for column in ("tried", "success", "prediction"):
                    assert int(line[column]) == arrays[column][row, place]
                for norm in NORMS:
                    size = line[f"size_{norm}"]
                    assert (float(size) if size else np.inf) == arrays[f"size_{norm}"][row, place]
                assert float(line["distance"]) == pytest.approx(arrays["distance"][row, place])
                compared += 1
    assert compared == len(lines)
    assert main(["records", str(folder / "run"), "--output", "r.csv"]) == 0
    assert Path("r.csv").read_text() == printed


def test_labels_are_those_of_the_places(folder: Path):
    """`index` is the place in the test split, whatever subset was drawn."""
    _, labels = some(597)
    arrays = columns(folder / "run", "fgsm")
    assert np.array_equal(labels.numpy()[arrays["index"]], arrays["label"])
    assert len(set(arrays["index"].tolist())) == 30
    assert not np.array_equal(arrays["index"], np.arange(30)), "a drawn subset, not the first"


def test_the_table_is_told_of_a_damaged_file(folder: Path, capsys: pytest.CaptureFixture[str]):
    file = stage(folder / "run", "fgsm") / FILE
    kept = file.read_bytes()
    file.write_bytes(kept[:100])
    try:
        assert main(["table", str(folder / "run")]) == 2
        message = capsys.readouterr().err
        assert f"{file} is damaged" in message
        assert "Traceback" not in message
    finally:
        file.write_bytes(kept)
    assert main(["table", str(folder / "run")]) == 0
