"""The folder of one stage: checkpoints and one history while it works, and one `result.json` at the end.

A folder with a `result.json` is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import digests
from robustnas.runtime.artifacts.files import PART, damaged, json_bytes, real_folder, write_text
from robustnas.runtime.artifacts.lease import Lease
from robustnas.runtime.printable import json_rows
from robustnas.runtime.strangers import described


def read_json(path: Path, remedy: str | None = None) -> Any:
    """Read plain data from a JSON file that is what was written.

    Args:
        remedy: what to do if it is damaged; default what helps for a stage's file, to delete the stage's folder.

    Raises:
        RunDirectoryError: the file is damaged or cannot be read; the message says how to redo only that.
    """
    with digests.opened(path, remedy) as file:
        text = file.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise RunDirectoryError(damaged(path, str(fault), remedy)) from fault


@frozen
class StageFolder:
    """The folder of one stage: checkpoints, history, result.

    Args:
        path: where it is.
        writes: False where another process writes for this one (see `robustnas.runtime.processes`): then writing does
        nothing.
        register: the file in which this process keeps digests of what it writes.
        lease: is looked at before a file gets its name; None where nobody else can be at this stage.
    """

    path: Path
    writes: bool = True
    register: str = digests.FILE
    lease: Lease | None = None

    def of_process(self, rank: int) -> StageFolder:
        """The folder as one of the processes of a run writes to it."""
        register = f"digests-{rank}.json" if rank else digests.FILE
        return StageFolder(self.path, writes=rank == 0, register=register, lease=self.lease)

    @property
    def result_file(self) -> Path:
        """Where the result is, once the stage is done."""
        return self.path / "result.json"

    @property
    def done(self) -> bool:
        """Whether the stage has written its result.

        Raises:
            RunDirectoryError: as `holds`.
        """
        return self.holds(self.result_file.name)

    def holds(self, name: str) -> bool:
        """Whether a file was written here under `name`.

        Raises:
            RunDirectoryError: it was, and is gone; or the folder is a link to another.
        """
        self.own()
        path = self.path / name
        if os.path.lexists(path):
            return True
        if digests.missing(path):
            raise RunDirectoryError(damaged(path, "it was written and is missing"))
        return False

    def verify(self, read_on: bool) -> None:
        """Hold the files that will be read to what was written, before anything is computed.

        Args:
            read_on: by another stage that is still to be done.

        Raises:
            RunDirectoryError: one is not what was written; names it.
        """
        done = self.done
        for name in digests.names(self.path):
            unread = LEFT_BEHIND if done else ("violation.pt",)
            large = name.endswith(".pt") and done and not read_on
            if name not in unread and not large and os.path.lexists(self.path / name):
                digests.opened(self.path / name).close()

    def opened(self, name: str) -> IO[bytes]:
        """Open a file for reading; it is what was written.

        Raises:
            RunDirectoryError: it is not, or not there.
        """
        self.own()
        return digests.opened(self.path / name)

    def result(self) -> dict[str, Any]:
        """What the stage wrote when it was done."""
        return self.read_json(self.result_file.name)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read the mapping that `write_json` wrote.

        Raises:
            RunDirectoryError: the file is not there, or not what was written.
        """
        self.own()
        data = read_json(self.path / name)
        if not isinstance(data, dict):
            raise RunDirectoryError(damaged(self.path / name, "it does not hold a mapping"))
        return data

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; from now on the stage is done."""
        self.write_json(self.result_file.name, result)

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file under `name`, whole, with its digest.

        Raises:
            LeaseLostError: another process has taken over the stage.
        """
        if self.writes:
            self.own()
            digests.write_recorded(self.path / name, write, digests.key_of(self.path), self.register, self._check)

    def swept(self) -> None:
        """Remove the files that a kill left half written; nobody else writes here."""
        for left in self.files(f".*{PART}"):
            left.unlink(missing_ok=True)

    def write_json(self, name: str, data: Any) -> None:
        """Write plain data under `name`."""
        self._write_bytes(name, json_bytes(data))

    def write_json_rows(self, name: str, data: Any) -> None:
        """Write plain data under `name` with a row a line, so that two files are easily compared."""
        self._write_bytes(name, f"{json_rows(data)}\n".encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text for people, on which no result depends.

        Raises:
            LeaseLostError: another process has taken over the stage.
        """
        if self.writes:
            self.own()
            write_text(self.path / name, text, self._check)

    @property
    def _check(self) -> Callable[[], None] | None:
        """What is asked right before a file gets its name."""
        return None if self.lease is None else self.lease.check

    def save_tensors(self, name: str, state: dict[str, Any]) -> None:
        """Write tensors and plain data under `name`, loadable with `weights_only=True`."""
        import torch  # where tensors are read or written: tables and lists come without it

        self.write(name, lambda file: torch.save(state, file))

    def load_tensors(self, name: str) -> dict[str, Any] | None:
        """Read what `save_tensors` wrote, on the CPU; None where there is nothing.

        Raises:
            RunDirectoryError: the file is gone or not what was written.
        """
        if not self.holds(name):
            return None
        import torch

        path = self.path / name
        with digests.opened(path) as file:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as fault:  # torch raises many kinds for a damaged file; all mean the same to the user
                raise RunDirectoryError(damaged(path, described(fault))) from fault
        if not isinstance(state, dict):
            raise RunDirectoryError(damaged(path, "it does not hold a mapping"))
        return state

    def files(self, pattern: str) -> list[Path]:
        """List what is here under names of a pattern, in order."""
        self.own()
        return sorted(self.path.glob(pattern)) if self.path.is_dir() else []

    def history(self) -> list[dict[str, Any]]:
        """The records written so far, one an epoch.

        Raises:
            RunDirectoryError: the file is not what was written.
        """
        if not os.path.lexists(self.path / HISTORY):
            return []
        with self.opened(HISTORY) as file:
            return [json.loads(line) for line in file.read().splitlines()]

    def rewrite_history(self, records: list[dict[str, Any]]) -> None:
        """Replace the history: an epoch adds its record together with its checkpoint."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        self._write_bytes(HISTORY, text.encode())

    def _write_bytes(self, name: str, data: bytes) -> None:
        self.write(name, lambda file: file.write(data))

    def own(self) -> None:
        """Require that the folder, and the one of all stages of its kind, are the run directory's own.

        Raises:
            RunDirectoryError: one is a link.
        """
        real_folder(self.path.parent)
        real_folder(self.path)


HISTORY = "history.jsonl"

LEFT_BEHIND = ("checkpoint.pt", "best.pt", HISTORY, "violation.pt")
"""What nothing reads any more in the folder of a stage that is done."""
