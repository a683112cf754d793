"""On a device that is not the CPU a whole run goes through, and its results are the CPU's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from robustnas import pipeline
from robustnas.recipe.load import load
from robustnas.registry import ATTACKS, METRICS
from support import places

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason=f"torch {torch.__version__} has no devices written in Python; newer ones have",
    ),
]

SEARCHED = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.015}
search: {epochs: 1, batch: 16, train_share: 0.014}
methods:
  bound: {metric: certified-bound}
  radius: {metric: {name: certified-radius, steps: 1}}
  jacobian: {metric: {name: jacobian, rows: 1}, search: {order: unrolled, recompute_cells: true}}
  noise: {metric: random-noise, train: {regime: {name: trades, steps: 1}}}
  alpha: {metric: {name: adversarial-alpha, steps: 1}, search: {accumulate: 2}}
  training: {metric: {name: adversarial-training, steps: 1}, train: {regime: certified}}
train: {epochs: 1, batch: 600, cutout: 2, crop: 1, flip: true, auxiliary: 0, drop_path: 0.1}
evaluate: {images: 20}
certify: false
"""

ATTACKED = """
dataset: digits
search_space: {name: darts, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.015}
methods:
  one: {genotype: DARTS_V2}
  two: {genotype: DARTS_V1}
train: {epochs: 1, batch: 400, auxiliary: 0, drop_path: 0}
evaluate: {images: 2, attacked: all}
smoothing: {sigma: 0.1, images: 2, samples: 20, selection: 10, alpha: 0.1, radii: [0.05]}
certify: {method: crown, radius_method: crown-ibp, images: 2, norms: [linf, l2, l1]}
attacks:
  - fgsm
  - {name: pgd, steps: 2, step_size: 0.01}
  - {name: mi-fgsm, steps: 2, step_size: 0.01}
  - {name: cw-linf, steps: 2, step_size: 0.01}
  - {name: apgd-ce, steps: 3}
  - {name: apgd-dlr, steps: 3}
  - {name: apgd-t, steps: 3, target_classes: 2}
  - {name: fab-t, steps: 3, target_classes: 2}
  - {name: square, queries: 10}
  - {name: autoattack, steps: 2, queries: 5}
  - {name: transfer, steps: 2, step_size: 0.01}
  - {name: deepfool, steps: 2}
  - {name: fmn, steps: 3}
  - {name: cw, steps: 2, binary_search_steps: 2, threat: {norm: l2, epsilon: 0.5}}
  - {name: ddn, steps: 3, threat: {norm: l2, epsilon: 0.5}}
  - {name: boundary, steps: 3, threat: {norm: l2, epsilon: 0.5}}
  - {name: hopskipjump, steps: 2, samples: 10, threat: {norm: l2, epsilon: 0.5}}
  - {name: pgd, label: pgd-l1, steps: 2, step_size: 0.5, threat: {norm: l1, epsilon: 2}}
  - gaussian-noise
  - uniform-noise
  - {name: corruptions, families: [shot-noise, glass-blur, fog, jpeg, pixelate], severities: [3]}
"""


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


def results(run: Path, kind: str) -> dict[str, dict[str, object]]:
    """What the stages of a kind found, by their folders' names."""
    files = sorted((run / kind).glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def test_every_metric_and_every_attack_took_part(runs: dict[str, tuple[Path, Path]]) -> None:
    for registry, recipe in ((METRICS, SEARCHED), (ATTACKS, ATTACKED)):
        own = {entry.name for entry in registry.entries() if entry.provider.startswith("robustnas ")}
        named = set(re.findall(r"(?:name: |metric: |- )([a-z][a-z-]*)", recipe))
        assert own
        assert own <= named
    assert all(
        result["provenance"]["device"] == "elsewhere" for result in results(runs["searched"][1], "search").values()
    )


def test_a_search_elsewhere_finds_what_it_finds_here(runs: dict[str, tuple[Path, Path]]) -> None:
    here, away = (results(run, "search") for run in runs["searched"])
    assert len(here) == 6
    assert here.keys() == away.keys()
    for stage, result in here.items():
        assert result["genotype"] == away[stage]["genotype"]
        for name, rows in result["alpha"].items():
            torch.testing.assert_close(torch.tensor(away[stage]["alpha"][name]), torch.tensor(rows), atol=1e-4, rtol=0)


def test_networks_elsewhere_stand_and_fall_as_here(runs: dict[str, tuple[Path, Path]]) -> None:
    for name in ("searched", "attacked"):
        tables = [json.loads((run / "table.json").read_text(encoding="utf-8")) for run in runs[name]]
        for row, other in zip(*(table["rows"] for table in tables), strict=True):
            for key in ("method", "clean", "robust", "attacks", "certified", "smoothed"):
                assert row[key] == other[key], key
