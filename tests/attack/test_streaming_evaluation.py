"""Evaluation of images that are read when asked for: memory does not grow with their number, and no other is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.run import scheduler
from robustnas.run.data import SAMPLE
from robustnas.run.stages import execute
from robustnas.run.task import Task
from robustnas.runtime.tally import Tally
from support.class_folders import folders
from support.fake_package import install

IMAGE = 3 * 64 * 64 * 4
"""Bytes of an image as the network sees it."""

MANY = 4000
"""Test images that there are."""

MODULE = f"""
    import torch
    from attrs import frozen
    from torch import nn

    from robustnas.data.images import InMemory, Streamed

    read = []
    kept = []

    class Drawn:
        def __len__(self):
            return {MANY}

        def __getitem__(self, index):
            read.append(index)
            generator = torch.Generator().manual_seed(index)
            image = torch.randint(0, 96, (3, 64, 64), dtype=torch.uint8, generator=generator)
            image[index % 3] += 128  # the class is the brightest colour
            return image

    @frozen
    class Drawing:
        shape = (3, 64, 64)
        classes = 3
        mean = (0.0, 0.0, 0.0)
        std = (1.0, 1.0, 1.0)

        def split(self, name):
            assert name == "test", "nothing is trained here"
            return Streamed(Drawn(), torch.arange({MANY}) % 3)

    class Colours(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.Conv2d(3, 3, 32, 32, bias=False)
            self.pool.weight.data.zero_()
            for colour in range(3):
                self.pool.weight.data[colour, colour] = 1 / 256

        def forward(self, images):
            return torch.relu(self.pool(images)).flatten(2).sum(2)

    class Keeping(Colours):
        def forward(self, images):
            if torch.is_grad_enabled():
                kept.append(images.detach().clone())
            return super().forward(images)
"""

RECIPE = """\
dataset: drawing
threat: {norm: linf, epsilon: 0.27}
methods:
  colours: {network: "streamed_colours:Colours"}
attacks:
  - fgsm
  - {name: pgd, steps: 2, step_size: 0.25}
  - {name: fmn, steps: 2, label: fmn}
  - {name: gaussian-noise, draws: 2, label: noise}
  - {name: square, queries: 3}
  - {name: boundary, steps: 1, threat: {norm: l2, epsilon: 3}, label: boundary}
  - {name: corruptions, families: [brightness, contrast], severities: [1], label: corruptions}
evaluate: {epsilons: [0.1], batch: 10}
certify: {method: ibp, norms: [linf], batch: 10}
smoothing: {sigma: 0.1, selection: 1, samples: 8, alpha: 0.1, batch: 10}
"""

BATCHES = ("evaluate.batch=22", "certify.batch=22", "smoothing.batch=22")

BRIEF = ("attacks=[fgsm]", "certify=false", "smoothing=false")

STAGES = 1 + 1 + 1 + 7 + 1
"""Clean answers, probe, certificates, attacks, smoothing."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with an installed data set and network, and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {"robustnas.datasets": {"drawing": "streamed_colours:Drawing"}}
    install(tmp_path, "streamed-colours", points, streamed_colours=MODULE)
    (tmp_path / "r.yaml").write_text(RECIPE)
    yield tmp_path
    sys.modules.pop("streamed_colours", None)


def peaks(monkeypatch: pytest.MonkeyPatch, images: int, *overrides: str) -> dict[str, int]:
    """By stage of a run, bytes of the tensors made in it that are alive at its highest moment."""
    found: dict[str, int] = {}

    def measured(task: Task) -> None:
        with Tally() as tally:
            execute(task)
        found[task.stage.title] = tally.peak

    monkeypatch.setattr(scheduler, "execute", measured)
    sets = [word for one in (f"evaluate.images={images}", *overrides) for word in ("--set", one)]
    assert main(["run", "r.yaml", "--out", f"run-{images}", "--device", "cpu", "--quiet", *sets]) == 0
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(folder: Path, monkeypatch: pytest.MonkeyPatch):
    few, many = 66, 198  # the probe looks at 64
    less, more = (peaks(monkeypatch, images, *BATCHES) for images in (few, many))
    assert len(less) == STAGES
    (row,) = json.loads((folder / f"run-{many}/table.json").read_text())["rows"]
    assert row["clean"]["mean"] == 1.0
    assert row["robust"]["mean"] < 1
    for stage, peak in less.items():
        # less than a byte a pixel value, which images kept as they are stored would take, even where a batch waits for
        # the garbage collector
        assert peak >= 10 * IMAGE
        assert (more[stage] - peak) / (many - few) < IMAGE / 5, stage


def test_images_that_are_kept_would_be_seen(folder: Path, monkeypatch: pytest.MonkeyPatch):
    few, many = 66, 90
    overrides = ("methods.colours.network=streamed_colours:Keeping", *BRIEF)
    less, more = peaks(monkeypatch, few, *overrides), peaks(monkeypatch, many, *overrides)
    stage = "colours seed 0 attack fgsm"
    assert (more[stage] - less[stage]) / (many - few) > IMAGE * 0.9


def test_only_the_chosen_images_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    peaks(monkeypatch, 30, *BRIEF)
    (file,) = folder.glob("run-30/clean/*/result.json")
    chosen = json.loads(file.read_text())["index"]
    assert len(set(chosen)) == 30
    assert max(chosen) > MANY / 2
    read = set(sys.modules["streamed_colours"].read)
    assert set(chosen) <= read
    # a sample is looked at before anything runs
    assert len(read - set(chosen)) <= SAMPLE


def test_memory_is_made_of_batches(folder: Path, monkeypatch: pytest.MonkeyPatch):
    small = peaks(monkeypatch, 64, *BRIEF, "evaluate.batch=8")
    large = peaks(monkeypatch, 65, *BRIEF, "evaluate.batch=64")
    for stage in ("colours seed 0 clean", "colours seed 0 attack fgsm"):
        assert 6 * small[stage] < large[stage] < 10 * small[stage]


@pytest.mark.slow
def test_the_shipped_recipe_of_streamed_images_runs(tmp_path: Path):
    """In small, on a folder of images made here."""
    folders(tmp_path / "images", ("fish", "frog"), ("fish", "frog"), each=8, size=(64, 64), test_name="val")
    sets = [
        f"dataset.folder={tmp_path / 'images'}", "dataset.workers=0", "train.epochs=1", "train.batch=8",
        "attacks.2={name: autoattack, steps: 1, queries: 1}", "evaluate.images=6", "certify.images=2",
    ]  # fmt: skip
    words = [word for one in sets for word in ("--set", one)]
    assert main(["run", "imagenet-mini", "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet", *words]) == 0
    rows = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["standard", "adversarial", "certified"]
    for row in rows:
        assert row["certified"]["mean"] <= row["clean"]["mean"]
        assert row["robust"]["mean"] <= row["clean"]["mean"]
