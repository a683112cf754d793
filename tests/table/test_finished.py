"""The table of a run that several processes work on: computed and printed beside the others, written alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustnas.run.directory import RunDirectory
from robustnas.table import finished


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with a table, in order."""
    steps: list[str] = []

    def comparison(directory: RunDirectory) -> Any:
        steps.append("computed")
        return SimpleNamespace(rows=[], contradictions=[])

    monkeypatch.setattr(finished.results, "comparison", comparison)
    monkeypatch.setattr(finished, "_write", lambda directory, compared: steps.append("written"))
    monkeypatch.setattr(finished.forms, "show", lambda compared: steps.append("printed"))
    return steps


@pytest.mark.parametrize("meanwhile", ["", "another's"])
@pytest.mark.parametrize("ends", [True, False], ids=["at the end", "on the way"])
def test_a_table_is_written_alone_and_nothing_else_is_done_so(
    tmp_path: Path, told: list[str], meanwhile: str, ends: bool
):
    @contextmanager
    def alone() -> Iterator[None]:
        if meanwhile:
            (tmp_path / "table.json").write_text(meanwhile)
        told.append("alone")
        yield
        told.append("among others")

    directory = RunDirectory(tmp_path)
    if ends:
        assert finished.write(directory, alone) == []
    else:
        finished.Refresh(directory, alone)()
    again = ["computed"] if meanwhile else []
    assert told == ["computed", "alone", *again, "written", "among others", *(["printed"] if ends else [])]
