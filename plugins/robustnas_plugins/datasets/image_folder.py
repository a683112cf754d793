"""People's own images: `train/<class>/*` and `test/<class>/*` (or `val/` where there is no `test/`).

Classes are the folder names in sorted order, and must be the same in both splits, two at least.  A file that is in both
splits, be it through a link of any kind, is refused.  Copies under different names are not looked for: keep them out of
the test folder, or the test figures mean nothing.

Results are of these images wherever the folder lies: the names and sizes of all files tell them from others, so
a folder that moves or is copied redoes nothing, one with other training files is another dataset, and other test files
redo what is measured on them.  Nothing is opened for that: rename a file whose pixels change and whose size does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from attrs import Attribute, Factory, frozen
from attrs.validators import and_, deep_iterable, ge, gt, in_, instance_of, optional

from robustnas.contracts import Images, Shape
from robustnas.data.images import InMemory, Streamed
from robustnas.errors import DataError
from robustnas.options import MISSING, option
from robustnas_plugins.datasets.class_folders import (
    WORKERS,
    ClassFolders,
    Files,
    header,
    inventory,
    nothing_shared,
    same_classes,
    scan,
    shown,
)
from robustnas_plugins.datasets.splits import is_train

NAME = "image-folder"


def _statistic(what: str, default: float, *rules: Any) -> Any:
    return option(
        Factory(lambda self: (default,) * self.channels, takes_self=True),
        f"{what} of the training images, a number for each channel; default {default} each",
        deep_iterable(and_(instance_of((float, int)), *rules)),
        converter=tuple,
    )


@frozen
class ImageFolder:
    """Images in folders named after their classes.

    `mean` and `std` only scale what the network sees first; the defaults serve photographs, and nothing is
    read to find better ones.
    """

    folder: str = option(
        MISSING,
        "folder with train/ and test/ (or val/), in each a folder for each class",
        instance_of(str),
        identity=False,
    )
    size: int | None = option(
        None,
        "resize the shorter side to this and cut a square; default: all have one size already",
        optional(and_(instance_of(int), ge(4))),
    )
    channels: int = option(3, "3 reads images in colour, 1 in grey", in_((1, 3)))
    mean: tuple[float, ...] = _statistic("mean", 0.5)
    std: tuple[float, ...] = _statistic("standard deviation", 0.25, gt(0.0))
    stream: bool = option(
        False, "read images each time they are needed, instead of once into memory", instance_of(bool), identity=False
    )
    workers: int = option(2, WORKERS, at_least=0, identity=False)

    @mean.validator
    @std.validator
    def _a_number_each(self, attribute: Attribute[Any], values: tuple[float, ...]) -> None:
        if len(values) != self.channels:
            raise ValueError(f"{attribute.name} must have one number a channel: {self.channels}, found {len(values)}")

    @cached_property
    def _folders(self) -> tuple[Path, Path]:
        """The folders of the two splits."""
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{NAME}: {shown(root)} is not a folder; "
                "folder: PATH should name one that holds train/<class>/ and test/<class>/"
            )
        test = root / "test"
        return root / "train", root / "val" if not test.is_dir() and (root / "val").is_dir() else test

    @cached_property
    def _splits(self) -> tuple[ClassFolders, ClassFolders]:
        """The files of both splits: same classes, no file in common.

        Raises:
            DataError: folders are missing or empty, or the splits do not fit together.
        """
        return self._found[0]

    @cached_property
    def contents(self) -> Mapping[str, str]:
        """What tells the images of each split from others: names and sizes of its files."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[tuple[ClassFolders, ClassFolders], dict[str, str]]:
        """`_splits` and `contents`, looked for once."""
        train, test = (scan(folder, NAME) for folder in self._folders)
        same_classes(train, test, self._folders, NAME)
        known = [inventory(folder, split, NAME) for folder, split in zip(self._folders, (train, test), strict=True)]
        nothing_shared(known[0], known[1], test.files, NAME)
        return (train, test), {"train": known[0].digest, "test": known[1].digest}

    @cached_property
    def shape(self) -> Shape:
        """(channels, rows, columns); without `size`, those of the first training image."""
        if self.size is not None:
            return (self.channels, self.size, self.size)
        return (self.channels, *header(self._splits[0].files[0], NAME))

    @property
    def classes(self) -> int:
        """Number of class folders."""
        return len(self._splits[0].names)

    @cached_property
    def _checked(self) -> tuple[ClassFolders, ClassFolders]:
        """Both splits, every image of which has a readable header and, without `size`, the common size.

        Both splits, because a broken test image should be found before the training, not after.

        Raises:
            DataError: names the first file that does not.
        """
        for file in (*self._splits[0].files, *self._splits[1].files):
            found = header(file, NAME)
            if self.size is None and found != self.shape[1:]:
                raise DataError(
                    f"{NAME}: {shown(file)} is {found[0]}x{found[1]} where the first training image is "
                    f"{self.shape[1]}x{self.shape[2]}; the option size: N brings all to one size"
                )
        return self._splits

    def split(self, name: str) -> Images:
        """The images of `train/` or `test/`, in the sorted order of classes and files.

        Raises:
            DataError: a folder is missing or empty, a file is broken or of another size, splits do not fit.
        """
        which = 0 if is_train(name) else 1
        return self._images(self._checked[which], self.size)

    @property
    def training_images(self) -> Callable[[int], Images] | None:
        """Reads `train/` as squares of so many pixels; None without `size`, as images need not be squares then."""
        return None if self.size is None else lambda side: self._images(self._checked[0], side)

    def _images(self, part: ClassFolders, side: int | None) -> Images:
        """The images of a split, streamed or in memory; as squares where there is a side."""
        source = Files(part.files, NAME, self.channels, side, side)
        if self.stream:
            return Streamed(source, part.label_tensor(), self.workers)
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            pixels = torch.stack(list(pool.map(source.__getitem__, range(len(source)))))
        return InMemory(pixels, part.label_tensor())
