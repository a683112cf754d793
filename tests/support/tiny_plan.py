"""A tiny recipe on the shipped digits, and its plan."""

from __future__ import annotations

from pathlib import Path

from robustnas.plan import Plan, make
from robustnas.recipe.load import load

RECIPE = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 8/255}
seeds: [0, 1]
search: {epochs: 2}
methods:
  darts: {}
  jac: {metric: jacobian}
train: {epochs: 1}
attacks: [fgsm, {name: pgd, steps: 2, step_size: 2/255}]
"""


def plan(recipe: Path, *overrides: str) -> Plan:
    """The plan of a recipe, some of its keys overridden."""
    return make(load(recipe, overrides))
