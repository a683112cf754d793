"""Corrupted copies of a test split on disk, as CIFAR-10-C and ImageNet-C come.

    FOLDER/fog.npy, FOLDER/labels.npy     (5 N, H, W, C) uint8: severities 1 to 5 one after the other, each with the N
                                          images in the order of the test split; labels (5 N,) or (N,)
    FOLDER/fog/3/CLASS/IMAGE              the classes and file names of the test split, one folder a severity

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261.  Arrays are mapped into memory, never unpickled; images are
read as they are evaluated.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from robustnas.attack.foolbox_attack import Corruption
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.contracts import Images
from robustnas.data.pixels import unit
from robustnas.errors import DataError
from robustnas_plugins.datasets.class_folders import ClassFolders, Files, header, inventory, read, scan, shown

NAME = "corruptions"
LABELS = "labels"
SEVERITIES = 5
"""An array holds so many, one after the other."""

BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The fifteen corruptions whose mean papers report; further ones may lie beside them."""

BLOCKS, BLOCK = 16, 4096
"""Arrays, which all have one size, are known by so many blocks of so many bytes, evenly spaced."""


@frozen
class Copies:
    """The copies in a folder.

    Args:
        folder: where they lie.
        names: of the corruptions that are asked for, as their files or folders are called.
        severities: of 1 to 5.
    """

    folder: Path
    names: tuple[str, ...]
    severities: tuple[int, ...]

    @property
    def in_arrays(self) -> bool:
        """Whether they are arrays, and not folders of images."""
        return any(self.folder.glob("*.npy"))

    def contents(self) -> str:
        """What tells these copies from others, wherever the folder lies: nothing is where they are not there."""
        digest = hashlib.sha256()
        try:
            self._present()
            for part in self._arrays() if self.in_arrays else self._folders():
                digest.update(f"{part.relative_to(self.folder).as_posix()}\0".encode())
                digest.update(_blocks(part) if self.in_arrays else _inventory(part))
        except (DataError, OSError):  # told before anything runs, by `check`
            return "not there"
        return digest.hexdigest()[:12]

    def check(self, test: Images) -> None:
        """Hold the copies to the test split that they are of.

        Raises:
            DataError: they are not there, not readable, or of other images; says which and what would do.
        """
        self._present()
        labels = test.labels.numpy()
        shape = tuple(test.take(torch.arange(1)).shape[1:])
        if self.in_arrays:
            self._check_arrays(labels, shape)
        else:
            self._check_folders(test, shape)

    def _present(self) -> None:
        """Require that every corruption that is asked for is there.

        Raises:
            DataError: names all that are not, and what there is.
        """
        if not self.folder.is_dir():
            raise DataError(f"{NAME}: {shown(self.folder)} is not a folder; the one with the copies would do")
        parts = self._arrays() if self.in_arrays else self._folders()
        there = Path.is_file if self.in_arrays else Path.is_dir
        lacking = [part.relative_to(self.folder).as_posix() for part in parts if not there(part)]
        if lacking:
            found = sorted({p.stem for p in self.folder.iterdir() if not p.name.startswith(".")} - {LABELS})
            raise DataError(
                f"{NAME}: {shown(self.folder)} has no {', '.join(lacking)}; it has {', '.join(found) or 'nothing'}; "
                "another folder, or families: [...] of those it has, would do"
            )

    def _arrays(self) -> list[Path]:
        return [self.folder / f"{name}.npy" for name in (*self.names, LABELS)]

    def _folders(self) -> list[Path]:
        return [self.folder / name / str(severity) for name in self.names for severity in self.severities]

    def _check_arrays(self, labels: Any, shape: tuple[int, ...]) -> None:
        count, (channels, rows, columns) = len(labels), shape
        wanted = (SEVERITIES * count, rows, columns, channels)
        for file in self._arrays()[:-1]:
            found = _mapped(file)
            if found.dtype != np.uint8 or found.shape != wanted:
                raise DataError(
                    f"{NAME}: {shown(file)} holds {found.dtype} of shape {found.shape}; uint8 of shape {wanted}, "
                    f"{SEVERITIES} severities of the {count} test images, would do"
                )
        file = self._arrays()[-1]
        found = _mapped(file)
        if found.dtype.kind not in "ui" or found.shape not in ((count,), (SEVERITIES * count,)):
            raise DataError(
                f"{NAME}: {shown(file)} holds {found.dtype} of shape {found.shape}; whole numbers, a label for each of "
                f"the {count} test images or of their {SEVERITIES} severities, would do"
            )
        wrong = (np.asarray(found).reshape(-1, count) != labels).any(axis=0).nonzero()[0]
        self._same(wrong, count, file)

    def _check_folders(self, test: Images, shape: tuple[int, ...]) -> None:
        source = getattr(test, "source", None)
        names = [_known(source.files[index]) for index in range(len(source))] if isinstance(source, Files) else None
        for folder in self._folders():
            found = scan(folder, NAME)
            if len(found.files) != len(test.labels):
                raise DataError(
                    f"{NAME}: {shown(folder)} holds {len(found.files)} images, and there are {len(test.labels)} test "
                    "images; the copies of this test split would do"
                )
            wrong = (found.label_tensor() != test.labels).nonzero().flatten().numpy()
            self._same(wrong, len(test.labels), folder)
            here = [_known(file) for file in found.files]
            names = here if names is None else names  # of images in memory nobody knows; all folders are alike then
            differ = [place for place, (one, other) in enumerate(zip(here, names, strict=True)) if one != other]
            if differ:
                raise DataError(
                    f"{NAME}: {shown(found.files[differ[0]])} stands where test image {differ[0]} is "
                    f"{'/'.join(names[differ[0]])}; copies have the names of the test images"
                )
            if header(found.files[0], NAME) != shape[1:]:
                size = "x".join(map(str, header(found.files[0], NAME)))
                raise DataError(
                    f"{NAME}: {shown(found.files[0])} has {size} pixels, and the network sees "
                    f"{shape[1]}x{shape[2]}; copies of that size would do"
                )

    def _same(self, wrong: Any, count: int, where: Path) -> None:
        """Require that no label differs from the test split's.

        Args:
            wrong: places of those that do.
        """
        if len(wrong):
            raise DataError(
                f"{NAME}: {shown(where)} says another class than the test split of {len(wrong)} of {count} images, the "
                f"first of them image {wrong[0]}; copies of this test split, in its order, would do"
            )

    def take(self, name: str, severity: int, places: Tensor, channels: int) -> Tensor:
        """The copies of the test images at `places` (n,) int64, (n, C, H, W) float32 in [0, 1] on the CPU."""
        if self.in_arrays:
            found = _mapped(self.folder / f"{name}.npy")
            rows = (severity - 1) * (len(found) // SEVERITIES) + places.cpu().numpy()
            return unit(torch.from_numpy(np.ascontiguousarray(found[rows])).permute(0, 3, 1, 2))
        files = _scanned(self.folder / name / str(severity)).files
        return unit(torch.stack([read(files[place], NAME, channels, None, None) for place in places.tolist()]))


class Stored(Corruption):
    """One corruption at one severity, as it lies on disk.

    Args:
        norm: in which the harness reports the size of the change.
        copies: where it lies.
        name: of the corruption.
        severity: 1 to 5.
    """

    def __init__(self, norm: str, copies: Copies, name: str, severity: int):
        super().__init__(norm)
        self.copies = copies
        self.name = name
        self.severity = severity

    def corrupted(self, images: Tensor, draws: PerImageRandom) -> Tensor:
        """The copies of the images, which the harness knows by their places in the test split."""
        if draws.places is None:
            raise DataError(f"{NAME}: copies are those of images at places in the test split, and none were given")
        return self.copies.take(self.name, self.severity, draws.places, images.shape[1]).to(images.device)


def _mapped(file: Path) -> Any:
    """Map an array into memory.

    Raises:
        DataError: it is no array of plain numbers.
    """
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as fault:
        raise DataError(f"{NAME}: {shown(file)} cannot be read ({fault}); an array of numpy.save would do") from fault
    if not isinstance(found, np.ndarray):
        raise DataError(f"{NAME}: {shown(file)} is an archive of arrays; one array of numpy.save would do")
    return found


def _blocks(file: Path) -> bytes:
    """Size and some blocks of a file."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for block in range(BLOCKS):
            opened.seek(max(size - BLOCK, 0) * block // max(BLOCKS - 1, 1))
            digest.update(opened.read(BLOCK))
    return digest.digest()


def _inventory(folder: Path) -> bytes:
    """Names and sizes of the images of a folder."""
    return inventory(folder, scan(folder, NAME), NAME).digest.encode()


@lru_cache(maxsize=4)
def _scanned(folder: Path) -> ClassFolders:
    """The files of a corruption at one severity; listed once for all batches."""
    return scan(folder, NAME)


def _known(file: Path) -> tuple[str, str]:
    """Class and name of an image, without the ending: copies may be of another format."""
    return file.parent.name, file.stem
