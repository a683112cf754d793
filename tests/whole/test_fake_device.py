"""On a device that is not the CPU a whole run goes through, and its results are the CPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from robustnas import pipeline
from robustnas.recipe.load import load
from support import places
from support.device_recipes import ATTACKED, SEARCHED, results, rows

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason=f"torch {torch.__version__} has no devices written in Python; newer ones have",
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Run directories of both recipes: on the CPU, and elsewhere."""
    folder = tmp_path_factory.mktemp("elsewhere")
    typed, found = [], {}
    for name, text in (("searched", SEARCHED), ("attacked", ATTACKED)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        found[name] = (folder / f"{name}-here", folder / f"{name}-away")
        typed += [str(folder / f"{name}.yaml"), str(found[name][1])]
    program = [sys.executable, str(places.TESTS / "support" / "fake_device.py"), *typed]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=os.environ | threads) as away:
        for name, (here, _) in found.items():
            assert pipeline.run(load(str(folder / f"{name}.yaml"), []), out=here, device="cpu", quiet=True) == 0
        _, said = away.communicate(timeout=300)
    assert away.returncode == 0, said[-3000:]
    return found


def test_every_metric_and_every_attack_took_part(runs: dict[str, tuple[Path, Path]]) -> None:
    assert all(
        result["provenance"]["device"] == "elsewhere" for result in results(runs["searched"][1], "search").values()
    )


def test_a_search_elsewhere_finds_what_it_finds_here(runs: dict[str, tuple[Path, Path]]) -> None:
    here, away = (results(run, "search") for run in runs["searched"])
    assert len(here) == 8
    assert here.keys() == away.keys()
    for stage, result in here.items():
        assert result["genotype"] == away[stage]["genotype"]
        for name, table in result.get("alpha", {}).items():
            torch.testing.assert_close(torch.tensor(away[stage]["alpha"][name]), torch.tensor(table), atol=1e-4, rtol=0)


def test_scores_elsewhere_are_what_they_are_here(runs: dict[str, tuple[Path, Path]]) -> None:
    here, away = (results(run, "score") for run in runs["attacked"])
    assert len(here) == 2
    assert here.keys() == away.keys()
    for stage, result in here.items():
        assert set(result["scores"]) == {"croze", "jacov", "robust-ntk", "synflow"}
        assert not any(result["failed"].values()), result["failed"]
        for name, scores in result["scores"].items():
            assert away[stage]["scores"][name] == pytest.approx(scores, rel=1e-3), name


def test_networks_elsewhere_stand_and_fall_as_here(runs: dict[str, tuple[Path, Path]]) -> None:
    for name in ("searched", "attacked"):
        for row, other in zip(*map(rows, runs[name]), strict=True):
            for key in ("method", "clean", "robust", "attacks", "certified", "smoothed"):
                assert row[key] == other[key], key
