"""ImageNet, or any set laid out like it: `train/` and `val/` with one folder for each class.

The validation folder is the test split: the labels of the official test set are not public.  Images are read
when asked for.  Every image is resized and cut from the centre; `train.random_resized_crop` cuts training images from
the square that is left, or from a larger one (`train.read_size`).

Results are of ImageNet wherever it lies: its million files are not looked through to tell one copy from another.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from attrs import frozen
from attrs.validators import instance_of, optional

from robustnas.contracts import Images, Shape
from robustnas.data.images import Streamed
from robustnas.errors import DataError, MissingDataError
from robustnas.options import option
from robustnas_plugins.datasets.class_folders import WORKERS, ClassFolders, Files, same_classes, scan, shown
from robustnas_plugins.datasets.places import data_root, missing
from robustnas_plugins.datasets.splits import is_train


@frozen
class ImageNet:
    """ImageNet (ILSVRC 2012) photographs, (3, size, size).  Russakovsky et al. 2015, arXiv:1409.0575."""

    folder: str | None = option(
        None,
        "folder with train/ and val/; default imagenet/ in ROBUSTNAS_DATA, then in ./data",
        optional(instance_of(str)),
        identity=False,
    )
    size: int = option(224, "side of the square cut from the centre, in pixels", at_least=8)
    resize: int = option(256, "shorter side before cutting, in pixels; at least size", at_least=8)
    classes: int = option(1000, "class folders there must be", at_least=2)
    workers: int = option(2, WORKERS, at_least=0, identity=False)
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    @resize.validator
    def _covers(self, attribute: object, resize: int) -> None:
        if resize < self.size:
            raise ValueError(f"resize must be at least size, found {resize} below {self.size}")

    @property
    def shape(self) -> Shape:
        """Images are squares in colour, (3, size, size)."""
        return (3, self.size, self.size)

    def split(self, name: str) -> Images:
        """Read `train/` for `"train"` and `val/` for `"test"`.

        Raises:
            DataError: folders are missing, empty or of different classes, or their number is not `classes`.
        """
        return self._images(is_train(name), self.resize, self.size)

    def training_images(self, side: int) -> Images:
        """Read `train/` as squares of `side` pixels.

        Raises:
            DataError: as for `split`.
        """
        return self._images(True, side, side)

    def _images(self, train: bool, shorter: int, side: int) -> Images:
        """One folder's images, their shorter side resized and a square cut from their centres."""
        found = self._splits[0 if train else 1]
        source = Files(found.files, "imagenet", 3, shorter, side)
        return Streamed(source, found.label_tensor(), self.workers)

    @cached_property
    def _splits(self) -> tuple[ClassFolders, ClassFolders]:
        """The files of both folders, of the same classes; looked for once.

        Raises:
            DataError: as for `split`.
        """
        root, named_by = data_root(self.folder)
        if self.folder is None:
            root = root / "imagenet"
        folders = (root / "train", root / "val")
        for folder in folders:
            if not folder.is_dir():
                raise MissingDataError(
                    missing("imagenet", f"the folder {folder.name}/", root, named_by, download=False)
                )
        both = (scan(folders[0], "imagenet"), scan(folders[1], "imagenet"))
        same_classes(both[0], both[1], folders, "imagenet")
        if len(both[0].names) != self.classes:
            raise DataError(
                f"imagenet: {shown(root)} has {len(both[0].names)} classes, {self.classes} are expected; "
                f"classes: {len(both[0].names)} among the dataset's options would do"
            )
        return both
