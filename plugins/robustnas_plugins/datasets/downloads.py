"""Downloads that are there whole or not at all.

torchvision fetches into a folder of its own inside the data folder, checks the official checksums and unpacks; only
then are the files moved to their places, each in one step.  A download that breaks off leaves nothing there; one that
is killed leaves a hidden folder `.download-...`, which nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from tempfile import TemporaryDirectory

from robustnas.errors import DataError


def fetch(name: str, root: Path, download: Callable[[str], object]) -> None:
    """Fetch the files of a dataset from the network into the folder `root`.

    Args:
        name: of the dataset, for messages.
        root: is made where it does not exist.
        download: puts the files into the folder it is given, laid out as they should lie in `root`.

    Raises:
        DataError: the download failed; `root` holds nothing new then.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=root) as unchecked:
            download(unchecked)
            _move(Path(unchecked), root)
    # torchvision says RuntimeError for a wrong checksum; URLError and timeouts are OSError
    except (RuntimeError, OSError, EOFError, HTTPException, TarError) as fault:
        raise DataError(
            f"{name}: the download into {root.absolute()} failed ({type(fault).__name__}: {str(fault).strip()})\n"
            "  what would do: run again with a network and a folder that can be written to; "
            "or put the files there by hand and remove download: true"
        ) from fault


def _move(source: Path, target: Path) -> None:
    """Move every file below `source` to the same place below `target`."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
