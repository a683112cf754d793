"""The small image sets that torchvision can download: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN.

Files lie as torchvision lays them (`MNIST/raw`, `FashionMNIST/raw`, `cifar-10-batches-py`,
`cifar-100-python`, `train_32x32.mat`); the official `.gz` files of the MNIST family may also lie in the
folder itself.  Files are checked against the official checksums when read, and held in memory as uint8.
Both splits have to be there when one is read: what is missing is then found before a training, not after it.  Nothing
is downloaded unless the option `download` says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import frozen
from attrs.validators import instance_of, optional

from robustnas.contracts import Images, Shape
from robustnas.data.images import InMemory
from robustnas.errors import DataError, MissingDataError
from robustnas.options import option
from robustnas_plugins.datasets import idx
from robustnas_plugins.datasets.downloads import fetch
from robustnas_plugins.datasets.places import data_root, md5, missing
from robustnas_plugins.datasets.splits import is_train

DAMAGED = "is damaged or another file; delete it and get it again (download: true in the recipe fetches it)"

UNPACKED_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""md5 of the official files, unpacked."""

MNIST_SIZES = {"train": 60_000, "t10k": 10_000}
"""Images in each split of the MNIST family, by what the files' names start with."""


@frozen
class _InFiles:
    """The options of a set whose files are in a folder and can be fetched into it."""

    folder: str | None = option(
        None,
        "folder that holds the files; default the variable ROBUSTNAS_DATA, then ./data",
        optional(instance_of(str)),
        identity=False,
    )
    download: bool = option(
        False, "fetch the files into the folder if they are not there", instance_of(bool), identity=False
    )


@frozen
class MNIST(_InFiles):
    """Handwritten digits, (1, 28, 28); 60,000 for training, 10,000 for test.  LeCun et al. 1998."""

    shape: ClassVar[Shape] = (1, 28, 28)
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)

    def split(self, name: str) -> Images:
        """Images and labels of the split, in memory.

        Raises:
            DataError: files are missing or damaged, or there is no such split.
        """
        return _mnist_family("mnist", "MNIST", UNPACKED_MNIST, self.folder, self.download, is_train(name))


@frozen
class FashionMNIST(_InFiles):
    """Articles of clothing, (1, 28, 28); 60,000 for training, 10,000 for test.

    Source: Xiao et al. 2017, arXiv:1708.07747.
    """

    shape: ClassVar[Shape] = (1, 28, 28)
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    std: ClassVar[tuple[float, ...]] = (0.3530,)

    def split(self, name: str) -> Images:
        """Images and labels of the split, in memory.

        Raises:
            DataError: files are missing or damaged, or there is no such split.
        """
        return _mnist_family("fashion-mnist", "FashionMNIST", {}, self.folder, self.download, is_train(name))


@frozen
class CIFAR10(_InFiles):
    """Small photographs, (3, 32, 32), 10 classes; 50,000 for training, 10,000 for test.  Krizhevsky 2009."""

    shape: ClassVar[Shape] = (3, 32, 32)
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    def split(self, name: str) -> Images:
        """Images and labels of the split, in memory.

        Raises:
            DataError: files are missing or damaged, or there is no such split.
        """
        return _cifar("cifar10", "CIFAR10", self.folder, self.download, is_train(name))


@frozen
class CIFAR100(_InFiles):
    """Small photographs, (3, 32, 32), 100 classes; 50,000 for training, 10,000 for test.  Krizhevsky 2009."""

    shape: ClassVar[Shape] = (3, 32, 32)
    classes: ClassVar[int] = 100
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)

    def split(self, name: str) -> Images:
        """Images and labels of the split, in memory.

        Raises:
            DataError: files are missing or damaged, or there is no such split.
        """
        return _cifar("cifar100", "CIFAR100", self.folder, self.download, is_train(name))


@frozen
class SVHN(_InFiles):
    """House numbers, (3, 32, 32), 10 classes; 73,257 for training, 26,032 for test.  Netzer et al. 2011.

    The set `extra` of easier digits is not used.
    """

    shape: ClassVar[Shape] = (3, 32, 32)
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.4377, 0.4438, 0.4728)
    std: ClassVar[tuple[float, ...]] = (0.1980, 0.2010, 0.1970)

    def split(self, name: str) -> Images:
        """Images and labels of the split, in memory; the digit 0 is class 0.

        Raises:
            DataError: files are missing or damaged, or there is no such split.
        """
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        part = "train" if is_train(name) else "test"
        root, named_by = data_root(self.folder)
        url, file, checksum = datasets.SVHN.split_list[part]
        if self.download and not (root / file).is_file():
            fetch("svhn", root, partial(download_url, url, filename=file, md5=checksum))
        _require("svhn", root, named_by, {file: checksum})
        read = datasets.SVHN(str(root), split=part)
        return InMemory(torch.from_numpy(read.data.copy()), torch.from_numpy(read.labels.copy()).long())


def _require(name: str, root: Path, named_by: str, checksums: Mapping[str, str]) -> None:
    """Require that all files are there and are the official ones.

    Raises:
        DataError: one is missing or has another md5.
    """
    absent = [file for file in checksums if not (root / file).is_file()]
    if absent:
        raise MissingDataError(missing(name, absent[0], root, named_by))
    for file, checksum in checksums.items():
        if md5(root / file) != checksum:
            raise DataError(f"{name}: {(root / file).absolute()} {DAMAGED}")


def _mnist_family(
    name: str, directory: str, unpacked: Mapping[str, str], folder: str | None, download: bool, train: bool
) -> Images:
    """Read a split of MNIST or of a set that comes in the same files."""
    from torchvision import datasets

    source: Any = getattr(datasets, directory)
    packed = dict(source.resources)
    root, named_by = data_root(folder)
    start = "train" if train else "t10k"
    count = MNIST_SIZES[start]
    sizes = {f"{start}-images-idx3-ubyte": (count, 28, 28), f"{start}-labels-idx1-ubyte": (count,)}
    found = {file: _mnist_file(root, directory, file) for file in sizes}
    if None in found.values() and download:
        fetch(name, root, lambda folder: source(folder, download=True))
        found = {file: _mnist_file(root, directory, file) for file in sizes}
    tensors = []
    for file, path in found.items():
        if path is None:
            what = f"{file} or {file}.gz (in {directory}/raw, or {file}.gz in the folder itself)"
            raise MissingDataError(missing(name, what, root, named_by))
        expected = packed[path.name] if path.suffix == ".gz" else unpacked.get(file)
        if expected is not None and md5(path) != expected:
            raise DataError(f"{name}: {path.absolute()} {DAMAGED}")
        tensors.append(idx.read(path, sizes[file]))
    return InMemory(tensors[0].unsqueeze(1), tensors[1].long())


def _mnist_file(root: Path, directory: str, file: str) -> Path | None:
    """Find one of the four files: packed first, because the official checksums are of packed files.

    Plain files count in torchvision's folder only: their names are the same for every set of the family.
    """
    raw = root / directory / "raw"
    candidates = (raw / f"{file}.gz", raw / file, root / f"{file}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _cifar(name: str, directory: str, folder: str | None, download: bool, train: bool) -> Images:
    """Read a split of CIFAR-10 or CIFAR-100."""
    from torchvision import datasets

    source: Any = getattr(datasets, directory)
    root, named_by = data_root(folder)
    listed = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    checksums = {f"{source.base_folder}/{file}": checksum for file, checksum in listed}
    if download and not all((root / file).is_file() for file in checksums):
        fetch(name, root, lambda folder: source(folder, download=True))
    _require(name, root, named_by, checksums)
    with warnings.catch_warnings():
        # the official pickles are older than the type numpy wants for this argument
        warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
        read = source(str(root), train=train)
    pixels = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
    return InMemory(pixels, torch.tensor(read.targets, dtype=torch.int64))
