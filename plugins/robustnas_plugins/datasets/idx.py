"""The IDX format of the MNIST family: a header of big-endian sizes, then bytes.

0 0 8 D | D sizes of 4 bytes | the product of the sizes in bytes          (8: the values are uint8)
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from robustnas.errors import DataError


def read(path: Path, sizes: tuple[int, ...]) -> Tensor:
    """The uint8 tensor of shape `sizes` in an IDX file, plain or gzipped (`.gz`).

    Raises:
        DataError: the file cannot be unpacked, or is not a tensor of those sizes.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as fault:
        raise DataError(f"{path} cannot be read: {fault}; get the file again") from fault
    header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    count = 1
    for size in sizes:
        count *= size
    if data[: len(header)] != header or len(data) != len(header) + count:
        raise DataError(
            f"{path} is damaged or another file: {len(data)} bytes that do not hold "
            f"{'x'.join(map(str, sizes))} values; get the file again"
        )
    # a bytearray, because torch warns about memory it may not write to
    return torch.frombuffer(bytearray(data[len(header) :]), dtype=torch.uint8).view(sizes)
