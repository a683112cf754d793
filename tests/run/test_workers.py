"""Workers of `--jobs` do what the process of the run does alone."""

from pathlib import Path

import pytest

from robustnas.cli import main
from support.class_folders import folders

RECIPE = """
dataset: {name: image-folder, folder: images, stream: true, workers: 1}
search_space: {name: darts, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 8/255}
methods:
  one: {genotype: DARTS_V2}
  two: {genotype: DARTS_V1}
train: {epochs: 1, batch: 4, drop_path: 0, auxiliary: 0, cutout: 0}
attacks: [fgsm]
"""


@pytest.mark.processes
def test_a_worker_starts_processes_that_read_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders(tmp_path / "images", each=4)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "r.yaml", "--out", "run", "--jobs", "2", "--device", "cpu", "--until", "train"]) == 0
    assert len(list((tmp_path / "run" / "train").glob("*/result.json"))) == 2
