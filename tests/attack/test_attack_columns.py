"""The file of columns: what is written is what is read, without pickles, small, and the same as the CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustnas.attack import AttackRecord, evaluate
from robustnas.attack.columns import FILE, NAMES, Columns, of_records, read, write
from robustnas.attack.foolbox_attack import InTurn
from robustnas.cli import main
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.fab import FABT
from robustnas_plugins.attacks.pgd import PGD
from support.evaluated_digits import columns, prepare, run, some, stage, trained

COUNT = 60


def records() -> list[AttackRecord]:
    """Two radii of an attack of two parts."""
    images, labels = some(COUNT)
    found = []
    for epsilon in (0.06, 0.12):
        threat = ThreatModel("linf", epsilon)
        parts = {
            "pgd": PGD(steps=2, step_size=0.03).build(threat),
            "fab": FABT(steps=2, target_classes=3).build(threat),
        }
        found.append(evaluate(trained(), images, labels, InTurn("linf", parts), threat, label="two"))
    return found


@pytest.fixture(scope="module")
def made() -> tuple[list[AttackRecord], Columns]:
    found = records()
    return found, of_records(found, torch.arange(COUNT) * 3)


def test_what_is_written_is_what_is_read(made: tuple[list[AttackRecord], Columns], tmp_path: Path):
    found, table = made
    write(table, StageFolder(tmp_path))
    again = read(tmp_path)
    assert set(again.arrays) == set(table.arrays) == set(NAMES)
    for name, array in table.arrays.items():
        assert again.arrays[name].dtype == array.dtype, name
        assert np.array_equal(again.arrays[name], array), name
    assert again.norm == "linf"
    assert again.variants == ["", ""]
    assert again.tensor("index").tolist() == [3 * place for place in range(COUNT)]
    for row, record in enumerate(found):
        assert again.arrays["epsilon"][row] == record.threat.epsilon
        assert torch.equal(again.tensor("success")[row], record.success)
        assert torch.equal(again.tensor("prediction")[row].long(), record.perturbed)
        assert torch.equal(again.tensor("by")[row].long(), record.by)
        assert torch.equal(again.tensor("tried")[row].long(), record.tried)
        assert torch.equal(again.tensor("distance")[row], record.distance)
        for norm in NORMS:
            assert torch.equal(again.tensor(f"size_{norm}")[row], record.sizes[norm])
    for norm in NORMS:
        assert torch.equal(again.size(norm), torch.minimum(found[0].sizes[norm], found[1].sizes[norm]))


def test_success_is_right_when_clean_and_wrong_then(made: tuple[list[AttackRecord], Columns]):
    arrays = made[1].arrays
    expected = (arrays["clean"] == arrays["label"]) & (arrays["prediction"] != arrays["label"])
    assert np.array_equal(arrays["success"], expected)
    assert expected.any(axis=1).all()
    assert np.array_equal(arrays["success"], arrays["by"] >= 0)
    assert {int(part) for part in arrays["by"].flat} == {-1, 0, 1}, "both parts broke something"


def test_numpy_alone_reads_it_without_pickles(made: tuple[list[AttackRecord], Columns], tmp_path: Path):
    write(made[1], StageFolder(tmp_path))
    with np.load(tmp_path / FILE, allow_pickle=False) as found:
        assert sorted(found.files) == sorted(NAMES)
        assert not any(found[name].dtype.hasobject for name in NAMES)


def test_another_process_writes_for_this_one(made: tuple[list[AttackRecord], Columns], tmp_path: Path):
    write(made[1], StageFolder(tmp_path, writes=False))
    assert not list(tmp_path.iterdir())


def test_it_is_compact(made: tuple[list[AttackRecord], Columns], tmp_path: Path):
    """At most 40 bytes an image and radius on the disk, where every other image was fooled."""
    many, rows = 4000, 2
    generator = np.random.default_rng(0)
    small = made[1].arrays
    chosen = generator.integers(0, COUNT, many)
    arrays = {name: array[..., chosen] if array.shape[-1:] == (COUNT,) else array for name, array in small.items()}
    for name in ("size_linf", "size_l2", "size_l1", "distance"):  # real ones do not repeat
        arrays[name] = (arrays[name] * generator.uniform(0.9, 1.1, arrays[name].shape)).astype(arrays[name].dtype)
    assert arrays["success"].shape == (rows, many)
    share = float(arrays["success"].mean())
    write(Columns(arrays), StageFolder(tmp_path))
    assert 0.2 < share < 0.8
    assert (tmp_path / FILE).stat().st_size < 40 * many * rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:300]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not an archive"),
        lambda file: np.savez(file, index=np.arange(3)),
        lambda file: np.savez(file, **{name: np.array([{}], dtype=object) for name in NAMES}),
        lambda file: file.unlink(),
    ],
    ids=["cut", "empty", "text", "columns are missing", "pickles", "gone"],
)
def test_a_damaged_file_is_told(made: tuple[list[AttackRecord], Columns], tmp_path: Path, damage: Any):
    write(made[1], StageFolder(tmp_path))
    damage(tmp_path / FILE)
    with pytest.raises(RunDirectoryError, match=r"columns.npz is damaged") as caught:
        read(tmp_path)
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
    folder, home = tmp_path_factory.mktemp("columns"), Path.cwd()
    os.chdir(folder)
    try:
        prepare(folder, RECIPE)
        assert run(folder) == 0
        yield folder
    finally:
        os.chdir(home)


LABELS = {"fgsm": "fgsm", "pgd, own": "pgd__own", "fog": "fog"}
"""Labels, and what folders call them."""


def test_the_csv_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["records", str(folder / "run")]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 30 * (2 + 1 + 2)
    compared = 0
    for label, name in LABELS.items():
        arrays = columns(folder / "run", name).arrays
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


def test_the_csv_can_be_a_new_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["records", str(folder / "run")]) == 0
    printed = capsys.readouterr().out
    assert main(["records", str(folder / "run"), "--output", str(tmp_path / "r.csv")]) == 0
    assert (tmp_path / "r.csv").read_text() == printed


def test_labels_are_those_of_the_places(folder: Path):
    """`index` is the place in the test split, whatever subset was drawn."""
    _, labels = some(597)
    arrays = columns(folder / "run", "fgsm").arrays
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
