"""The dataset of a run is held to its promises before anything is computed, and a broken image costs no training."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from robustnas.cli import main
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.run import data
from robustnas.run.directory import RunDirectory
from robustnas_plugins.datasets import class_folders
from support.fake_package import install

RECIPE = """
dataset: {dataset}
search_space: {{name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}}
threat: {{norm: linf, epsilon: 0.01}}
search: {{epochs: 1, batch: 8}}
methods: {{one: {{}}}}
train: {{epochs: 1, batch: 8, auxiliary: 0, drop_path: 0}}
attacks: [fgsm]
certify: false
"""


def folders(root: Path, each: dict[str, int], seed: int = 0) -> Path:
    """Random images of 8x8 pixels, so many of each class in both splits."""
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name, count in each.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def recipe(tmp_path: Path, dataset: str) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(dataset=dataset), encoding="utf-8")
    return str(path)


def of_folder(tmp_path: Path) -> str:
    return recipe(tmp_path, f"{{name: image-folder, folder: {tmp_path / 'data'}, stream: true, workers: 0}}")


def finished(out: Path) -> dict[str, int]:
    """When each stage that is done was done, by its folder."""
    return {str(file.parent.relative_to(out)): file.stat().st_mtime_ns for file in out.glob("*/*/result.json")}


def test_a_damaged_test_image_is_found_before_work_and_one_that_is_mended_later_costs_no_training(tmp_path, capsys):
    root, out = folders(tmp_path / "data", {"a": 12, "b": 12}), tmp_path / "out"
    run = ["run", of_folder(tmp_path), "--out", str(out), "--device", "cpu", "--quiet"]
    image = root / "test" / "b" / "7.png"
    whole = image.read_bytes()
    # its header and its first rows are good
    image.write_bytes(whole[:-40])
    assert main(run) == 2
    assert "7.png is not an image that can be read" in capsys.readouterr().err
    assert not finished(out), "nothing was computed"
    image.write_bytes(whole)
    assert main(run) == 0
    before = finished(out)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(image)
    shutil.copy(image, root / "test" / "a" / "more.png")
    assert main(run) == 0
    after = finished(out)
    assert {name: after[name] for name in before} == before, "nothing that was done was done again"
    assert Counter(name.split("/")[0] for name in after) == {
        "search": 1,
        "train": 1,
        "clean": 2,
        "probe": 2,
        "attack": 2,
    }


def test_images_that_were_found_good_are_decoded_again_only_where_they_changed(tmp_path, monkeypatch):
    root = folders(tmp_path / "data", {"a": 6, "b": 6})
    read: list[str] = []
    decode = class_folders.read

    def noted(path: Path, *options: Any) -> Tensor:
        read.append(f"{path.parent.parent.name}/{path.parent.name}/{path.name}")
        return decode(path, *options)

    def verified(*overrides: str) -> set[str]:
        plan = make(load(of_folder(tmp_path), overrides))
        splits = data.splits(plan)
        read.clear()
        data.verify(plan, splits, RunDirectory(tmp_path))
        return set(read)

    monkeypatch.setattr(class_folders, "read", noted)
    assert len(verified()) == 24
    assert verified() == set()
    (root / "test" / "a" / "0.png").touch()
    assert len(verified()) == 24
    few = verified("evaluate={images: 4, subset: first}")
    assert {file for file in few if file.startswith("test")} == {
        "test/a/0.png",
        "test/b/0.png",
        "test/a/1.png",
        "test/b/1.png",
    }
    monkeypatch.setattr(data, "READ", 5)
    assert len({file for file in verified() if file.startswith("train")}) == 5


PLUGINS = """
    import torch
    from attrs import frozen
    from robustnas.errors import DataError

    class Held:
        def __init__(self, images, labels):
            self.images, self.labels = images, labels

        def take(self, indices):
            return self.images[indices]

    @frozen
    class Stripes:
        fault: str = ""
        classes: int = 3
        mean: tuple = (0.5,)
        std: tuple = (0.2,)
        shape: tuple = (1, 8, 8)
        contents: dict | None = None

        def split(self, name):
            if name not in ("train", "test"):
                raise DataError("no such split")
            seed = 0 if self.fault == "same" else len(name)
            draw = torch.Generator().manual_seed(seed)
            images, labels = torch.rand(30, 1, 8, 8, generator=draw), torch.arange(30) % 3
            if self.fault == "some" and name == "test":
                images[:3] = self.split("train").images[5:8]
            if self.fault == "range":
                images[11, 0, 3, 3:5] = torch.tensor([0.0, 1.5])
            if self.fault == "nan":
                images[29, 0, 0, 0] = float("nan")
            if self.fault == "late" and name == "test":
                images = images.double()
            if self.fault == "labels":
                labels = labels + 1
            if self.fault == "int32":
                labels = labels.int()
            if self.fault == "absent":
                labels = labels % 2
            if self.fault == "empty":
                images, labels = images[:0], labels[:0]
            if self.fault == "order":
                return Sorted(images, labels)
            if self.fault == "lone" and name == "train":
                labels[labels == 2] = 1
                labels[4] = 2
            return Held(images, labels)

    class Sorted(Held):
        def take(self, indices):
            return super().take(indices.sort().values)
"""


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "striped", {"robustnas.datasets": {"stripes": "striped:Stripes"}}, striped=PLUGINS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("stripes")
@pytest.mark.parametrize(
    ("command", "options", "promise"),
    [
        ("run", "classes: 1", "classes is an integer of at least 2"),
        ("plan", "mean: [127.5]", "mean is in pixel units"),
        ("plan", "std: [0.2, 0.2]", "std has a finite number for each channel"),
        ("plan", "shape: [8]", "shape is (channels, rows, columns), positive integers"),
        ("plan", "contents: {train: a}", "contents is a str, or a mapping of 'train' and 'test' to one each"),
        ("plan", "shape: [1, 8, 9]", "images are float32 of the declared shape"),
        ("plan", "fault: late", "images are float32 of the declared shape"),
        ("plan", "fault: range", "images are in [0, 1]\n  found:    values from 0 to 1.5 in image 11 of split 'train'"),
        ("plan", "fault: nan", "images are in [0, 1]\n  found:    values from nan to nan in image 29 of split 'train'"),
        ("plan", "fault: labels", "labels are 0 to K - 1"),
        ("plan", "fault: int32", "labels are int64 of shape (N,)"),
        ("plan", "fault: absent", "every class has a training image"),
        ("plan", "fault: empty", "a split has images\n  found:    split 'train' is empty"),
        ("run", "fault: order", "take gives the images in the order of the indices"),
    ],
)
def test_a_dataset_that_breaks_a_promise_of_the_kit_is_refused(tmp_path, capsys, command, options, promise):
    out = tmp_path / "out"
    path = recipe(tmp_path, f"{{name: stripes, {options}}}")
    assert main([command, path, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"dataset stripes breaks a promise of datasets\n  promised: {promise}" in told
    assert not finished(out)


@pytest.mark.usefixtures("stripes")
def test_what_is_said_of_the_images_stands_in_the_plan_and_below_the_table(tmp_path, capsys):
    out = tmp_path / "out"
    alone = recipe(tmp_path, "{name: stripes, fault: lone}")
    note = "none of the images that move alpha is of class 2, which has 1 of 30 training images: one seed 0"
    assert main(["plan", alone, "--out", str(out)]) == 0
    assert note in capsys.readouterr().out
    assert main(["run", alone, "--out", str(out), "--device", "cpu"]) == 0
    assert main(["table", str(out)]) == 0
    assert note in (out / "table.md").read_text(encoding="utf-8")
    both = recipe(tmp_path, "{name: stripes, fault: some}")
    given = ["run", both, "--out", str(tmp_path / "both"), "--device", "cpu", "--quiet"]
    for _ in range(2):  # the second time nothing is left to do, and nothing is read
        assert main(given) == 0
        table = (tmp_path / "both" / "table.md").read_text(encoding="utf-8")
        assert "3 of 30 test images are among the training images, pixel by pixel" in table
    capsys.readouterr()
    assert main(["run", recipe(tmp_path, "{name: stripes, fault: same}"), "--out", str(tmp_path / "same")]) == 2
    assert (
        "30 of 30 test images are among the training images, pixel by pixel; splits are disjoint"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["plan", "run"])
def test_one_class_is_refused_where_it_lies(tmp_path, capsys, command):
    folders(tmp_path / "data", {"images": 4})
    assert main([command, of_folder(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "train has one class folder, images; a network tells classes apart" in capsys.readouterr().err


def test_a_plan_without_its_data_says_so_and_with_broken_data_says_what_is_broken(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROBUSTNAS_DATA", str(tmp_path))
    assert main(["plan", recipe(tmp_path, "mnist")]) == 0
    assert "the dataset's images are not here yet" in capsys.readouterr().out
    root = folders(tmp_path / "data", {"a": 4, "b": 4})
    (root / "train" / "a" / "0.png").write_bytes(b"")
    assert main(["plan", of_folder(tmp_path)]) == 2
    assert "0.png is not an image that can be read" in capsys.readouterr().err
