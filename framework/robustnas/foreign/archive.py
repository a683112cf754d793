"""A file of `torch.save`: what it holds as plain data, and its tensors, of which none is read before it is asked for.

Both forms are known, the zip archive of torch 1.6 and later and the one before it.  What the file says of its sizes is
looked at before anything of that size is read: an archive that is small because it is compressed may ask for no more
than some copies of the network it is for.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from robustnas.errors import InputError, RobustnasError
from robustnas.foreign import pickled
from robustnas.foreign.messages import few
from robustnas.foreign.pickled import Storage, Stored
from robustnas.runtime import given_file

ADVICE = "a file written by torch.save(network.state_dict(), path) would do"

COPIES = 10
"""Of the network that a compressed file may hold: its weights, averages of them, an optimiser's state."""

LEAST = 64 * 2**20
"""Bytes that any file may hold, however small its network: no machine that trains has less to spare."""

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip
"""Of the numbers in a storage, by the name of its class without `Storage` at the end."""

MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the values in a file of torch before 1.6."""


Numbers = Callable[[str, int], bytearray]
"""The first bytes of a storage, by its key and their number."""


class Archive:
    """An open file of tensors.

    Attributes:
        content: what it holds; tensors are `Stored`.
    """

    def __init__(self, content: Any, numbers: Numbers):
        self.content = content
        self._numbers = numbers
        self._storages: dict[str, tuple[int, Tensor]] = {}

    def tensor(self, stored: Stored) -> Tensor:
        """Read a tensor; it is contiguous and has memory of its own.

        Raises:
            InputError: its storage is not in the file, or is smaller than the tensor.
        """
        dtype = _dtype(stored)
        if 0 in stored.shape:
            return torch.empty(stored.shape, dtype=dtype)
        storage, last = stored.storage, sum((n - 1) * s for n, s in zip(stored.shape, stored.stride, strict=True))
        item = _storage_dtype(storage).itemsize
        first = storage.start * item + stored.offset * dtype.itemsize
        if stored.offset * dtype.itemsize + (last + 1) * dtype.itemsize > storage.count * item:
            raise InputError(f"is damaged: a tensor of shape {stored.shape} lies beyond the end of its numbers")
        whole = self._whole(storage, (storage.start + storage.count) * item)
        numbers = whole[first : first + (last + 1) * dtype.itemsize].clone().view(dtype)
        return numbers.as_strided(stored.shape, stored.stride).clone(memory_format=torch.contiguous_format)

    def _whole(self, storage: Storage, size: int) -> Tensor:
        """Read a storage as (size,) uint8; a second request for it reads nothing."""
        if storage.key not in self._storages or self._storages[storage.key][0] < size:
            self._storages[storage.key] = (size, torch.frombuffer(self._numbers(storage.key, size), dtype=torch.uint8))
        return self._storages[storage.key][1]


def _storage_dtype(storage: Storage) -> torch.dtype:
    name = storage.kind.removesuffix("Storage")
    if name not in DTYPES:
        raise InputError(f"holds tensors of {storage.kind[:40]}, which are no numbers that a network computes with")
    return DTYPES[name]


def _dtype(stored: Stored) -> torch.dtype:
    dtype = _storage_dtype(stored.storage) if stored.dtype is None else getattr(torch, stored.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"holds tensors of {str(stored.dtype)[:40]}, which this version of torch does not know")
    return dtype


@contextmanager
def opened(path: Path, network: int) -> Iterator[Archive]:
    """Open a file of tensors.

    Args:
        network: bytes of the network that it is for, by which it is measured what the file may hold.

    Raises:
        InputError: it cannot be read, is no file of torch.save, is damaged, or is far larger than it seems; the text
            goes on after the file's name.
    """
    try:
        with given_file.opened(path, lambda kind: f"is no file but {kind}; {ADVICE}") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(16)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(file) as archive:
                    yield _zipped(archive, max(size, COPIES * network, LEAST))
            else:
                _check_kind(start)
                yield _legacy(file, size)
    except OSError as fault:
        raise InputError(f"cannot be read: {fault.strerror or fault}; {ADVICE}") from fault
    except RobustnasError:
        raise
    except Exception as fault:  # every instruction of a damaged pickle fails in its own way
        raise InputError(f"is not a file of torch.save, or a damaged one ({str(fault)[:100]}); {ADVICE}") from fault


def _check_kind(start: bytes) -> None:
    """Refuse files of other programs by name."""
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        raise InputError(
            "is a safetensors file, which is not read here; torch.save(safetensors.torch.load_file(path), "
            "'weights.pt') writes one that is"
        )
    if not start.startswith(b"\x80"):
        raise InputError(f"is not a file of torch.save: it begins with {start[:8]!r}; {ADVICE}")


def _zipped(archive: zipfile.ZipFile, most: int) -> Archive:
    """Read the zip archive of torch 1.6 and later.

    Args:
        most: bytes that it may unpack to.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    declared = sum(entry.file_size for entry in entries.values())
    if declared > most:
        raise InputError(
            f"is compressed and unpacks to {declared / 1e6:,.0f} MB, far more than a checkpoint of this network has; "
            f"{ADVICE}, which does not compress"
        )
    others = {entry.compress_type for entry in entries.values()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    head = next((name.removesuffix("data.pkl") for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
    if others or head is None:
        raise InputError(f"is a zip archive, and not of torch.save: it holds {few(list(entries))}; {ADVICE}")
    if f"{head}constants.pkl" in entries:
        raise InputError(
            "is a TorchScript module, which is code; torch.save(torch.jit.load(path).state_dict(), 'weights.pt') "
            "writes its tensors"
        )
    if f"{head}byteorder" in entries and archive.read(f"{head}byteorder") != b"little":
        raise InputError(f"was written by a machine of the other byte order; {ADVICE} on this one")

    def numbers(key: str, size: int) -> bytearray:
        entry = entries.get(f"{head}data/{key}")
        if entry is None or entry.file_size < size:
            held = "none" if entry is None else f"{entry.file_size} bytes"
            raise InputError(f"is damaged: a storage of {size} bytes has {held}")
        with archive.open(entry) as file:
            return bytearray(file.read(size))

    data = archive.read(f"{head}data.pkl")
    return Archive(pickled.read(io.BytesIO(data)), numbers)


def _legacy(file: BinaryIO, size: int) -> Archive:
    """Read the form before torch 1.6: pickles one after the other, then the numbers of each storage."""
    if pickled.read(file) != MAGIC:
        raise InputError(f"is a pickle, and not of torch.save; {ADVICE}")
    for _ in ("version of the form", "sizes of integers"):
        pickled.read(file)
    storages: dict[str, Storage] = {}
    content, keys = pickled.read(file, storages), pickled.read(file)
    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in keys:
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        held = count * _storage_dtype(storages[key]).itemsize
        places[key] = (at + 8, held)
        at += 8 + held

    def numbers(key: str, asked: int) -> bytearray:
        start, held = places.get(key, (0, 0))
        if asked > min(held, size - start):
            raise InputError(f"is damaged: a storage of {asked} bytes has {min(held, size - start)}")
        file.seek(start)
        return bytearray(file.read(asked))

    return Archive(content, numbers)
