"""NAS-Bench-201: published sizes to the last digit, its order of cells, any image, supernet against network, `none`."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from attrs import fields

from robustnas.bounds import margins
from robustnas.contracts import Resizable, SearchSpace, canonical
from robustnas.errors import InputError
from robustnas.genotype import cell_string
from robustnas.nn.cells import SinglePath
from robustnas.threat import ThreatModel
from robustnas.train.capacity import count, multiply_adds
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201, ordered, read
from robustnas_plugins.search_spaces.nas_bench_201_networks import (
    EDGES,
    SEARCH,
    NasBench201Network,
    ResidualBlock,
)
from support import shared_data

SPACE = NasBench201(cells=1, channels=4, network_cells=1, network_channels=4)
FACTS = shared_data.FOLDER / "nas-bench-201.txt"
OPS = tuple(SEARCH)
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def on_meta(cell, **sizes):
    with torch.device("meta"):
        return NasBench201(**sizes).network({"cell": cell}, (3, 32, 32), 10)


class TestSizes:
    """CIFAR-10 networks of 5 cells a stage and 16 channels, as the benchmark's tables have them (in millions)."""

    @pytest.mark.parametrize(
        ("cell", "weights", "published"),
        [
            (NasBench201().published["AllConv3x3"]["cell"], 1_531_546, 1.532),
            (BEST, 1_288_506, 1.289),
            (cell_string.write(["none"] * 6), 73_306, 0.073),
        ],
    )
    def test_weights(self, cell, weights, published):
        stages = [16, 32, 64]
        convolutions = sum(5 * (9 * c * c + 2 * c) for c in stages) * cell.count("nor_conv_3x3")
        blocks = sum(9 * c * 2 * c + 9 * 4 * c * c + 8 * c + 2 * c * c for c in stages[:2])
        by_hand = 27 * 16 + 32 + convolutions + blocks + 128 + 650
        assert count(on_meta(cell)) == weights == by_hand
        assert round(weights / 1e6, 3) == published

    def test_multiply_adds(self):
        """220.12 M for the largest; the tables' 220.119690 counts the ten biases of the last layer too."""
        assert multiply_adds(on_meta(NasBench201().published["AllConv3x3"]["cell"]), (3, 32, 32)) + 10 == 220_119_690

    def test_depth_and_width_are_options(self):
        small = on_meta(BEST, network_cells=2, network_channels=3)
        assert [len(small.cells), small.classifier.in_features] == [6, 12]
        assert isinstance(SPACE, SearchSpace)
        assert isinstance(SPACE, Resizable)
        assert SPACE.sized(7, 2).size == (7, 2)
        stages = {option.name: option.metadata["stage"] for option in fields(NasBench201)}
        assert stages.pop("keep_none") == "search"
        assert stages == {
            "cells": "search",
            "channels": "search",
            "network_cells": "train",
            "network_channels": "train",
        }


class TestOrder:
    def test_the_published_indices_and_isomorphisms(self):
        """Every line of the facts: six digits, and the index of the cell's representative if it is not itself."""
        if not FACTS.exists():
            pytest.skip(f"{FACTS} is not here: the order of the cells is checked where it is")
        lines = [line.split() for line in FACTS.read_text(encoding="utf-8").splitlines()]
        cells = [cell_string.write([OPS[int(digit)] for digit in line[0]]) for line in lines]
        assert tuple(cells) == ordered()
        first: dict[str, int] = {}
        for index, cell in enumerate(cells):
            representative = first.setdefault(canonical(SPACE, {"cell": cell}), index)
            assert representative == (int(lines[index][1]) if len(lines[index]) > 1 else index)
        assert len(first) == 6466

    def test_known_places(self):
        """Two that the benchmark's own code asserts."""
        genotypes = list(SPACE.genotypes())
        assert len(genotypes) == 15_625
        assert genotypes[9] == {"cell": "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"}
        assert genotypes[0]["cell"].startswith("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip")

    def test_draws_are_uniform(self):
        generator = torch.Generator().manual_seed(0)
        drawn = torch.tensor([[OPS.index(op) for op in read(SPACE.sample(generator))] for _ in range(4000)])
        counts = F.one_hot(drawn, 5).sum(0)
        assert ((counts - 800).abs() < 4.5 * (4000 * 0.2 * 0.8) ** 0.5).all()


def inherited(supernet, ops):
    """The discrete network in search form with the supernet's own weights."""
    network = NasBench201Network(ops, 1, 3, cells=1, channels=4, candidates=SEARCH)
    state = supernet.state_dict()
    chosen = {}
    for name in network.state_dict():
        parts = name.split(".")
        if "edges" in parts:
            source, node = EDGES[int(parts[3])]
            place = [*parts[:2], "leaving", str(source), "single", ops[int(parts[3])], str(node - source - 1)]
            chosen[name] = state[".".join(place + parts[4:])]
        else:
            chosen[name] = state[name]
    network.load_state_dict(chosen)
    return network


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_mixing_is_the_discrete_network_in_search_form(training):
    supernet = SPACE.supernet((1, 9, 7), 3)
    generator, images = torch.Generator().manual_seed(1), torch.rand(5, 1, 9, 7)
    supernet(images)  # moves the running statistics
    drawn = [read(SPACE.sample(generator)) for _ in range(8)]
    for ops in [*drawn, *([op] * 6 for op in OPS)]:
        network = inherited(supernet, ops).train(training)
        path = SPACE.path({"cell": cell_string.write(ops)})
        # all operations, weighed, and those of the path alone
        for mixing in (path, SinglePath(path)):
            found = supernet.train(training)(images, mixing)
            torch.testing.assert_close(network(images), found, rtol=1e-4, atol=1e-5)
    assert SPACE.genotype(supernet) == {"cell": cell_string.write(OPS[i] for i in supernet.alpha["cell"].argmax(1))}


def test_none_is_kept_or_left_out():
    supernet = SPACE.supernet((1, 8, 8), 3)
    with torch.no_grad():
        supernet.alpha["cell"].copy_(torch.tensor([[3.0, 1, 2, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 1, 0]] * 2))
    kept = ("none", "avg_pool_3x3", "none") * 2
    assert read(SPACE.genotype(supernet)) == kept, "among equals the earlier"
    other = ("nor_conv_1x1", "avg_pool_3x3", "nor_conv_3x3") * 2
    assert read(NasBench201(keep_none=False).genotype(supernet)) == other


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 9), (1, 28, 28), (3, 33, 33), (2, 1, 5)])
def test_any_image_will_do(shape):
    supernet = SPACE.supernet(shape, 5)
    assert supernet.alpha["cell"].shape == (6, 5)
    network = SPACE.network({"cell": BEST}, shape, 5)
    for module in (supernet, network):
        F.cross_entropy(module(torch.rand(5, *shape)), torch.arange(5)).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert (supernet.alpha["cell"].grad != 0).all(), "the column of `none` too: a softmax moves all of a row"


def test_a_block_halves_upwards_and_is_the_published_one_for_even_sizes():
    block = ResidualBlock(2).eval()
    assert block(torch.rand(1, 2, 7, 9)).shape == (1, 4, 4, 5)
    images = torch.rand(2, 2, 6, 8)
    published = block.project(F.avg_pool2d(images, 2, 2)) + block.second(block.first(images))
    torch.testing.assert_close(block(images), published)


@pytest.mark.parametrize(
    "cell",
    [
        cell_string.write(["none"] * 6),
        "|none~0|+|none~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|avg_pool_3x3~2|",  # what leaves a node of zeros
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|none~1|none~2|",  # nothing enters the output
    ],
)
def test_a_cell_without_a_path_answers_all_images_alike_and_trains(cell):
    network = SPACE.network({"cell": cell}, (1, 8, 8), 3)
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 1, 1, 1, 2])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        assert network.classifier.bias.grad.abs().sum() > 0
        optimizer.step()
    assert (logits - logits[:1]).abs().max() < 1e-5
    assert loss < F.cross_entropy(torch.zeros(6, 3), labels), "the shares of the classes are learnt"
    network.eval()
    assert network(images).argmax(1).tolist() == [1] * 6
    lower = margins(network, images, labels, ThreatModel("linf", 1.0), method="crown-ibp")
    assert lower.isfinite().all(), "and certified over the whole box"


def test_decisions_make_every_genotype_once():
    cells = [SPACE.decide(options)["cell"] for options in product(*map(range, SPACE.decisions))]
    assert sorted(cells) == sorted(ordered())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_bounds_hold_at_sampled_images(method):
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.rand(3, 1, 9, 7), torch.arange(3)
    threat = ThreatModel("linf", 0.02)
    genotypes = [SPACE.sample(generator) for _ in range(3)] + [{"cell": BEST}, SPACE.published["ResNet"]]
    for genotype in genotypes:
        network = SPACE.network(genotype, (1, 9, 7), 3)
        network(images)
        network.eval()
        with torch.no_grad():
            lower = margins(network, images, labels, threat, method=method)
            for _ in range(20):
                moved = threat.project(images + 0.02 * torch.randn_like(images).sign(), images)
                logits = network(moved)
                others = logits[~F.one_hot(labels, 3).bool()].view(3, 2)
                assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-5).all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("genotype", "said"),
        [
            ({}, "genotype: found nothing; a text of a cell would do"),
            (
                {"normal": [], "reduce": []},
                "genotype: found normal, reduce; a text of a cell would do, such as cell: '.nor",
            ),
            ({"cell": 5}, "found cell; a text"),
            ({"cell": "|none~0|"}, "cell has 1 edges; 6, of three nodes, would do"),
            (
                {"cell": BEST.replace("skip_connect", "skip_conect")},
                "node 3 has 'skip_conect' from state 0.*'skip_connect'",
            ),
            ({"cell": "nothing"}, "node 1 is 'nothing'; edges like"),
        ],
    )
    def test_genotypes(self, genotype, said):
        with pytest.raises(InputError, match=said):
            SPACE.network(genotype, (1, 8, 8), 3)

    def test_an_auxiliary_head(self):
        with pytest.raises(InputError, match="no auxiliary head"):
            SPACE.network({"cell": BEST}, (1, 8, 8), 3, auxiliary=True)

    @pytest.mark.parametrize("option", ["cells", "channels", "network_cells", "network_channels"])
    @pytest.mark.parametrize("value", [0, 2.0, True, 5000])
    def test_options(self, option, value):
        with pytest.raises(ValueError, match=f"{option} is {value}"):
            NasBench201(**{option: value})
