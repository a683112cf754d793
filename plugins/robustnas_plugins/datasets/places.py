"""Where the files of a dataset are, and what to say when they are not there.

An option `folder` comes first, then the environment variable ROBUSTNAS_DATA, then `data` in the current
folder. Only the first that is given is looked at: a typing error must not be answered with other data.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from robustnas.errors import DataError

VARIABLE = "ROBUSTNAS_DATA"


def data_root(folder: str | None) -> tuple[Path, str]:
    """The folder that holds the files of datasets, and who named it."""
    if folder is not None:
        return Path(folder).expanduser(), "the option folder"
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser(), f"the environment variable {VARIABLE}"
    return Path("data"), f"the default; neither folder nor {VARIABLE} is set"


def missing(name: str, what: str, root: Path, named_by: str, download: bool = True) -> str:
    """The message for files that are not there: what was looked for, where, and what would do.

    Args:
        name: of the dataset, in a recipe.
        what: the files that were looked for.
        root: the folder that was looked into.
        named_by: who named it.
        download: whether the dataset can be downloaded.
    """
    state = "" if root.is_dir() else ", which is not a folder"
    ways = [
        f"dataset: {{name: {name}, folder: PATH}} in the recipe",
        f"the environment variable {VARIABLE}=PATH",
    ]
    if download:
        ways.append(f"dataset: {{name: {name}, download: true}}, which fetches it")
    return f"{name}: {what} not found in {root.absolute()}{state} ({named_by})\n  what would do: {'; or '.join(ways)}"


def md5(path: Path) -> str:
    """Checksum of a file, in hexadecimal; the official lists of these datasets use it.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as fault:
        raise DataError(f"{path.absolute()} cannot be read ({fault}); a file that may be read would do") from fault
