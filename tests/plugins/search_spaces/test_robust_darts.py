"""RobustDARTS's sub-spaces: candidates an edge, the published cells, S3's paths, noise, what is refused."""

import json
from collections import Counter

import pytest
import torch

from robustnas.bounds import margins
from robustnas.contracts import path_of
from robustnas.errors import InputError
from robustnas.genotype import Genotype
from robustnas.nn.cells import SinglePath, edge_index, edges
from robustnas.registry import SEARCH_SPACES
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.noise import Noise
from robustnas_plugins.search_spaces.robust_darts import DartsS1, DartsS2, DartsS3, DartsS4
from robustnas_plugins.search_spaces.supernet import KINDS
from support.shared_data import shared
from support.subnetwork import subnetwork

SPACES = {1: DartsS1, 2: DartsS2, 3: DartsS3, 4: DartsS4}
SMALL = {"cells": 2, "channels": 2, "network_cells": 2, "network_channels": 2}
ALL = pytest.mark.parametrize("cls", SPACES.values(), ids=[f"s{number}" for number in SPACES])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def kept(genotype):
    """The operation on every edge that a genotype keeps."""
    for kind in KINDS:
        for place, (op, source) in enumerate(genotype[kind]):
            yield kind, edge_index(source, place // 2 + 2), op


@ALL
def test_every_genotype_has_the_candidates_of_its_edges(cls):
    space, seen = cls(**SMALL), Counter()
    supernet = space.supernet((1, 8, 8), 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        with torch.no_grad():
            for table in supernet.alpha.values():
                table.normal_()
        options = [int(torch.randint(count, (), generator=generator)) for count in space.decisions]
        for genotype in (space.genotype(supernet), space.sample(generator), space.decide(options)):
            for kind, edge, op in kept(genotype):
                assert op in space.edge_ops[kind][edge]
                seen[op] += 1
    assert set(seen) == {op for kind in KINDS for edge in cls.edge_ops[kind] for op in edge} - {"none"}


def test_the_names_are_registered():
    for number, cls in SPACES.items():
        assert SEARCH_SPACES.load(f"darts-s{number}") is cls


def test_s1_keeps_of_each_edge_what_alpha_says():
    """Another pair on each edge: the genotype of one-hot rows names its own, and its supernet has those modules."""
    space = DartsS1(**SMALL)
    assert space.candidates == {}
    supernet = space.supernet((1, 8, 8), 3)
    for cell, place in zip(supernet.cells, supernet.places, strict=True):
        ops = space.edge_ops[KINDS[place.reduction]]
        for source, leaving in enumerate(cell.leaving):
            for names, target in zip(leaving.names, cell.targets[source], strict=True):
                assert names == ops[edge_index(source, target)]
    with torch.no_grad():
        for table in supernet.alpha.values():
            table.copy_(torch.tensor([[0.0, 9.0]]).repeat(len(edges(4)), 1))
    genotype = space.genotype(supernet)
    assert genotype["normal"][:2] == [["dil_conv_3x3", 0], ["dil_conv_5x5", 1]]
    assert all(op == space.edge_ops[kind][edge][1] for kind, edge, op in kept(genotype))


def test_published_cells_are_of_their_spaces():
    """All 36 of SmoothDARTS, the one with noise among them; every operation is a candidate of its edge."""
    facts = json.loads(shared("genotypes.json").read_text(encoding="utf-8"))["smoothdarts_subspaces"]
    assert len(facts) == 36
    built = 0
    for number, cls in SPACES.items():
        space = cls(network_cells=3, network_channels=4)
        published = [Genotype.from_data(fact).to_data() for name, fact in facts.items() if f"_s{number}_" in name]
        assert len(published) == 9
        found = list(space.published.values())
        assert sorted(found, key=str) == sorted(published, key=str)
        assert list(space.references) == list(space.published)
        for genotype in found:
            assert all(op in space.edge_ops[kind][edge] for kind, edge, op in kept(genotype))
            with torch.device("meta"):
                space.network(genotype, (3, 32, 32), 10)
            built += 1
    assert built == 36
    assert "PC_DARTS_S4_CIFAR10" in DartsS4().published
    assert "PC_DARTS_S4_CIFAR10" not in Darts().published


@pytest.mark.parametrize("training", [True, False])
def test_one_hot_mixing_of_s3_is_the_discrete_network_in_search_form(training):
    space = DartsS3(**SMALL)
    supernet = space.supernet((1, 7, 5), 3).double()
    images, generator = torch.rand(4, 1, 7, 5, dtype=torch.float64), torch.Generator().manual_seed(1)
    supernet(images)
    for _ in range(3):
        genotype = space.sample(generator)
        network = subnetwork(supernet.train(training), genotype)
        path = {name: rows.double() for name, rows in space.path(genotype).items()}
        for mixing in (path, SinglePath(path)):
            torch.testing.assert_close(supernet(images, mixing), network(images), rtol=0, atol=1e-12)
    assert [path_of(cls()) is not None for cls in SPACES.values()] == [False, False, True, False]


class TestNoise:
    def test_it_is_drawn_in_training_for_every_edge_and_image(self):
        op, x = Noise(2).train(), torch.rand(40, 30, 7, 5)
        drawn = op(x)
        assert drawn.shape == (40, 30, 4, 3)
        assert abs(drawn.mean()) < 0.03
        assert abs(drawn.std() - 1) < 0.03
        assert not torch.equal(drawn, op(x))
        torch.manual_seed(3)
        first = op(x)
        torch.manual_seed(3)
        assert torch.equal(op(2 * x), first), "the input has no say, torch's seed has"

    def test_a_supernet_of_noise_is_constant_in_eval_mode_and_learns_from_draws_in_training(self):
        space = DartsS4(**SMALL)
        supernet = space.supernet((1, 8, 8), 3)
        images, other = torch.rand(2, 4, 1, 8, 8)
        noise = {name: torch.tensor([[1.0, 0.0]]).repeat(14, 1) for name in KINDS}
        supernet.eval()
        assert torch.equal(supernet(images, noise), supernet(other, noise)), "all noise: what comes in is not seen"
        supernet.train()
        assert not torch.equal(supernet(images, noise), supernet(images, noise))
        supernet(images).square().sum().backward()
        for table in supernet.alpha.values():
            assert (table.grad != 0).all()

    @pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
    def test_bounds_are_of_the_network_in_eval_mode(self, method):
        space = DartsS4(**SMALL)
        genotype = space.published["PC_DARTS_S4_CIFAR10"]
        images, labels, threat = torch.rand(3, 1, 5, 4), torch.arange(3), ThreatModel("linf", 0.01)
        network = space.network(genotype, (1, 5, 4), 3)
        network(images)
        network.eval()
        assert sum(isinstance(part, Noise) for part in network.modules()) == 1
        with torch.no_grad():
            lower = margins(network, images, labels, threat, method=method)
            for _ in range(10):
                logits = network(threat.project(images + 0.01 * torch.randn_like(images).sign(), images))
                others = logits[~torch.nn.functional.one_hot(labels, 3).bool()].view(3, 2)
                assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-5).all()


def test_operations_of_another_space_are_refused():
    one = Darts().published["DARTS_V2"]
    with pytest.raises(InputError, match=r"normal\[7\] is 'dil_conv_3x3', which is no operation of this space"):
        DartsS2().network(one, (3, 32, 32), 10)
    with pytest.raises(InputError, match=r"'max_pool_3x3', which is no operation(.|\n)*operations: none, skip_connect"):
        DartsS3().path({**one, "normal": one["reduce"]})
