"""Images in folders named after their classes: finding them, and reading one.

    split/class/.../image.png        classes are numbered in the sorted order of their names

Files with endings that no image has are left out, and so is what is hidden.  Links are followed, to files and to
folders; a folder that is reached twice in a class counts once.  Names that differ in their Unicode form alone (an
accent as one character or as two, as file systems have it) are one name.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
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

MOST_PIXELS = 178_956_970
"""Of an image that is resized: as many as Pillow opens at most."""

Result = TypeVar("Result")


@attrs.frozen
class ClassFolders:
    """The images of one split and the classes they belong to.

    Args:
        names: of the classes, sorted; a label is a place in this list.
        files: of all images, one of each class in turn, each class sorted.
        labels: one for each file.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def label_tensor(self) -> Tensor:
        """The labels as a tensor, (N,) int64."""
        return torch.tensor(self.labels, dtype=torch.int64)


def shown(path: Path | str) -> str:
    """A path as a message shows it: on one line, whatever characters its names have."""
    text = os.path.abspath(path) if isinstance(path, Path) else path
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


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
            f"{name}: {shown(Path(fault.filename or folder))} cannot be read ({fault.strerror}); "
            "a folder that may be read would do"
        ) from fault


def _scanned(folder: Path, name: str) -> ClassFolders:
    """The work of `scan`, which turns what the file system refuses into a message."""
    if not folder.is_dir():
        raise DataError(f"{name}: {shown(folder)} is not a folder; it should hold one folder for each class")
    classes = _class_folders(folder, name)
    in_turn: list[tuple[int, int, Path]] = []
    for label, found in enumerate(classes.values()):
        files = _images_below(found, name)
        if not files:
            raise DataError(
                f"{name}: {shown(found)} holds no image; an image ends in "
                f"{', '.join(ENDINGS)}; put images there or remove the folder"
            )
        in_turn += [(turn, label, file) for turn, file in enumerate(files)]
    # one image of each class in turn: the first images of a split (evaluate.images) are then balanced over classes
    in_turn.sort(key=lambda one: one[:2])
    return ClassFolders(tuple(classes), tuple(file for *_, file in in_turn), tuple(label for _, label, _ in in_turn))


def _class_folders(folder: Path, name: str) -> dict[str, Path]:
    """The class folders of a split by their names, in the order of these.

    Raises:
        DataError: there is none, or two have one name.
        OSError: the folder may not be read.
    """
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataError(f"{name}: {shown(folder)} has no folder in it; it should hold one folder for each class")
    classes: dict[str, Path] = {}
    for entry in found:
        if normal(entry) in classes:
            raise DataError(
                f"{name}: {shown(folder)} has two folders {shown(entry)}, whose names differ in their Unicode form "
                "alone; one folder with the images of both would do"
            )
        classes[normal(entry)] = folder / entry
    return dict(sorted(classes.items()))


def normal(text: str) -> str:
    """A name in the Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", text)


def _images_below(folder: Path, name: str) -> list[Path]:
    """Image files at any depth, sorted.  Links are followed; a folder that is reached twice counts once.

    Raises:
        DataError: what has an image's name is no file.
        OSError: a folder may not be read.
    """
    found: list[tuple[tuple[str, ...], str]] = []
    # by the numbers that the file system gives folders: a link may lead to one that it lies in, which is no part of it
    above = {*Path(os.path.abspath(folder)).parents, *Path(os.path.realpath(folder)).parents}
    visited = {(status.st_dev, status.st_ino) for status in map(os.stat, above)}
    waiting: list[tuple[tuple[str, ...], str]] = [((), os.fspath(folder))]
    while waiting:
        parts, at = waiting.pop()
        status = os.stat(at)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        inside: list[tuple[tuple[str, ...], str]] = []
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                place = ((*parts, normal(entry.name)), entry.path)
                if entry.is_dir():
                    inside.append(place)
                elif entry.name.lower().endswith(ENDINGS):
                    if not entry.is_file():
                        raise DataError(
                            f"{name}: {shown(Path(entry.path))} cannot be read, as it is a link to nothing or no file; "
                            "replace or remove it"
                        )
                    found.append(place)
        waiting += sorted(inside, reverse=True)
    return [Path(file) for _, file in sorted(found)]


def same_classes(train: ClassFolders, test: ClassFolders, folders: tuple[Path, Path], name: str) -> None:
    """Require that both splits have the same classes, two at least.

    Raises:
        DataError: they do not; says which are in one only.
    """
    for here, there, at in ((train, test, folders[1]), (test, train, folders[0])):
        lacking = sorted(set(here.names) - set(there.names))
        if lacking:
            named = ", ".join(map(shown, lacking[:5])) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
            raise DataError(f"{name}: {shown(at)} has no class folder {named}; train and test need the same classes")
    if len(train.names) < 2:
        raise DataError(
            f"{name}: {shown(folders[0])} has one class folder, {shown(train.names[0])}; a network tells classes "
            "apart, and two folders or more would do"
        )


@attrs.frozen
class Inventory:
    """What the files of a split are known by, without opening one.

    Args:
        digest: of their names below the split's folder and their sizes: the same wherever that folder lies.
        numbers: the number that its file system gives each file, whatever its names are; one for each file.
    """

    digest: str
    numbers: tuple[tuple[int, int], ...]


def inventory(folder: Path, split: ClassFolders, name: str) -> Inventory:
    """Names and sizes of the files of a split.  A change that keeps a file's size to the byte goes unseen.

    Args:
        folder: of the split.
        split: what it holds.
        name: of the dataset, for messages.

    Raises:
        DataError: the size of a file cannot be asked for.
    """
    digest, numbers = hashlib.sha256(), []
    below = len(os.fspath(folder))
    for file in split.files:
        status = asked_for(file, name)
        known_as = normal(os.fspath(file)[below:].replace(os.sep, "/"))
        digest.update(b"%s\0%d\0" % (os.fsencode(known_as), status.st_size))
        numbers.append((status.st_dev, status.st_ino))
    return Inventory(digest.hexdigest()[:12], tuple(numbers))


def asked_for(file: Path, name: str) -> os.stat_result:
    """What the file system knows of a file.

    Raises:
        DataError: it cannot be asked for.
    """
    try:
        return os.stat(file)
    except OSError as fault:
        raise DataError(f"{name}: {shown(file)} cannot be read ({fault.strerror}); replace or remove it") from fault


def nothing_shared(train: Inventory, test: Inventory, files: Sequence[Path], name: str) -> None:
    """Require that no file is in both splits, be it by a link to it or its folder, or by a second name (a hard link).

    Args:
        files: those of the test split.

    Raises:
        DataError: names the first that is.
    """
    known = set(train.numbers)
    both = next((file for file, number in zip(files, test.numbers, strict=True) if number in known), None)
    if both is not None:
        raise DataError(
            f"{name}: {shown(both)} is a training image too; "
            "no test image may be seen in training: remove it from one of the two"
        )


def opened(path: Path, name: str, use: Callable[[Image.Image], Result]) -> Result:
    """Call `use` with an open image; whatever is wrong with the file becomes one message that names it.

    Raises:
        DataError: it cannot be opened or decoded.
    """
    try:
        with Image.open(path) as image:
            return use(image)
    except MemoryError:
        raise  # of the machine, not of the file
    except Exception as fault:  # Pillow's readers of some thirty formats raise anything at bytes they do not expect
        raise DataError(
            f"{name}: {shown(path)} is not an image that can be read "
            f"({type(fault).__name__}: {fault}); replace or remove it"
        ) from fault


def header(path: Path, name: str) -> tuple[int, int]:
    """Rows and columns of an image, from its header alone.

    Raises:
        DataError: it has no readable header.
    """
    return opened(path, name, lambda image: (image.height, image.width))


def read(path: Path, name: str, channels: int, shorter: int | None, crop: int | None) -> Tensor:
    """One image, (C, H, W) uint8: to the byte what torchvision has as `Compose([Resize(shorter), CenterCrop(crop)])`.

    That is of Pillow images, as its `ImageFolder` loads them: converted to RGB as they are stored, so an orientation
    that a camera noted (EXIF) turns nothing, transparency is dropped, and of an animation the first picture is read.

    Args:
        path: of the file.
        name: of the dataset, for messages.
        channels: 3 (RGB) or 1 (grey); other kinds are converted.
        shorter: rows or columns, whichever are fewer, after resizing (bilinear, with antialiasing); None
            leaves it.
        crop: side of the square cut from the centre after resizing, at most `shorter`; None cuts nothing.

    Raises:
        DataError: the file cannot be read, or has more than 8 bits for a pixel.
    """

    def decode(image: Image.Image) -> Tensor:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}: more than 8 bits for a pixel; convert it to 8 bits")
        pixels = image.convert("RGB" if channels == 3 else "L")
        if shorter is not None and min(pixels.size) != shorter:
            pixels = pixels.resize(_resized(*pixels.size, shorter), Image.Resampling.BILINEAR)
        if crop is not None:
            # half a pixel goes to the even side, as torchvision rounds
            left, top = round((pixels.width - crop) / 2), round((pixels.height - crop) / 2)
            pixels = pixels.crop((left, top, left + crop, top + crop))
        array = np.array(pixels, dtype=np.uint8).reshape(pixels.height, pixels.width, channels)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    return opened(path, name, decode)


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Columns and rows of an image whose shorter side becomes `shorter`; the longer one is rounded down.

    Raises:
        ValueError: it would have more than `MOST_PIXELS`.
    """
    longer = int(shorter * max(width, height) / min(width, height))
    if shorter * longer > MOST_PIXELS:
        raise ValueError(f"{height}x{width} pixels: with a shorter side of {shorter} the longer one has {longer}")
    return (shorter, longer) if width <= height else (longer, shorter)


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
    """Image files as a sequence for `robustnas.data.images.Streamed`; the fields are those of `read`."""

    files: Names = attrs.field(converter=packed)
    name: str
    channels: int
    shorter: int | None
    crop: int | None

    def __len__(self) -> int:
        return len(self.files)

    def state(self, indices: Tensor) -> str:
        """Names, sizes and times of change of the files at `indices` (n,), as a digest.

        Raises:
            DataError: one of them is not there any more.
        """
        digest = hashlib.sha256(repr((self.channels, self.shorter, self.crop)).encode())
        for index in indices.tolist():
            file = self.files[index]
            status = asked_for(file, self.name)
            digest.update(b"%s\0%d\0%d\0" % (os.fsencode(file), status.st_size, status.st_mtime_ns))
        return digest.hexdigest()

    def __getitem__(self, index: int, /) -> Tensor:
        return read(self.files[index], self.name, self.channels, self.shorter, self.crop)
