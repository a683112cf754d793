"""Workers of `--jobs` do what the process of the run does alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.class_folders import folders

RECIPE = """
dataset: {name: image-folder, folder: images, stream: true, workers: 1}
search_space: {name: darts, network_cells: 2, network_channels: 2}
threat: {norm: linf, epsilon: 8/255}
methods:
  one: {genotype: DARTS_V2}
  two: {genotype: DARTS_V1}
train: {epochs: 1, batch: 4, drop_path: 0, auxiliary: 0, cutout: 0}
attacks: [fgsm]
certify: {method: ibp, images: 2}
"""


@pytest.mark.processes
def test_a_worker_starts_processes_that_read_images(tmp_path: Path):
    folders(tmp_path / "images", each=4)
    (tmp_path / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "robustnas", "run", "r.yaml", "--out", "run", "--jobs", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "train").glob("*/result.json"))) == 2
