"""Real image data in a folder shared/data beside the checkout, where a developer has it."""

from pathlib import Path

import pytest

from support import places

FOLDER = places.ROOT.parent / "shared" / "data"


def shared(name: str) -> Path:
    """A file of that data, or a skip that says which is missing."""
    if not (FOLDER / name).exists():
        pytest.skip(f"needs {name} in a folder shared/data beside the checkout")
    return FOLDER / name
