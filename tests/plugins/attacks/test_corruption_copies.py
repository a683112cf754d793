"""Corrupted copies on disk: each image gets its own, and what is missing or of other images is refused before a run."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustnas.attack import Conditions, evaluate
from robustnas.cli import main
from robustnas.data.images import InMemory
from robustnas.errors import DataError
from robustnas.plan import identity
from robustnas.recipe.schema import Use
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.corruption.copies import BENCHMARK
from robustnas_plugins.attacks.corruptions import Corruptions
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.datasets.imagenet import ImageNet
from support.class_folders import folders, picture
from support.finished_run import table

COUNT = 4
LABELS = torch.tensor([0, 1, 1, 0])
NAMES = ["fog", "jpeg_compression"]
LINF = ThreatModel("linf", 0.1)


def pixel(name: str, severity: int, place: int) -> int:
    """The byte that all pixels of a copy have."""
    return 100 * NAMES.index(name) + 10 * severity + place


def arrays(folder: Path, count: int = COUNT, shape: tuple[int, ...] = (8, 6, 3), labels: Tensor = LABELS) -> Path:
    """A folder in the form of CIFAR-10-C."""
    folder.mkdir()
    for name in NAMES:
        values = [pixel(name, severity, place) for severity in range(1, 6) for place in range(count)]
        copies = np.broadcast_to(np.array(values, np.uint8).reshape(-1, 1, 1, 1), (5 * count, *shape))
        np.save(folder / f"{name}.npy", copies)
    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5).astype(np.uint8))
    return folder


def images() -> InMemory:
    return InMemory(torch.full((COUNT, 3, 8, 6), 0.5), LABELS)


def corruptions(folder: Path, **options) -> Corruptions:
    return Corruptions(folder=str(folder), **{"families": NAMES, **options})


class Mean(nn.Module):
    """A network whose first logit is the mean of an image in bytes, so that answers tell which image was shown."""

    def __init__(self):
        super().__init__()
        self.shown: list[list[int]] = []

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.flatten(1).mean(1) * 255
        self.shown.append(mean.round().long().tolist())
        return torch.stack([mean, torch.full_like(mean, 128.0)], dim=1)


def test_every_image_gets_its_own_copy_in_any_order_and_batch(tmp_path: Path):
    plugin = corruptions(arrays(tmp_path / "c"), severities=[2, 5], families=["jpeg-compression", "fog"])
    plugin.check_test(images())
    built = plugin.build(LINF)
    assert list(built.parts) == ["jpeg_compression/2", "jpeg_compression/5", "fog/2", "fog/5"]
    places = torch.tensor([2, 0, 3])
    some = InMemory(images().pixels[places], LABELS[places])
    network = Mean().eval()
    conditions = Conditions(places=places, batch=2, clean=LABELS[places])
    evaluate(network, some, some.labels, built.parts["fog/5"], LINF, conditions)
    copies = [one for batch in network.shown for one in batch if one != 128]
    assert set(copies) == {pixel("fog", 5, place) for place in (2, 0, 3)}
    found = evaluate(Mean().eval(), some, some.labels, built.parts["jpeg_compression/2"], LINF, conditions)
    assert found.success.tolist() == [False, True, True], "the copies are darker than the class 0 asks for"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: shutil.rmtree(f), "is not a folder"),
        (lambda f: (f / "fog.npy").unlink(), "has no fog.npy; it has jpeg_compression; another folder, or families"),
        (lambda f: (f / "labels.npy").unlink(), "has no labels.npy"),
        (lambda f: np.save(f / "fog.npy", np.zeros((5 * COUNT, 3, 8, 6), np.uint8)), r"uint8 of shape \(20, 8, 6, 3\)"),
        (lambda f: np.save(f / "fog.npy", np.zeros((5 * COUNT, 8, 6, 3))), "holds float64 of shape"),
        (lambda f: np.save(f / "labels.npy", np.zeros(7, int)), r"holds int64 of shape \(7,\); whole numbers"),
        (lambda f: np.save(f / "labels.npy", np.array([0, 1, 0, 1])), "of 2 of 4 images, the first of them image 2"),
        (lambda f: (f / "fog.npy").write_bytes(pickle.dumps(Path("x"))), "fog.npy cannot be read .*pickle"),
        (lambda f: (f / "fog.npy").write_bytes((f / "fog.npy").read_bytes()[:200]), "fog.npy cannot be read"),
        (lambda f: (f / "fog.npy").write_bytes(b""), "fog.npy cannot be read"),
    ],
)
def test_arrays_that_are_not_copies_of_the_test_split_are_refused(spoil, told: str, tmp_path: Path):
    plugin = corruptions(arrays(tmp_path / "c"))
    plugin.check_test(images())
    spoil(tmp_path / "c")
    with pytest.raises(DataError, match=told):
        plugin.check_test(images())


def test_the_key_knows_the_copies_wherever_they_lie(tmp_path: Path):
    def key(plugin: Corruptions) -> dict:
        return identity("attack", Use("corruptions", {}, plugin))

    first = corruptions(arrays(tmp_path / "c"))
    known = key(first)
    shutil.copytree(tmp_path / "c", tmp_path / "d")
    assert key(corruptions(tmp_path / "d")) == known
    file = np.load(tmp_path / "d" / "fog.npy")
    np.save(tmp_path / "d" / "fog.npy", 255 - file)
    assert key(corruptions(tmp_path / "d")) != known
    assert key(corruptions(tmp_path / "gone")) != known
    assert set(key(Corruptions())["options"]) == {"families", "severities"}
    assert Corruptions(folder="c").families == list(BENCHMARK)


def test_folders_hold_the_images_of_the_test_split_by_their_names(tmp_path: Path):
    root = Path(folders(tmp_path / "data", size=(8, 8), test_name="val"))
    dataset = ImageNet(folder=str(root), size=8, resize=8, classes=2, workers=0)
    test = dataset.split("test")
    for severity in (1, 3):
        for place in range(len(test.labels)):
            file = test.source.files[place]
            picture(tmp_path / "c" / "fog" / str(severity) / file.parent.name / f"{file.stem}.png", seed=90 + place)
    plugin = Corruptions(folder=str(tmp_path / "c"), families=["fog"], severities=[3, 1])
    plugin.check_test(test)
    (first, _) = plugin.build(LINF).parts.values()
    network = Mean().eval()
    evaluate(network, test, test.labels, first, LINF, Conditions(clean=test.labels))
    drawn = [np.random.default_rng(90 + place).integers(0, 256, (8, 8, 3), dtype=np.uint8) for place in range(6)]
    assert network.shown[-1] == [round(float(one.mean())) for one in drawn]
    moved = tmp_path / "c" / "fog" / "1" / "cat"
    (moved / "0.png").rename(moved / "00.png")
    with pytest.raises(DataError, match=r"fog/1/cat/00\.png stands where test image 0 is cat/0; copies have the names"):
        plugin.check_test(test)
    (moved / "00.png").unlink()
    with pytest.raises(DataError, match="holds 5 images, and there are 6 test images"):
        plugin.check_test(test)
    with pytest.raises(DataError, match="has no fog/2; it has fog"):
        Corruptions(folder=str(tmp_path / "c"), families=["fog"], severities=[2]).check_test(test)
    picture(tmp_path / "c" / "fog" / "3" / "cat" / "0.png", size=(9, 8))
    with pytest.raises(DataError, match="has 8x9 pixels, and the network sees 8x8"):
        Corruptions(folder=str(tmp_path / "c"), families=["fog"], severities=[3]).check_test(test)


def test_a_run_has_the_column_and_refuses_other_copies_at_the_key(
    finished_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    labels = Digits().split("test").labels
    (tmp_path / "good").mkdir()
    np.save(tmp_path / "good" / "fog.npy", np.zeros((5 * len(labels), 8, 8, 1), np.uint8))
    np.save(tmp_path / "good" / "labels.npy", labels.numpy())
    command = ["run", str(finished_copy / "r.yaml"), "--out", str(finished_copy / "run"), "--quiet", "--set"]
    attack = f"attacks=[fgsm, {{name: corruptions, folder: {tmp_path / 'good'}, families: [fog], severities: [1, 2]}}]"
    assert main([*command, attack]) == 0
    figures = [row["attacks"]["corruptions"]["mean"] for row in table(finished_copy)["rows"]]
    assert all(0 <= figure <= 0.5 for figure in figures), "black images all look alike"
    capsys.readouterr()
    assert main([*command, attack.replace("[1, 2]", "[3]").replace("[fog]", "[fog, snow]")]) == 2
    assert "attacks.1: corruptions: " in (told := capsys.readouterr().err)
    assert "has no snow.npy; it has fog" in told
