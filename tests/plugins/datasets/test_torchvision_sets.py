"""MNIST and its family, CIFAR and SVHN: read as the official files have them, and refused where they differ."""

import gzip

import pytest
import torch

from robustnas.data.images import InMemory
from robustnas.errors import DataError
from robustnas_plugins.datasets import idx
from robustnas_plugins.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from support.official_sets import idx_bytes, small_cifar, small_mnist, small_svhn
from support.shared_data import shared

pytestmark = pytest.mark.usefixtures("no_data_of_this_machine")


def test_idx_files_are_read_packed_and_plain(tmp_path):
    values = torch.randint(0, 256, (5, 3, 2), dtype=torch.uint8)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(values)))
    for name in ("plain", "packed.gz"):
        assert torch.equal(idx.read(tmp_path / name, (5, 3, 2)), values)


@pytest.mark.parametrize("harm", ["short", "long", "other sizes", "no idx", "cut gz"])
def test_damaged_idx_files_are_refused(tmp_path, harm):
    good = idx_bytes(torch.zeros(5, 3, 2, dtype=torch.uint8))
    path = tmp_path / ("file.gz" if harm == "cut gz" else "file")
    path.write_bytes(
        {
            "short": good[:-1],
            "long": good + b"1",
            "other sizes": idx_bytes(torch.zeros(3, 5, 2, dtype=torch.uint8)),
            "no idx": b"<html>404</html>",
            "cut gz": gzip.compress(good)[:-9],
        }[harm]
    )
    with pytest.raises(DataError, match=r"file.*(damaged or another file|cannot be read)"):
        idx.read(path, (5, 3, 2))


@pytest.mark.parametrize("where", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_found_where_torchvision_puts_it_and_packed_in_the_folder_itself(tmp_path, monkeypatch, where, packed):
    kept = small_mnist(monkeypatch, tmp_path / "d" / where, packed)
    dataset = MNIST(folder=str(tmp_path / "d"))
    if not packed and not where:
        with pytest.raises(DataError, match="not found"):
            dataset.split("train")
        return
    for name, start in (("train", "train"), ("test", "t10k")):
        split = dataset.split(name)
        assert isinstance(split, InMemory)
        assert split.pixels.dtype == torch.uint8
        assert torch.equal(split.pixels.squeeze(1), kept[start][0])
        assert torch.equal(split.labels, kept[start][1].long())


@pytest.mark.parametrize("packed", [True, False])
def test_an_mnist_file_that_is_not_the_official_one_is_refused(tmp_path, monkeypatch, packed):
    small_mnist(monkeypatch, tmp_path / "MNIST" / "raw", packed)
    file = tmp_path / "MNIST" / "raw" / ("train-labels-idx1-ubyte" + (".gz" if packed else ""))
    labels = idx_bytes(torch.zeros(10, dtype=torch.uint8))
    file.write_bytes(gzip.compress(labels) if packed else labels)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.*is damaged or another file"):
        MNIST(folder=str(tmp_path)).split("train")


def test_fashion_mnist_does_not_take_the_files_of_mnist(tmp_path, monkeypatch):
    small_mnist(monkeypatch, tmp_path)
    MNIST(folder=str(tmp_path)).split("train")
    with pytest.raises(DataError, match="is damaged or another file"):
        FashionMNIST(folder=str(tmp_path)).split("train")


def test_the_real_mnist(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTNAS_DATA", str(shared("mnist")))
    train, test = (MNIST().split(name) for name in ("train", "test"))
    assert (len(train.labels), len(test.labels)) == (60_000, 10_000)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    pixels = train.pixels[::3].float() / 255  # an even stride would not do: writers of two kinds take turns
    assert float(pixels.mean()) == pytest.approx(MNIST.mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(MNIST.std[0], abs=1e-3)


@pytest.mark.parametrize(
    ("dataset", "source", "key"), [(CIFAR10, "CIFAR10", "labels"), (CIFAR100, "CIFAR100", "fine_labels")]
)
def test_cifar_pixels_keep_their_places(tmp_path, monkeypatch, dataset, source, key):
    kept, folder = small_cifar(monkeypatch, tmp_path, source, key)
    for name, which in (("train", "train_list"), ("test", "test_list")):
        split = dataset(folder=str(tmp_path)).split(name)
        assert split.pixels.dtype == torch.uint8
        assert torch.equal(split.pixels, kept[which][0])
        assert split.labels.tolist() == kept[which][1]
    victim = sorted(folder.iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{victim.name} is damaged or another file"):
        dataset(folder=str(tmp_path)).split("train")
    victim.unlink()
    with pytest.raises(DataError, match=f"{victim.name} not found"):
        dataset(folder=str(tmp_path)).split("train")


def test_svhn_counts_its_tens_as_zeros(tmp_path, monkeypatch):
    kept = small_svhn(monkeypatch, tmp_path)
    for part in ("train", "test"):
        split = SVHN(folder=str(tmp_path)).split(part)
        assert split.labels.tolist() == kept[part][1] == [0, 1, 9]
        assert torch.equal(split.pixels, kept[part][0])


@pytest.mark.parametrize(
    ("small", "kind", "file"),
    [(small_mnist, MNIST, "train-labels-idx1-ubyte.gz"), (small_svhn, SVHN, "train_32x32.mat")],
)
def test_the_test_split_alone_is_enough_to_evaluate(tmp_path, monkeypatch, small, kind, file):
    small(monkeypatch, tmp_path)
    (tmp_path / file).unlink()
    dataset = kind(folder=str(tmp_path))
    assert len(dataset.split("test").labels) > 0
    with pytest.raises(DataError, match=r"train(-labels-idx1-ubyte|_32x32).*not found"):
        dataset.split("train")
