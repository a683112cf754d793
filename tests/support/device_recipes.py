"""Two recipes in which every metric and every attack takes part, for tests of devices that are not the CPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from robustnas.registry import ATTACKS, METRICS, Registry

SEARCHED = """
dataset: {name: digits, train_images: 40}
search_space: {name: darts-s2, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.015}
search: {epochs: 1, batch: 16, train_share: 0.4}
methods:
  certified: {metric: [{name: certified-bound}, {name: certified-radius, steps: 1}]}
  jacobian:
    metric: [{name: jacobian, rows: 1}, {name: input-noise}]
    search: {order: unrolled, recompute_cells: true}
  noise:
    search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
    metric: random-noise
    train: {regime: {name: trades, steps: 1}}
  alpha: {metric: {name: adversarial-alpha, steps: 1}, search: {accumulate: 2}, train: {regime: certified}}
  shot:
    search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
    strategy: {name: one-shot, candidates: 2, keep: 0.5, epochs: 1}
    metric: [{name: adversarial-training, steps: 1}, {name: fsp, steps: 1}]
  evolved:
    strategy: {name: evolution, candidates: 2, population: 2, tournament: 1, objective: metric, network: untrained}
    metric: synflow
  projected:
    strategy: {name: projection, images: 4}
    search_space: {name: nas-bench-201, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
    train: {drop_path: 0}
  several: {metric: [{name: loss-curvature, warm_up: 0}, {name: feature-distortion, steps: 1}, {name: lipschitz}]}
train: {epochs: 1, batch: 20, cutout: 2, crop: 1, flip: true, auxiliary: 0, drop_path: 0.1}
evaluate: {images: 10}
certify: false
"""

ATTACKED = """
dataset: {name: digits, train_images: 40}
search_space: {name: darts, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.015}
methods:
  one: {genotype: DARTS_V2}
  two: {genotype: DARTS_V1}
train: {epochs: 1, batch: 20, auxiliary: 0, drop_path: 0}
evaluate: {images: 2, attacked: all}
rank:
  images: 4
  networks: [untrained]
  metrics:
  - croze
  - jacov
  - {name: robust-ntk, steps: 1}
  - synflow
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


def results(run: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What the stages of a kind found, by their folders' names."""
    files = sorted((run / kind).glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's table."""
    table: dict[str, Any] = json.loads((run / "table.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = table["rows"]
    return found


def shipped(registry: Registry[Any]) -> set[str]:
    """Names of the plugins of this distribution."""
    names = {entry.name for entry in registry.entries() if entry.provider.startswith("robustnas ")}
    assert names
    return names


def unmentioned() -> set[str]:
    """Names of our metrics and attacks that neither recipe mentions."""
    return {
        name
        for registry, recipe in ((METRICS, SEARCHED + ATTACKED), (ATTACKS, ATTACKED))
        for name in shipped(registry) - set(re.findall(r"(?:name: |metric: |- )([a-z][a-z-]*)", recipe))
    }
