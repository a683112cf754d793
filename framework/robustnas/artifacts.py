"""Files of a run that survive a crash: whole or absent, never half-written.

A stage owns one folder.  It writes checkpoints and one history while it works and one `result.json` at the end;
a folder with a `result.json` is done.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from attrs import frozen

from robustnas.errors import DiskFullError, RunDirectoryError


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)
"""What the system answers where a file may not be written, or a folder is in its place."""

PART = ".part"
"""How the name of a file ends that is being written; one that a killed process leaves behind is never read."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file whole: into a neighbour, flushed to the disk, then renamed over `path`.

    Raises:
        DiskFullError: the disk is full; nothing that was there before is lost.
        RunDirectoryError: the system does not let it be written: a read-only folder, say, or one in the file's place.
    """
    neighbour = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, neighbour = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(neighbour, 0o666 & ~UMASK)  # a temporary file is its owner's alone; a result is not
        os.replace(neighbour, path)
    except BaseException as fault:
        if neighbour is not None:
            Path(neighbour).unlink(missing_ok=True)
        if disk_full(fault):
            raise DiskFullError(
                f"{path}: no space left on the device; what was done before is intact. "
                "Free some space and run the same command again"
            ) from fault
        if isinstance(fault, OSError) and fault.errno in REFUSED:
            raise RunDirectoryError(
                f"{path} cannot be written: {fault.strerror or fault}; what was done before is intact\n"
                f"  {_way_out(path)} and run the same command again"
            ) from fault
        raise


def _way_out(path: Path) -> str:
    """What would let a file be written."""
    return f"delete the folder {path}" if path.is_dir() else f"make {path.parent} a folder that you may write to"


def disk_full(fault: BaseException) -> bool:
    """Whether a fault comes from a full disk.

    Torch reports a failed write as a RuntimeError whose cause or text tells.
    """
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        seen = seen.__cause__ or seen.__context__
    return isinstance(fault, RuntimeError) and "PytorchStreamWriter failed" in str(fault)


def write_json(path: Path, data: Any) -> None:
    """Plain data as indented JSON.  NaN and infinity are refused: a missing figure is `null`."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: _write(file, text.encode()))


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8."""
    write_atomically(path, lambda file: _write(file, text.encode()))


def read_json(path: Path, remedy: str | None = None) -> Any:
    """Plain data from a JSON file.

    Args:
        remedy: what to do if it is damaged; default what helps for a stage's file, to delete the stage's folder.

    Raises:
        RunDirectoryError: the file is damaged or cannot be read; the message says how to redo only that.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise RunDirectoryError(damaged(path, f"it cannot be read: {fault.strerror or fault}", remedy)) from fault
    except ValueError as fault:
        raise RunDirectoryError(damaged(path, str(fault), remedy)) from fault


def damaged(path: Path, why: str, remedy: str | None = None) -> str:
    """The message for a file that is not what it should be, and how to redo only that."""
    redo = f"delete the folder {path.parent} and run the same command again: only that stage is redone"
    return f"{path} is damaged: {why}\n  {remedy or redo}"


def of_no_stage(path: Path) -> str:
    """The remedy for a file that the next run writes again by itself."""
    return f"delete the file {path} alone and run the same command again: no stage is redone"


@frozen
class StageFolder:
    """The folder of one stage: checkpoints, history, result.

    Args:
        path: where it is.
        writes: False where another process writes for this one (see `robustnas.world`): then writing does nothing.
    """

    path: Path
    writes: bool = True

    @property
    def result_file(self) -> Path:
        """Where the result is, once the stage is done."""
        return self.path / "result.json"

    @property
    def done(self) -> bool:
        """Whether the stage has written its result."""
        return self.result_file.exists()

    def result(self) -> dict[str, Any]:
        """What the stage wrote when it was done."""
        data = read_json(self.result_file)
        if not isinstance(data, dict):
            raise RunDirectoryError(damaged(self.result_file, "it does not hold a mapping"))
        return data

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; from now on the stage is done."""
        self.write_json(self.result_file.name, result)

    def write_json(self, name: str, data: Any) -> None:
        """Plain data under `name`."""
        if self.writes:
            write_json(self.path / name, data)

    def save_tensors(self, name: str, state: dict[str, Any]) -> None:
        """Tensors and plain data under `name`, loadable with `weights_only=True`."""
        if self.writes:
            write_atomically(self.path / name, lambda file: torch.save(state, file))

    def load_tensors(self, name: str) -> dict[str, Any] | None:
        """What `save_tensors` wrote, on the CPU; None where there is nothing.

        Raises:
            RunDirectoryError: the file is truncated or not ours.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as fault:  # torch raises many kinds for a damaged file; all mean the same to the user
            raise RunDirectoryError(damaged(path, f"{type(fault).__name__}: {fault}".splitlines()[0])) from fault
        if not isinstance(state, dict):
            raise RunDirectoryError(damaged(path, "it does not hold a mapping"))
        return state

    def history(self) -> list[dict[str, Any]]:
        """The records written so far, one an epoch; a last line cut short by a kill is left out."""
        path = self.path / "history.jsonl"
        if not path.exists():
            return []
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace the history: an epoch adds its record together with its checkpoint."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        if self.writes:
            write_text(self.path / "history.jsonl", text)
