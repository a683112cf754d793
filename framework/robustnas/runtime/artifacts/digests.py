"""What was written into a folder, file by file, so that what is read there later is that and nothing else.

    digests.json    {"of": stage's key, "files": {name: [sha256, ...]}, "sha256": of the rest}

Before a file gets its name its digest is written down beside the one of the file it replaces, and afterwards alone:
wherever a kill comes between the three, what is there is what one of the digests says.  `null` stands for no file.
The file is its process's own; of several that work on one stage the others have `digests-<rank>.json`.

A folder of a version that wrote no digests has no such file; `robustnas.run.directory` knows which may be without.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from attrs import evolve, field, frozen

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts.files import damaged, json_bytes, regular, sha256, write_atomically, write_bytes
from robustnas.runtime.strangers import kind_of

FILE = "digests.json"

LOOKS, PAUSE = 3, 0.05
"""How often a file that has digests is looked for, and the seconds between, before it counts as missing."""

MARK = b'"sha256": "'
"""What stands before the digest of all that stands before it."""

Accepted = tuple[str | None, ...]
"""The digests that a file may have, the one that was written last first; None for a file that need not be there."""


@frozen
class Digests:
    """What one process wrote into a folder.

    Args:
        of: the key of the stage whose folder it is; None for the run directory's own.
        files: by name.
        older: keys of the stages that were there before digests were written.
    """

    of: str | None = None
    files: dict[str, Accepted] = field(factory=dict)
    older: tuple[str, ...] = ()


def read(file: Path, remedy: str | None = None) -> Digests:
    """The digests that a file holds.

    Raises:
        RunDirectoryError: it is damaged, or of another stage than the folder it is in.
    """
    with regular(file, remedy) as opened_file:
        text = opened_file.read()
    before, mark, _ = text.rpartition(MARK)
    try:
        data = json.loads(text)
        claimed = data["sha256"]
        found = Digests(
            data["of"],
            {str(name): tuple(accepted) for name, accepted in data["files"].items()},
            tuple(data["older"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise RunDirectoryError(damaged(file, f"it does not hold digests ({kind_of(fault)})", remedy)) from fault
    if claimed != hashlib.sha256(before + mark).hexdigest():
        raise RunDirectoryError(damaged(file, "its own digest says that it is not what was written", remedy))
    if found.of is not None and found.of != key_of(file.parent):
        raise RunDirectoryError(
            damaged(file, f"it was written for the stage {found.of}: folders were exchanged", remedy)
        )
    return found


def write(file: Path, digests: Digests, check: Callable[[], None] | None = None) -> None:
    """Write digests whole, with their own; `check` as `write_atomically` has it."""
    whole = json_bytes({"of": digests.of, "files": digests.files, "older": digests.older, "sha256": ""})
    before, mark, after = whole.rpartition(MARK)
    write_bytes(file, before + mark + hashlib.sha256(before + mark).hexdigest().encode() + after, check)


def key_of(folder: Path) -> str:
    """The key of a stage, from its folder's name: what stands before it may change with a method's."""
    return folder.name.rpartition("-")[2]


def present(folder: Path) -> bool:
    """Whether digests were written into a folder."""
    return any(True for _ in _all(folder))


def _all(folder: Path) -> Iterator[Path]:
    """The files of digests in a folder: the first process's, and after it, which few ask for, those of others."""
    first = folder / FILE
    if os.path.lexists(first):
        yield first
    with suppress(OSError):
        others = [name for name in sorted(os.listdir(folder)) if name.startswith("digests-") and name.endswith(".json")]
        yield from (folder / name for name in others)


def accepted(path: Path, remedy: str | None = None) -> Accepted | None:
    """The digests that a file may have; empty where none was written down, None where none were in its folder."""
    known: Accepted | None = None
    for file in _all(path.parent):
        known = read(file, remedy).files.get(path.name, ())
        if known:
            break
    return known


def names(folder: Path) -> list[str]:
    """The files of a folder whose digests were written down."""
    return sorted({name for file in _all(folder) for name in read(file).files})


def opened(path: Path, remedy: str | None = None) -> IO[bytes]:
    """A file, open for reading, that is what was written.

    Args:
        remedy: what to do if it is not; default what helps for a stage's file, to delete the stage's folder.

    Raises:
        RunDirectoryError: it is not there, is no file, or not the one that was written.
    """
    known: Accepted | None = None
    for _ in range(2):  # between the two looks a run that is under way may have replaced it
        file = regular(path, remedy)
        try:
            known = accepted(path, remedy)
            if known is None or sha256(file) in known:
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    why = "it is not what was written, says its digest" if known else f"{FILE} has no digest of it"
    raise RunDirectoryError(damaged(path, why, remedy))


def missing(path: Path) -> bool:
    """Whether a file that is not there was written and has not been taken away by us.

    Another process may give the file its name, or take it away, between a look for it and one at its digests.
    """
    for look in range(LOOKS):
        if os.path.lexists(path):
            return False
        known = accepted(path)
        if not known or None in known:
            return False
        # a list is asked of the server, where a single name may be remembered as absent
        with suppress(OSError):
            if path.name in os.listdir(path.parent):
                return False
        if look < LOOKS - 1:
            time.sleep(PAUSE)
    return True


def write_recorded(
    path: Path,
    write_to: Callable[[IO[bytes]], object],
    of: str | None,
    register: str = FILE,
    check: Callable[[], None] | None = None,
) -> None:
    """Write a file whole, with its digest.

    Args:
        of: key of the stage whose file it is; None for one of the run directory's own.
        register: name of the file of digests.
        check: is called right before the file, and before its digests, get their names; where it raises they do not.

    Raises:
        DiskFullError, RunDirectoryError: as `write_atomically`; or the file of digests is damaged.
    """
    file = path.parent / register
    before = read(file) if os.path.lexists(file) else Digests(of, of_an_older_version(path.parent))
    written = ""

    def announce(digest: str) -> None:
        nonlocal written
        written = digest
        write(file, _with(before, path.name, (digest, *_there(path, before.files.get(path.name, ())))), check)

    write_atomically(path, write_to, announce, check)
    write(file, _with(before, path.name, (written,)), check)


def of_an_older_version(folder: Path) -> dict[str, Accepted]:
    """The digests of files that a version without digests left in a folder that is gone on with."""
    if present(folder):
        return {}
    names = (".json", ".jsonl", ".pt", ".npz")
    files = [path for path in sorted(folder.glob("*")) if path.suffix in names and path.is_file()]
    return {path.name: _there(path, ()) for path in files}


def _there(path: Path, known: Accepted) -> Accepted:
    """The digest of the file that is there now, None where there is none."""
    if not os.path.lexists(path):
        return (None,)
    if len(known) == 1:
        return known
    if not path.is_file() or path.is_symlink():
        return ()  # nothing that anybody would read
    with regular(path) as file:  # a kill left it open which of several it is, or an older version wrote it
        return (sha256(file),)


def _with(digests: Digests, name: str, accepted_now: Accepted) -> Digests:
    return evolve(digests, files={**digests.files, name: accepted_now})


def forget(paths: Sequence[Path]) -> None:
    """Take files of a folder away that are no longer needed, and then their digests."""
    for path in paths:
        path.unlink(missing_ok=True)
    names = {path.name for path in paths}
    for register in sorted({file for folder in {path.parent for path in paths} for file in _all(folder)}):
        found = read(register)
        left = {name: known for name, known in found.files.items() if name not in names}
        if not left:
            register.unlink()
        elif len(left) < len(found.files):
            write(register, evolve(found, files=left))
