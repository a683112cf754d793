"""Capacity: the closest size is found, counted as by hand, kept with the trained network, or refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustnas import train
from robustnas.errors import InputError, RunDirectoryError
from robustnas.nn.cells import FactorizedReduce
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import ThreatModel
from robustnas.train import capacity
from robustnas.train.capacity import closest, count, matched, multiply_adds, parameters
from robustnas.train.settings import Match, Train
from robustnas_plugins.search_spaces.darts import Darts
from support.every_space import SMALL, small_networks
from support.networks import Bars, TinySpace

SPACE = Darts(network_cells=2, network_channels=4)
CELL = SPACE.published["DARTS_V2"]
CPU = torch.device("cpu")


@frozen
class Wide:
    """Networks of one layer, of `channels * cells` weights and the offset, from `least` to `most` channels."""

    channels: int = 8
    cells: int = 1
    most: int = 1 << 20
    least: int = 1
    offset: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.channels, self.cells

    def sized(self, channels: int, cells: int) -> Wide:
        if not self.least <= channels <= self.most or cells > 3:
            raise ValueError(f"channels is {channels}, cells is {cells}; other sizes would do")
        return evolve(self, channels=channels, cells=cells)

    def network(self, genotype: Any, shape: Any, classes: int, auxiliary: bool = False) -> nn.Module:
        return nn.Linear(self.channels * self.cells + self.offset, 1, bias=False)


def found(space: Any, cells: list[int] | None = None, **target: int) -> tuple[int, int, int]:
    """Channels, cells and weights of the closest network."""
    best = closest(space, {}, Bars(), Match(cells=cells, **target))
    return *best.size, best.found


@pytest.fixture(scope="module")
def every() -> dict[tuple[int, int], int]:
    """Weights by channels and cells."""
    return {
        (channels, cells): parameters(SPACE.sized(channels, cells), CELL, Bars())
        for cells in (2, 3)
        for channels in range(2, 24)
    }


class TestClosest:
    @pytest.mark.parametrize("start", [1, 8, 500])
    @pytest.mark.parametrize("target", [1, 2, 7, 100, 499, 500, 501, 4097])
    def test_any_number_of_weights_is_hit_from_anywhere(self, start: int, target: int) -> None:
        assert found(Wide(start), parameters=target) == (target, 1, target)

    def test_the_nearer_side_wins_and_the_smaller_of_equals(self) -> None:
        assert found(Wide(cells=3), parameters=100) == (33, 3, 99)
        assert found(Wide(cells=3), parameters=101) == (34, 3, 102)
        assert found(Wide(cells=2), parameters=101) == (50, 2, 100)

    def test_cells_are_chosen_from_the_list_and_the_earlier_of_equals_wins(self) -> None:
        assert found(Wide(cells=2), [2, 3], parameters=99) == (33, 3, 99)
        assert found(Wide(cells=2), [3, 2], parameters=96) == (32, 3, 96)
        assert found(Wide(cells=2), [2, 3], parameters=96) == (48, 2, 96)
        assert found(Wide(), [3, 9], parameters=99) == (33, 3, 99), "a number that the space refuses is passed over"

    def test_the_least_and_the_largest_size_are_the_closest_to_what_is_beyond(self) -> None:
        space = Wide(least=5, most=40)
        assert found(space, parameters=2) == (5, 1, 5)
        assert found(space, parameters=5) == (5, 1, 5)
        assert found(space, parameters=40) == (40, 1, 40)
        assert found(space, parameters=1000) == (40, 1, 40)

    def test_few_sizes_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[int] = []

        def network(space: Wide, *given: Any, **named: Any) -> nn.Module:
            tried.append(space.channels)
            return nn.Linear(space.channels, 1, bias=False)

        monkeypatch.setattr(Wide, "network", network)
        assert found(Wide(), parameters=1000) == (1000, 1, 1000)
        assert len(tried) == len({*tried}) <= 20

    @pytest.mark.parametrize("target", [1500, 5000, 20_000])
    def test_no_other_size_of_a_darts_network_is_closer(self, target: int, every: dict[tuple[int, int], int]) -> None:
        best = matched(SPACE, CELL, Bars(), Match(parameters=target, cells=[2, 3]))
        assert abs(best.found - target) == min(abs(weights - target) for weights in every.values())
        assert every[best.size] == best.found
        assert best.record() == {
            "size": dict(zip(("channels", "cells"), best.size, strict=True)),
            "match": {"kind": "parameters", "target": target, "found": best.found},
        }

    def test_multiply_adds_are_matched_too(self) -> None:
        best = matched(SPACE, CELL, Bars(), Match(multiply_adds=100_000))
        with torch.device("meta"):
            around = [
                multiply_adds(SPACE.sized(best.size[0] + more, 2).network(CELL, Bars.shape, 3), Bars.shape)
                for more in (-1, 0, 1)
            ]
        assert around[1] == best.found
        assert min(abs(one - 100_000) for one in around) == abs(best.found - 100_000)
        assert sorted(around) == around


class TestMultiplyAdds:
    def test_layers_by_hand(self) -> None:
        layers = {
            8 * 3 * 5 * 5 * 10 * 12: nn.Conv2d(3, 8, 5, padding=2),
            8 * 3 * 3 * 5 * 6: nn.Conv2d(3, 8, (3, 1), stride=2, padding=(1, 0), bias=False),
            3 * 3 * 3 * 10 * 12: nn.Conv2d(3, 3, 3, padding=1, groups=3),
            360 * 7: nn.Sequential(nn.Flatten(), nn.Linear(360, 7)),
            0: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Flatten()),
        }
        for expected, layer in layers.items():
            assert multiply_adds(layer.to("meta"), (3, 10, 12)) == expected, layer

    def test_what_a_factorized_reduction_cuts_off_does_not_count(self) -> None:
        assert multiply_adds(FactorizedReduce(6, 8, affine=True).to("meta"), (6, 10, 12)) == 6 * 8 * 5 * 6


class TestRefusals:
    @pytest.mark.parametrize(
        ("space", "match", "said"),
        [
            (TinySpace(), Match(parameters=9), "train.match: networks of TinySpace have one size"),
            (Wide(), Match(parameters=9, cells=[7]), "train.match: channels is 8, cells is 7; other sizes would do"),
            pytest.param(
                Wide(most=40),
                Match(parameters=1000),
                "train.match: 1,000 parameters are out of reach: the closest network of this genotype, 40 channels "
                r"and 1 cells, has 40; parameters: 40, or other cells \(match.cells\), would do",
            ),
            (Wide(offset=200), Match(parameters=100), "has 201; parameters: 201"),
        ],
    )
    def test_what_nobody_reaches(self, space: Any, match: Match, said: str) -> None:
        with pytest.raises(InputError, match=said):
            matched(space, {}, Bars(), match)

    def test_what_is_half_the_target_away_is_let_pass(self) -> None:
        assert matched(Wide(most=50), {}, Bars(), Match(parameters=100)).found == 50

    def test_a_genotype_that_is_none_is_refused_as_ever(self) -> None:
        with pytest.raises(InputError, match="genotype: normal, normal_concat"):
            closest(SPACE, {"ops": []}, Bars(), Match(parameters=100))

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({}, "found neither parameters nor multiply_adds; one of the two would do"),
            ({"parameters": 5, "multiply_adds": 5}, "found both parameters and multiply_adds"),
            ({"parameters": 0}, "must be >= 1"),
            ({"parameters": 5, "cells": []}, "found \\[\\]; numbers of cells, each once"),
            ({"parameters": 5, "cells": [2, 2]}, "found \\[2, 2\\]"),
            ({"parameters": 5, "cells": [0]}, "found \\[0\\]"),
        ],
    )
    def test_settings(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Match(**given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageFolder, train.TrainTask, dict[str, Any]]:
    folder = StageFolder(tmp_path_factory.mktemp("matched"))
    settings = Train(epochs=1, batch=32, cutout=0, match=Match(parameters=3000, cells=[1, 2]))
    task = train.TrainTask(Bars(), SPACE, CELL, ThreatModel("linf", 0.1), settings)
    return folder, task, train.run(task, folder, CPU)


def test_a_training_finds_the_size_and_writes_it_down(trained: Any) -> None:
    folder, task, result = trained
    channels, cells = result["size"]["channels"], result["size"]["cells"]
    assert result["match"] == {"kind": "parameters", "target": 3000, "found": result["parameters"]}
    assert abs(result["parameters"] - 3000) < 300
    assert parameters(SPACE.sized(channels, cells), CELL, Bars()) == result["parameters"]
    network = train.load(folder, SPACE, CELL, Bars(), task.settings)
    assert count(network) > result["parameters"], "the auxiliary head is loaded, and not counted"


def test_a_network_is_loaded_in_the_size_that_its_result_says(trained: Any, tmp_path: Path) -> None:
    first, task, result = trained
    folder = StageFolder(tmp_path)
    folder.save_tensors("network.pt", first.load_tensors("network.pt"))
    folder.finish(result)
    other = evolve(task.settings, match=Match(parameters=9000))
    network = train.load(folder, SPACE, CELL, Bars(), other)
    assert len(network.network.cells) == result["size"]["cells"]


@pytest.mark.parametrize("size", [None, {"channels": 0, "cells": 2}, {"channels": 3}])
def test_a_result_without_the_size_is_damaged(trained: Any, tmp_path: Path, size: Any) -> None:
    first, task, result = trained
    folder = StageFolder(tmp_path)
    folder.save_tensors("network.pt", first.load_tensors("network.pt"))
    folder.finish({**result, "size": size})
    with pytest.raises(RunDirectoryError, match="it does not hold the network's size"):
        train.load(folder, SPACE, CELL, Bars(), task.settings)


class TorchsCounter(FlopCounterMode):
    """Torch's own counter, which looks at every operation."""

    def __init__(self) -> None:
        super().__init__(display=False)

    @property
    def found(self) -> int:
        return int(self.get_total_flops()) // 2


@pytest.mark.parametrize("name", SMALL)
def test_torchs_own_counter_finds_the_same(name: str, monkeypatch: pytest.MonkeyPatch):
    *_, network = small_networks(name, (3, 9, 7))
    network.to("meta")
    found = multiply_adds(network, (3, 9, 7))
    monkeypatch.setattr(capacity, "_Counting", TorchsCounter)
    assert found == multiply_adds(network, (3, 9, 7)) > 1000


RISES = [lambda c: c, lambda c: c * c, lambda c: c**4, lambda c: 10 + c // 1000, lambda c: 0]


@pytest.mark.parametrize("rise", RISES)
@pytest.mark.parametrize(("start", "most"), [(1, capacity.MOST_CHANNELS), (12, 36), (40_000, 50_000)])
def test_the_bracket_is_the_last_size_below_and_the_first_that_reaches(rise, start, most):
    """However capacities rise, and where fewer and more channels are refused: guesses that miss cost looks alone."""

    def at(channels: int) -> Any:
        return SimpleNamespace(found=rise(channels)) if start // 2 < channels <= most else None

    for target in (1, 7, 50, 65_535, 10**9, 10**15):
        low, high = start // 2, most + 1  # too few, and too many
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if rise(middle) >= target else (middle, high)
        expected = tuple(one for one in (low, high) if 0 < one <= capacity.MOST_CHANNELS)
        assert capacity._bracket(at, start, target) == expected
