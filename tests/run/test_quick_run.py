"""A quick run: in a directory of its own, under a table that says what it is worth, and gone on with like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from robustnas.cli import main
from robustnas.run.layout import QUICK
from support.finished_run import RECIPE, results


@pytest.mark.slow
def test_a_quick_run_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    assert main(["plan", "r.yaml", "--quick"]) == 0
    told = capsys.readouterr().out
    assert QUICK in told
    assert f"in {Path('runs/r-quick')}" in told
    assert main(["run", "r.yaml", "--quick", "--out", "run"]) == 0
    assert f"threat: linf 0.02; {QUICK}" in capsys.readouterr().out
    assert QUICK in Path("run/table.md").read_text()
    kept = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert (kept["quick"], kept["dataset"]["train_images"], kept["evaluate"]["images"]) == (True, 96, 16)
    done = results(tmp_path)
    assert main(["run", str(Path("run/recipe.yaml")), "--out", "run"]) == 0
    assert results(tmp_path) == done, "the recipe that a quick run keeps is the quick recipe"
    assert QUICK in Path("run/table.md").read_text()
