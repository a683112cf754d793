"""The recipe that tests of plans begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny_plan import RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A file with a tiny recipe."""
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path
