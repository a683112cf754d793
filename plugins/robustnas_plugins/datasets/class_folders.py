"""Images in folders named after their classes: finding them, and reading one.

    split/class/.../image.png        classes are numbered in the sorted order of their names

Files with endings that no image has, and hidden ones, are left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import attrs
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustnas.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
WORKERS = "processes that read images ahead in search and training; elsewhere threads that decode them"
"""What the option `workers` of the datasets means."""

Result = TypeVar("Result")


@attrs.frozen
class ClassFolders:
    """What one split holds.

    Args:
        names: of the classes, sorted; a label is a place in this list.
        files: of all images, one of each class in turn, each class sorted.
        labels: one for each file.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def label_tensor(self) -> Tensor:
        """(N,) int64."""
        return torch.tensor(self.labels, dtype=torch.int64)


def scan(folder: Path, name: str) -> ClassFolders:
    """The images below a split's folder; reads names, opens nothing.

    Args:
        folder: holds one folder for each class.
        name: of the dataset, for messages.

    Raises:
        DataError: the folder is missing, may not be read or has no class folders, or a class has no image.
    """
    try:
        return _scanned(folder, name)
    except OSError as fault:
        raise DataError(
            f"{name}: {fault.filename} cannot be read ({fault}); a folder that may be read would do"
        ) from fault


def _scanned(folder: Path, name: str) -> ClassFolders:
    """`scan`, where nothing stands in the way."""
    if not folder.is_dir():
        raise DataError(f"{name}: {folder.absolute()} is not a folder; it should hold one folder for each class")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{name}: {folder.absolute()} is empty; it should hold one folder for each class")
    by_class: list[list[Path]] = []
    for class_name in names:
        found = _images_below(folder / class_name)
        if not found:
            raise DataError(
                f"{name}: {(folder / class_name).absolute()} holds no image; an image ends in "
                f"{', '.join(ENDINGS)}; put images there or remove the folder"
            )
        by_class.append(found)
    # one image of each class in turn: the first images of a split (evaluate.images) are then balanced over classes
    in_turn = [(file, label) for turn in zip_longest(*by_class) for label, file in enumerate(turn) if file is not None]
    return ClassFolders(tuple(names), tuple(file for file, _ in in_turn), tuple(label for _, label in in_turn))


def _images_below(folder: Path) -> list[Path]:
    """Image files at any depth, sorted.

    Raises:
        OSError: a folder may not be read.
    """

    def refuse(fault: OSError) -> None:
        raise fault

    return sorted(
        Path(directory) / file
        for directory, _, files in os.walk(folder, onerror=refuse)
        for file in files
        if file.lower().endswith(ENDINGS) and not file.startswith(".")
    )


def same_classes(train: ClassFolders, test: ClassFolders, folders: tuple[Path, Path], name: str) -> None:
    """Both splits have the same classes.

    Raises:
        DataError: they do not; says which are in one only.
    """
    for here, there, at in ((train, test, folders[1]), (test, train, folders[0])):
        lacking = sorted(set(here.names) - set(there.names))
        if lacking:
            shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
            raise DataError(
                f"{name}: {at.absolute()} has no class folder {shown}; train and test need the same classes"
            )


def real_paths(files: Sequence[Path]) -> list[str]:
    """Where each file is once all links are followed; folders are followed once each, which is most of the time."""
    folders: dict[str, str] = {}
    found = []
    for file in map(os.fspath, files):
        if os.path.islink(file):
            found.append(os.path.realpath(file))
            continue
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found.append(os.path.join(folders[folder], name))
    return found


def inventory(splits: Mapping[Path, ClassFolders], name: str) -> str:
    """A digest of the names and sizes of all files, by which images are the same ones wherever their folder lies.

    Nothing is opened, so a change that keeps a file's size to the byte goes unseen.

    Args:
        splits: what each folder holds; in the order in which they matter.
        name: of the dataset, for messages.

    Raises:
        DataError: a file is a link to nothing, or its size cannot be asked for.
    """
    digest = hashlib.sha256()
    for folder, found in splits.items():
        digest.update(b"%d images\0" % len(found.files))
        for file in found.files:
            path = os.fspath(file)
            try:
                size = os.stat(path).st_size
            except OSError as fault:
                raise DataError(f"{name}: {path} cannot be read ({fault}); replace or remove it") from fault
            digest.update(b"%s\0%d\0" % (os.fsencode(path[len(os.fspath(folder)) :].replace(os.sep, "/")), size))
    return digest.hexdigest()[:12]


def opened(path: Path, name: str, use: Callable[[Image.Image], Result]) -> Result:
    """`use` of an open image; whatever is wrong with the file becomes one message that names it.

    Raises:
        DataError: it cannot be opened or decoded.
    """
    try:
        with Image.open(path) as image:
            return use(image)
    # SyntaxError is what Pillow raises for a broken PNG, DecompressionBombError for absurd sizes
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as fault:
        raise DataError(
            f"{name}: {path.absolute()} is not an image that can be read "
            f"({type(fault).__name__}: {fault}); replace or remove it"
        ) from fault


def header(path: Path, name: str) -> tuple[int, int]:
    """Rows and columns of an image, from its header alone.

    Raises:
        DataError: it has no readable header.
    """
    return opened(path, name, lambda image: (image.height, image.width))


def read(path: Path, name: str, channels: int, shorter: int | None, crop: int | None) -> Tensor:
    """One image, (C, H, W) uint8.

    Args:
        path: of the file.
        name: of the dataset, for messages.
        channels: 3 (RGB) or 1 (grey); other kinds are converted.
        shorter: rows or columns, whichever are fewer, after resizing (bilinear, with antialiasing); None
            leaves it.
        crop: side of the square cut from the centre after resizing; None cuts nothing.

    Raises:
        DataError: the file cannot be read, or has more than 8 bits for a pixel.
    """

    def decode(image: Image.Image) -> Tensor:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}: more than 8 bits for a pixel; convert it to 8 bits")
        pixels = image.convert("RGB" if channels == 3 else "L")
        if shorter is not None and min(pixels.size) != shorter:
            ratio = shorter / min(pixels.size)
            size = (max(shorter, round(pixels.width * ratio)), max(shorter, round(pixels.height * ratio)))
            pixels = pixels.resize(size, Image.Resampling.BILINEAR)
        if crop is not None:
            left, top = (pixels.width - crop) // 2, (pixels.height - crop) // 2
            pixels = pixels.crop((left, top, left + crop, top + crop))
        array = np.array(pixels, dtype=np.uint8).reshape(pixels.height, pixels.width, channels)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    return opened(path, name, decode)


@attrs.frozen(eq=False)
class Names:
    """Many paths in two tensors, which worker processes share.

    As path objects, those of ImageNet would be copied into each process: 0.4 GB and 8 seconds (measured).

    Args:
        text: all paths one after the other, uint8.
        ends: where each one ends in it, (N,) int64.
    """

    text: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int, /) -> Path:
        begin = int(self.ends[index - 1]) if index else 0
        return Path(os.fsdecode(self.text[begin : int(self.ends[index])].numpy().tobytes()))


def packed(files: Sequence[Path]) -> Names:
    """Paths as `Names`, in the same order."""
    encoded = [os.fsencode(file) for file in files]
    ends = torch.tensor([len(one) for one in encoded], dtype=torch.int64).cumsum(0)
    # a bytearray, because torch warns about memory it may not write to
    return Names(torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8), ends)


@attrs.frozen(eq=False)
class Files:
    """Image files as a sequence for `robustnas.images.Streamed`; the fields are those of `read`."""

    files: Names = attrs.field(converter=packed)
    name: str
    channels: int
    shorter: int | None
    crop: int | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        return read(self.files[index], self.name, self.channels, self.shorter, self.crop)
