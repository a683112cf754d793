"""`plugins.json`: what files of the user's own a run was given, and what is told of one that changed or is lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustnas.run import plugin_files
from robustnas.run.directory import RunDirectory


def given(monkeypatch: pytest.MonkeyPatch, sha256: str | None) -> None:
    """A run is given one file, of this digest, or none."""
    file = SimpleNamespace(kind="metric", name="mine", cls="Mine", path=Path("mine.py"), sha256=sha256)
    monkeypatch.setattr(plugin_files, "GIVEN", {} if sha256 is None else {("metric", "mine"): file})


def test_a_changed_file_is_told_and_a_lost_record_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    directory, file = RunDirectory(tmp_path), tmp_path / plugin_files.FILE
    given(monkeypatch, None)
    plugin_files.record(directory)
    assert not file.exists()
    given(monkeypatch, "a")
    plugin_files.record(directory)
    assert [one["sha256"] for one in json.loads(file.read_text())] == ["a"]
    assert capsys.readouterr().err == ""
    given(monkeypatch, "b")
    plugin_files.record(directory)
    assert "metric 'mine': mine.py is not what the last run in this directory was given" in capsys.readouterr().err
    file.unlink()
    plugin_files.record(directory)
    assert [one["sha256"] for one in json.loads(file.read_text())] == ["b"]
