"""Whole runs on the device, with every metric and every attack: they go through, and judge as the CPU does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from robustnas import pipeline
from robustnas.attack import outcomes
from robustnas.recipe.load import load
from support.device_recipes import ATTACKED, SEARCHED, results, rows

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what libraries of a device warn of

IMAGES = 8
WALKS = {"boundary", "hopskipjump", "cw", "ddn", "fmn", "deepfool", "fab-t"}
"""Attacks that look for the nearest image: each goes its own way when a figure is rounded otherwise."""


@pytest.fixture(scope="module")
def attacked(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Networks trained on the CPU, attacked and certified there and on the device."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "r.yaml").write_text(ATTACKED, encoding="utf-8")
    recipe = load(str(folder / "r.yaml"), [f"evaluate.images={IMAGES}"])
    here, there = folder / "here", folder / "there"
    assert pipeline.run(recipe, out=here, device="cpu", until="train", quiet=True) == 0
    shutil.copytree(here, there)
    for place, out in (("cpu", here), (str(device), there)):
        assert pipeline.run(recipe, out=out, device=place, quiet=True) == 0
    return here, there


def test_every_attack_judges_as_on_the_cpu(attacked: tuple[Path, Path]) -> None:
    found = {run: {result.parent.name for result in run.glob("attack/*/result.json")} for run in attacked}
    assert len(found[attacked[0]]) > 2 * 18
    assert found[attacked[0]] == found[attacked[1]]
    apart: dict[str, int] = {}
    for stage in found[attacked[0]]:
        pairs = zip(*(outcomes.load(run / "attack" / stage) for run in attacked), strict=True)
        different = sum(int((here.success != there.success).sum()) for here, there in pairs)
        if different:
            apart[stage] = different
    surprising = {stage: count for stage, count in apart.items() if not any(name in stage for name in WALKS)}
    assert not surprising
    assert sum(apart.values()) <= 4


def test_certificates_and_predictions_are_the_cpu_s(attacked: tuple[Path, Path]) -> None:
    for here, there in zip(*map(rows, attacked), strict=True):
        for key in ("method", "clean", "certified", "smoothed"):
            assert here[key] == there[key], key


def test_every_method_is_searched_and_trained_side_by_side(device: torch.device, tmp_path: Path) -> None:
    """By three workers that share the device, as `--jobs 3` does; afterwards there is nothing left to do."""
    (tmp_path / "r.yaml").write_text(SEARCHED, encoding="utf-8")
    recipe, name = load(str(tmp_path / "r.yaml"), []), "cuda" if device.type == "cuda" else str(device)
    for jobs in (3, 1):
        assert pipeline.run(recipe, out=tmp_path / "run", device=name, jobs=jobs, quiet=True) == 0
    searches = results(tmp_path / "run", "search")
    assert len(searches) == 8
    expected = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    assert all(result["provenance"]["device"] == expected for result in searches.values())
    assert all(row["clean"] is not None for row in rows(tmp_path / "run"))
