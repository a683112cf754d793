"""Handwritten digits, 8x8 grey, that ship with the package: real data without a download.

1,797 images of the UCI optical digits in UCI order: the first 1,200 train, the last 597 test.
Source and licence: `digits_data/README.md`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from functools import cache
from importlib.resources import files
from typing import ClassVar

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Images, Shape
from robustnas.data.images import InMemory
from robustnas.errors import DataError
from robustnas_plugins.datasets.splits import is_train

SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
TRAIN = 1200


@frozen
class Digits:
    """UCI optical digits: (1, 8, 8), 10 classes, pixels are multiples of 1/16."""

    shape: ClassVar[Shape] = (1, 8, 8)
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.3063,)
    std: ClassVar[tuple[float, ...]] = (0.3755,)

    def split(self, name: str) -> Images:
        """1,200 images for `"train"`, 597 for `"test"`.

        Raises:
            DataError: the file in the package is missing or damaged, or there is no such split.
        """
        part = slice(None, TRAIN) if is_train(name) else slice(TRAIN, None)
        table = _table()[part]
        return InMemory(table[:, :64].view(-1, *self.shape).float() / 16, table[:, 64].clone())


@cache
def _table() -> Tensor:
    """The file that ships with the package, unpacked and checked: (1797, 65) of int64, the last column the classes."""
    file = files("robustnas_plugins.datasets") / "digits_data" / "digits.csv.gz"
    again = "install robustnas again"
    try:
        data = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as fault:
        raise DataError(f"digits: {file} cannot be read ({type(fault).__name__}: {fault}); {again}") from fault
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise DataError(f"digits: {file} is damaged (its sha256 is not {SHA256}); {again}")
    numbers = np.fromstring(data.decode("ascii").replace("\n", ","), dtype=np.int64, sep=",")
    return torch.from_numpy(numbers).view(-1, 65)
