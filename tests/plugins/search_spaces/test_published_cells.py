"""Cells of the literature: counted again, and equal to what others have counted, to the digit."""

from __future__ import annotations

import json

import pytest
import torch

from robustnas.train.capacity import count, multiply_adds
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from robustnas_plugins.search_spaces.published import CELLS, CHANNELS, cells, references
from robustnas_plugins.search_spaces.robust_darts import DartsS4
from support.shared_data import shared

SPACE = Darts(network_cells=CELLS, network_channels=CHANNELS)


def counted_again(names: list[str], space: Darts | DartsS4 = SPACE, every: int = 1) -> None:
    """Weights of all, and the multiply-adds, which take a pass, of one in so many."""
    assert names
    for place, name in enumerate(names):
        with torch.device("meta"):
            network = space.network(space.published[name], (3, 32, 32), 10)
        assert count(network) == space.references[name].parameters, name
        if place % every == 0:
            assert multiply_adds(network, (3, 32, 32)) == space.references[name].multiply_adds, name


def test_figures_are_those_of_this_code() -> None:
    counted_again(["NASNet-A", "CROZE_CIFAR10"])


@pytest.mark.slow
def test_figures_of_every_fourth_cell_are_those_of_this_code() -> None:
    """`test_others_count_the_same` has most of the rest, and a cell that is added is the last."""
    assert len(cells()) == 89
    counted_again(list(cells())[::-4], every=8)
    counted_again(["PC_DARTS_S4_CIFAR10"], DartsS4(network_cells=CELLS, network_channels=CHANNELS))


def test_cells_of_croze_are_the_published_lists() -> None:
    facts = json.loads(shared("genotypes.json").read_text(encoding="utf-8"))["croze"]["architectures"]
    assert len(facts) == 5
    for name, fact in facts.items():
        found = cells()[name]
        assert found.get("edges") == ("all" if name.startswith("CROZE") else None)
        for key, value in fact.items():
            assert found[key.replace("reduction", "reduce")] == value, (name, key)


def test_others_count_the_same() -> None:
    """To the last digit that is written there: thousands of weights, tenths of a million multiply-adds."""
    facts = json.loads(shared("genotypes.json").read_text(encoding="utf-8"))["genotypes"]
    assert len(facts) == 49
    for name, fact in facts.items():
        reference = references()[name]
        assert reference.parameters
        assert reference.multiply_adds
        assert f"{reference.parameters / 1e6:.3f}" == f"{fact['params_M_C36_L20']:.3f}", name
        assert f"{reference.multiply_adds / 1e6:.1f}" == f"{fact['macs_M_C36_L20']:.1f}", name


@pytest.mark.parametrize("space", [Darts(), PcDarts()], ids=["darts", "pc-darts"])
def test_each_has_a_reference(space: Darts | PcDarts) -> None:
    assert list(space.references) == list(space.published)
    for name, reference in space.references.items():
        assert all((reference.paper, reference.code, reference.sought, reference.size)), name
    first, *_ = space.published
    assert first == "DARTS_V1"  # known before any search, for estimates
