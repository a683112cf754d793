"""What every dataset says before it is read and where nothing is there, and the digits that ship with the package."""

import gzip

import pytest
import torch

from robustnas.contracts import Dataset
from robustnas.errors import DataError
from robustnas_plugins.datasets import digits
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.datasets.image_folder import ImageFolder
from robustnas_plugins.datasets.imagenet import ImageNet
from robustnas_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

pytestmark = pytest.mark.usefixtures("no_data_of_this_machine")


def test_digits_are_the_uci_test_set_in_its_order():
    train, test = Digits().split("train"), Digits().split("test")
    assert (len(train.labels), len(test.labels)) == (1200, 597)
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    labels = torch.cat([train.labels, test.labels])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = train.take(torch.tensor([0]))[0]
    assert first.shape == (1, 8, 8)
    assert (first[0, 0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (first[0, 7] * 16).tolist() == [0, 0, 6, 13, 10, 0, 0, 0]
    pixels = torch.cat([train.pixels, test.pixels])
    assert bool((pixels * 16 == (pixels * 16).round()).all())
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)


def test_digits_have_no_image_in_both_splits_and_the_statistics_they_say():
    train, test = (Digits().split(name).pixels for name in ("train", "test"))
    seen = {image.numpy().tobytes() for image in train}
    assert len(seen) > 1100
    assert not any(image.numpy().tobytes() in seen for image in test)
    assert float(train.mean()) == pytest.approx(Digits.mean[0], abs=1e-4)
    assert float(train.std()) == pytest.approx(Digits.std[0], abs=1e-4)


def test_digits_that_are_damaged_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "files", lambda package: tmp_path)
    monkeypatch.setattr(digits, "_table", digits._table.__wrapped__)  # what was read before is right
    with pytest.raises(DataError, match="cannot be read"):
        Digits().split("train")
    (tmp_path / "digits_data").mkdir()
    file = tmp_path / "digits_data" / "digits.csv.gz"
    file.write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(DataError, match="is damaged"):
        Digits().split("train")
    file.write_bytes(gzip.compress(b"1,2,3\n" * 100)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        Digits().split("train")


EVERY = (
    Digits(), MNIST(), FashionMNIST(), CIFAR10(), CIFAR100(), SVHN(),
    ImageNet(), ImageFolder("nowhere", size=8),
)  # fmt: skip


@pytest.mark.parametrize("dataset", EVERY, ids=lambda one: type(one).__name__)
def test_a_dataset_is_known_before_it_is_read(dataset):
    channels, rows, columns = dataset.shape
    assert min(rows, columns) >= 8
    assert len(dataset.mean) == len(dataset.std) == channels
    assert all(0 < value < 1 for value in (*dataset.mean, *dataset.std))
    if not isinstance(dataset, ImageFolder):  # its classes are the folders themselves
        assert isinstance(dataset, Dataset)
        assert dataset.classes >= 10
    with pytest.raises(DataError, match=r"'validation'.*'train' and 'test'"):
        dataset.split("validation")


@pytest.mark.parametrize("dataset", EVERY[1:6], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_files_are_told_with_the_three_ways_out(dataset, split, tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        dataset.split(split)
    told = str(caught.value)
    assert str(tmp_path / "data") in told
    for way in ("folder: PATH", "ROBUSTNAS_DATA=PATH", "download: true"):
        assert way in told
    monkeypatch.setenv("ROBUSTNAS_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere.*not a folder.*variable ROBUSTNAS_DATA"):
        dataset.split(split)
    with pytest.raises(DataError, match=r"given.*the option folder"):
        type(dataset)(folder=str(tmp_path / "given")).split(split)
    assert not (tmp_path / "data").exists()
