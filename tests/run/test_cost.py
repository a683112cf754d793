"""What a scheduler is asked for: jobs, GPU hours, critical path, worked by hand; four thousand rows in seconds."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from robustnas import pipeline
from robustnas.errors import InputError
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.run.cost import Cost, asked, show
from robustnas.run.directory import RunDirectory
from robustnas.run.local import Local
from robustnas_plugins.executors.slurm import Slurm
from support.tiny_plan import RECIPE


def cost(folder: Path, *overrides: str, device: str = "cuda") -> Cost:
    (folder / "r.yaml").write_text(RECIPE)
    loaded = load(folder / "r.yaml", overrides)
    return asked(make(loaded), RunDirectory(folder / "run"), loaded.recipe.resources, device)


def test_hours_and_the_critical_path(tmp_path: Path):
    hours = "{search: {gpus: 4, hours: 8}, train: {hours: 3, cpus: 2}, attack: {hours: 1}, certify: {hours: 2}}"
    found = cost(tmp_path, f"resources={hours}")
    assert found.jobs["search"] == found.jobs["train"] == 4
    assert found.jobs["attack"] == 8
    assert found.gpu_hours == 4 * 4 * 8 + 4 * 3 + 8 * 1 + 4 * 2
    assert found.cpu_hours == 4 * 4 * 8 + 2 * 4 * 3 + 4 * 8 * 1 + 4 * 4 * 2
    # the second attack is given what the first leaves standing, and both come after the certificates
    assert (found.chain, found.links[:2], found.links[-1]) == (8 + 3 + 2 + 1 + 1, ("search", "train"), "attack")
    assert set(found.unsaid) == {"clean", "probe"}
    assert cost(tmp_path, f"resources={hours}", device="cpu").gpu_hours == 0, "whatever the section says"


def test_it_is_printed(tmp_path: Path):
    text = io.StringIO()
    show(cost(tmp_path, "resources={every: {hours: 2}}"), Console(file=text, width=300))
    assert "jobs of a scheduler: 28 (4 search, 4 train, 4 clean, 4 probe, 4 certify, 8 attack)" in text.getvalue()
    assert "GPU hours at most: 56; CPU hours at most: 224" in text.getvalue()
    assert "critical path: 12 h (search -> train -> clean -> " in text.getvalue()
    show(cost(tmp_path), Console(file=(bare := io.StringIO()), width=300))
    assert "no hours are asked for, so none are counted, for search, train, clean" in bare.getvalue()
    assert "critical path" not in bare.getvalue()


def test_a_plan_tells_it_where_there_is_a_scheduler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline.checks, "check", lambda *given: None)  # which takes seconds
    monkeypatch.setattr(pipeline.overview, "show", lambda *given, **more: None)
    (tmp_path / "r.yaml").write_text(RECIPE)
    loaded = load(tmp_path / "r.yaml")
    for executor, told in ((None, False), (Local(), False), (Slurm(), True)):
        pipeline.plan(loaded, out=tmp_path / "run", executor=executor)
        assert ("jobs of a scheduler" in capsys.readouterr().out) is told
    with pytest.raises(InputError, match="found --device mps: a scheduler chooses"):
        pipeline.plan(loaded, out=tmp_path / "run", executor=Slurm(), device="mps")


@pytest.mark.slow
def test_four_thousand_rows_in_seconds(tmp_path: Path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    seeds = ", ".join(map(str, range(2000)))
    loaded = load(tmp_path / "r.yaml", [f"seeds=[{seeds}]", "resources={every: {hours: 1}}"])
    made = make(loaded)
    began = time.process_time()
    found = asked(made, RunDirectory(tmp_path / "run"), loaded.recipe.resources, "cuda")
    assert found.jobs["train"] == 4_000
    assert time.process_time() - began < 5
