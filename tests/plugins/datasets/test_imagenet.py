"""ImageNet and real photographs in folders."""

import lzma
import tarfile

import pytest
import torch

from robustnas.data.images import Streamed
from robustnas.errors import DataError
from robustnas_plugins.datasets.image_folder import ImageFolder
from robustnas_plugins.datasets.imagenet import ImageNet
from support.class_folders import folders
from support.shared_data import shared

pytestmark = pytest.mark.usefixtures("no_data_of_this_machine")


def test_imagenet_reads_val_as_its_test_split(tmp_path):
    root = folders(tmp_path, size=(20, 14), test_name="val")
    dataset = ImageNet(folder=root, size=8, resize=10, classes=2, workers=0)
    assert dataset.shape == (3, 8, 8)
    test = dataset.split("test")
    assert isinstance(test, Streamed)
    assert test.take(torch.tensor([0, 5])).shape == (2, 3, 8, 8)
    assert dataset.training_images(14).take(torch.tensor([0, 5])).shape == (2, 3, 14, 14)
    with pytest.raises(DataError, match=r"has 2 classes, 1000 are expected; classes: 2"):
        ImageNet(folder=root).split("train")


def test_imagenet_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTNAS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)train/ not found in .*imagenet.*folder: PATH") as caught:
        ImageNet().split("test")
    assert "download" not in str(caught.value)
    with pytest.raises(ValueError, match="resize must be at least size"):
        ImageNet(size=64, resize=32)


def test_real_photographs_of_imagenet_classes(tmp_path):
    archive = shared("imagenet-mini.tar")
    with tarfile.open(archive) as tar:
        members = [one for one in tar.getmembers() if one.isfile() and one.name.count("/") == 2]
        chosen, per_class = [], {}
        for member in sorted(members, key=lambda one: one.name):
            folder = member.name.rsplit("/", 1)[0]
            if per_class.setdefault(folder, 0) < 4:
                per_class[folder] += 1
                chosen.append(member)
        # the first releases of Python 3.11 have no filters
        tar.extractall(tmp_path, members=chosen, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    dataset = ImageNet(folder=str(tmp_path), size=56, resize=64, classes=20)
    train, test = dataset.split("train"), dataset.split("test")
    assert train.labels.bincount().tolist() == [4] * 20
    assert test.labels.bincount().tolist() == [4] * 20
    images = train.take(torch.arange(80))
    assert images.shape == (80, 3, 56, 56)
    assert 0.3 < float(images.mean()) < 0.6
    own = ImageFolder(str(tmp_path))  # val/ is its test split
    assert own.shape == (3, 64, 64)
    assert own.split("test").pixels.shape == (80, 3, 64, 64)


def test_real_photographs_of_cifar_classes(tmp_path):
    # the archive is a stream: its first images are all there is time for, dealt out to both splits
    taken = 0
    with lzma.open(shared("cifar10-jpeg.tar.xz")) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if not member.isfile():
                continue
            path = tmp_path / ("train", "test")[taken % 2] / ("one", "two")[taken // 2 % 2] / f"{taken}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
            taken += 1
            if taken == 40:
                break
    dataset = ImageFolder(str(tmp_path))
    assert dataset.shape == (3, 32, 32)
    assert len(dataset.split("train").labels) == len(dataset.split("test").labels) == 20
