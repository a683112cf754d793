"""The DARTS space: sizes to the last digit, published cells, any image, and supernet against network."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from robustnas.errors import InputError
from robustnas.genotype import Genotype
from robustnas.nn.cells import SinglePath, edge_index
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.ops import DISCRETE, SEARCH
from robustnas_plugins.search_spaces.published import references
from robustnas_plugins.search_spaces.supernet import DartsSupernet
from support import shared_data
from support.edge_by_edge import assert_same, textbook
from support.subnetwork import subnetwork

FACTS = shared_data.FOLDER / "genotypes.json"
PUBLISHED = Darts().published
SMALL = Darts(cells=3, channels=4, network_cells=3, network_channels=4)
SHAPES = [(1, 8, 8), (3, 7, 7), (1, 28, 28), (3, 33, 33), (2, 1, 5)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def facts():
    if not FACTS.exists():
        pytest.skip(f"{FACTS} is not here: published cells and their sizes are checked where it is")
    return json.loads(FACTS.read_text(encoding="utf-8"))


def weights(network):
    """Trainable weights without alpha and without the auxiliary head, as the literature counts them."""
    skipped = ("alpha.", "auxiliary.")
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith(skipped))


def counted(space, genotype, shape, classes):
    with torch.device("meta"):
        return weights(space.network(genotype, shape, classes))


class TestSizes:
    """Counts of the published code (quark0/darts), to the last digit."""

    @pytest.mark.parametrize(
        ("name", "cifar", "imagenet"),
        [
            ("DARTS_V1", 3_169_414, 4_510_432),
            ("DARTS_V2", 3_349_342, 4_718_752),
            ("NASNet-A", 3_830_950, 5_564_320),
            ("AmoebaNet-A", 3_145_078, 4_627_360),
        ],
    )
    def test_networks(self, name, cifar, imagenet):
        large = Darts(network_cells=14, network_channels=48, form="imagenet")
        assert counted(Darts(), PUBLISHED[name], (3, 32, 32), 10) == cifar
        assert counted(large, PUBLISHED[name], (3, 224, 224), 1000) == imagenet

    def test_supernet(self):
        with torch.device("meta"):
            supernet = Darts().supernet((3, 32, 32), 10)
        assert weights(supernet) == 1_930_618
        assert {name: tuple(alpha.shape) for name, alpha in supernet.alpha.items()} == {
            "normal": (14, 8),
            "reduce": (14, 8),
        }

    def test_auxiliary_heads(self):
        """Cell 13 of 20 has 4 * 144 channels, cell 9 of 14 has 4 * 192."""
        heads = []
        for space, classes in ((Darts(), 10), (Darts(network_cells=14, network_channels=48, form="imagenet"), 1000)):
            with torch.device("meta"):
                network = space.network(PUBLISHED["DARTS_V2"], (3, 32, 32), classes, auxiliary=True)
            heads.append(sum(p.numel() for p in network.auxiliary.parameters()))
        shared = 2 * 128 + 128 * 768 * 4
        assert heads[0] == 576 * 128 + shared + 2 * 768 + 769 * 10
        assert heads[1] == 768 * 128 + shared + 769 * 1000


class TestPublishedCells:
    def test_the_shipped_ones_are_the_facts(self, facts):
        expected = "DARTS_V1 DARTS_V2 NASNet-A AmoebaNet-A PC_DARTS_CIFAR PC_DARTS_IMAGENET P_DARTS SDARTS_RS"
        expected += " SDARTS_ADV ADVRUSH RACL RNAS_H RNAS_L"
        assert set(expected.split()) <= set(PUBLISHED)
        assert len(PUBLISHED) == 89
        for name, cell in PUBLISHED.items():
            named_there = references()[name].code.split(", ")[2]
            sections = facts["genotypes"], facts["smoothdarts_subspaces"], facts["croze"]["architectures"]
            fact = next(section[key] for section in sections for key in (name, named_there) if key in section)
            assert cell == Genotype.from_data({**fact, **({"edges": "all"} if "edges" in cell else {})}).to_data()

    def test_every_known_cell_runs(self, facts):
        drawn_from = facts["croze"]["architectures"]
        drnas = {name: cell for name, cell in drawn_from.items() if name.startswith("DRNAS")}
        cells = {**facts["genotypes"], **facts["smoothdarts_subspaces"], **drnas}
        foreign = cells.pop("c10_s4_pcdarts")
        space = Darts(network_cells=2, network_channels=2)
        for cell in cells.values():
            network = space.network(cell, (1, 4, 4), 3)
            assert network(torch.rand(2, 1, 4, 4)).shape == (2, 3)
        assert len(cells) == 49 + 35 + 2
        with pytest.raises(InputError, match="normal has all 14 edges of a cell of 4 nodes"):
            space.network(drawn_from["CROZE_CIFAR10"], (1, 4, 4), 3)
        with pytest.raises(InputError, match=r"normal\[7\] is 'noise', which is no operation of this space"):
            space.network(foreign, (1, 4, 4), 3)

    def test_a_cell_with_all_edges_adds_all_that_enter_a_node(self):
        space, genotype = Darts(network_cells=1, network_channels=2), PUBLISHED["CROZE_CIFAR10"]
        network, seen = space.network(genotype, (1, 5, 4), 3).eval(), {}
        cell = network.cells[0]
        for edge, op in enumerate(cell.ops):
            op.register_forward_hook(lambda op, given, made, edge=edge: seen.update({edge: (given[0], made)}))
        first = torch.rand(2, 6, 5, 4)
        output = cell(first, first)
        states = [cell.preprocess0(first), cell.preprocess1(first)]
        for node in range(2, 6):
            numbers = [edge_index(source, node) for source in range(node)]
            for source, number in enumerate(numbers):
                torch.testing.assert_close(seen[number][0], states[source])
            states.append(sum(seen[number][1] for number in numbers))
        torch.testing.assert_close(output, torch.cat([states[node] for node in (4, 5, 3, 4)], dim=1))
        nothing = {kind: [["none", state] for _, state in genotype[kind]] for kind in ("normal", "reduce")}
        with pytest.raises(InputError, match="found cells with all edges; those of a supernet's path have two a node"):
            space.path({**genotype, **nothing})


class TestRefusals:
    def test_a_misspelt_operation_is_suggested(self):
        cell = PUBLISHED["DARTS_V2"]
        cell = {**cell, "reduce": [["max_pool_3x4", 0], *cell["reduce"][1:]]}
        with pytest.raises(InputError, match=r"reduce\[0\] is 'max_pool_3x4'.*did you mean max_pool_3x3\?"):
            Darts().network(cell, (3, 8, 8), 10)

    def test_no_genotype(self):
        with pytest.raises(InputError, match="holds no genotype"):
            Darts().network("DARTS_V2", (3, 8, 8), 10)

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (PUBLISHED["NASNet-A"], "conv_7x1_1x7|sep_conv_7x7"),
            (
                {**PUBLISHED["DARTS_V2"], "normal": PUBLISHED["DARTS_V2"]["normal"][:6], "normal_concat": [2]},
                "in a supe",
            ),
            ({**PUBLISHED["DARTS_V2"], "reduce_concat": [3, 4, 5]}, r"nodes \[3, 4, 5\] make a cell's output"),
            (
                {**PUBLISHED["DARTS_V2"], "normal": 4 * [["max_pool_3x3", 0], ["skip_connect", 0]]},
                "node 2 has max_pool_3x3 and skip_connect from state 0",
            ),
        ],
    )
    def test_no_path_of_the_supernet(self, changed, said):
        with pytest.raises(InputError, match=said):
            Darts().path(changed)

    def test_no_auxiliary_head(self):
        network = SMALL.network(PUBLISHED["DARTS_V2"], (1, 8, 8), 10)
        with pytest.raises(InputError, match="no auxiliary head; build it with"):
            network.with_auxiliary(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_network_learns_from_any_image(shape, form):
    space = Darts(network_cells=3, network_channels=4, form=form)
    network = space.network(PUBLISHED["AmoebaNet-A"], shape, 5, auxiliary=True)
    network.drop_path = 0.2
    logits, auxiliary = network.with_auxiliary(torch.rand(4, *shape))
    assert logits.shape == auxiliary.shape == (4, 5)
    labels = torch.arange(4)
    (F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


class TestSupernet:
    def test_given_weights_stand_in_for_softmax(self):
        supernet = SMALL.supernet((1, 8, 8), 3).eval()
        images = torch.rand(2, 1, 8, 8)
        assert torch.equal(supernet(images), supernet(images, supernet.mixing()))
        other = {name: torch.full((14, 8), 0.125) for name in supernet.alpha}
        with torch.no_grad():
            for alpha in supernet.alpha.values():
                alpha.zero_()
        torch.testing.assert_close(supernet(images, other), supernet(images))

    def test_evaluation_is_deterministic_and_each_image_counts_alone(self):
        supernet = SMALL.supernet((1, 8, 8), 3)
        images = torch.rand(4, 1, 8, 8)
        supernet(images)
        supernet.eval()
        assert torch.equal(supernet(images), supernet(images))
        torch.testing.assert_close(supernet(images)[:1], supernet(images[:1]))

    def test_names_of_the_state_stay(self):
        """Checkpoints are read back by these names."""
        names = list(SMALL.supernet((1, 8, 8), 3).state_dict())
        for name in (
            "alpha.normal",
            "alpha.reduce",
            "stem.layers.0.weight",
            "cells.0.preprocess0.conv.weight",
            "cells.2.preprocess0.even.weight",
            "cells.0.leaving.4.common.max_pool_3x3.1.running_mean",
            "cells.1.leaving.0.single.skip_connect.3.odd.weight",
            "cells.1.leaving.2.separable.stages.0.depthwise.3",
            "cells.1.leaving.2.separable.stages.1.pointwise",
            "cells.1.leaving.2.separable.stages.1.norm.running_var",
            "classifier.bias",
        ):
            assert name in names


def test_supernet_is_the_one_computed_edge_by_edge():
    """In evaluation it is that of PC-DARTS with all channels, whose tests compare both modes."""
    shared = DartsSupernet(SEARCH, 3, 5, cells=3, channels=3).double()
    images = torch.rand(4, 3, 9, 7, dtype=torch.float64)
    shared(images)  # running statistics of their own
    assert_same(shared, textbook(shared, SEARCH), images)


class TestNetwork:
    def test_drop_path_draws_in_training_and_is_ignored_in_evaluation(self):
        network, images = SMALL.network(PUBLISHED["DARTS_V2"], (1, 8, 8), 3), torch.rand(4, 1, 8, 8)
        assert torch.equal(network(images), network(images))
        plain = network.eval()(images)
        network.drop_path = 0.5
        assert torch.equal(network(images), plain)
        torch.testing.assert_close(network(images)[:1], network(images[:1]))
        network.train()
        assert not torch.equal(network(images), network(images))

    def test_first_logits_are_the_networks(self):
        network = SMALL.network(PUBLISHED["DARTS_V2"], (1, 8, 8), 3, auxiliary=True).eval()
        images = torch.rand(4, 1, 8, 8)
        assert torch.equal(network.with_auxiliary(images)[0], network(images))

    @pytest.mark.parametrize(("form", "side", "stride"), [("cifar", 8, 3), ("imagenet", 7, 2)])
    def test_the_auxiliary_head_pools_as_published_where_that_fits(self, form, side, stride):
        space = Darts(network_cells=2, network_channels=2, form=form)
        head = space.network(PUBLISHED["DARTS_V2"], (1, 8, 8), 3, auxiliary=True).auxiliary.eval()
        x = torch.randn(2, head.layers[0].in_channels, side, side)
        pooled = F.avg_pool2d(F.relu(x), 5, stride)
        assert pooled.shape[-2:] == (2, 2)
        torch.testing.assert_close(head(x), head.classifier(head.layers(pooled).flatten(1)))

    def test_a_node_of_none_is_zero(self):
        cell = [["none", 0], ["none", 1]]
        data = {"normal": cell, "normal_concat": [2], "reduce": cell, "reduce_concat": [2]}
        network = SMALL.network(data, (1, 8, 8), 3)
        torch.testing.assert_close(network(torch.rand(2, 1, 8, 8)), network.classifier.bias.expand(2, 3))


def path(genotype):
    return {name: rows.double() for name, rows in SMALL.path(genotype).items()}


class TestDiscretising:
    """With one-hot weights a supernet is the discrete network in search form, with the same weights."""

    @pytest.mark.parametrize(("shape", "training"), [((1, 8, 8), False), ((3, 7, 5), True)])
    def test_one_hot_supernet_is_the_discrete_network(self, training, shape):
        space = Darts(cells=3, channels=3)
        supernet = space.supernet(shape, 4).double()
        images = torch.rand(3, *shape, dtype=torch.float64, requires_grad=True)
        supernet(images)  # running statistics of their own
        seen = set()
        for _ in range(6):
            with torch.no_grad():
                for alpha in supernet.alpha.values():
                    alpha.normal_()
            genotype = space.genotype(supernet)
            network = subnetwork(supernet.train(training), genotype)
            assert network.training == training
            # all operations, weighed, and those of the path alone
            for mixing in (path(genotype), SinglePath(path(genotype))):
                outputs = supernet(images, mixing), network(images)
                torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
                slopes = [torch.autograd.grad(out[:, 0].sum(), images)[0] for out in outputs]
                torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)
            seen |= {op for name in ("normal", "reduce") for op, _ in genotype[name]}
        assert seen == set(SEARCH) - {"none"}

    def test_a_node_of_none_is_zero(self):
        supernet = SMALL.supernet((1, 8, 8), 3).double()
        images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
        genotype = {**PUBLISHED["DARTS_V2"], "reduce": 8 * [["none", 0]]}
        expected = supernet(images, path(genotype))
        torch.testing.assert_close(supernet(images, SinglePath(path(genotype))), expected, rtol=0, atol=1e-12)

    def test_genotype_reads_one_hot_weights_back(self):
        supernet = SMALL.supernet((1, 8, 8), 3)
        for name in ("DARTS_V1", "DARTS_V2", "ADVRUSH"):
            published = PUBLISHED[name]
            with torch.no_grad():
                for key, rows in path(published).items():
                    supernet.alpha[key].copy_(rows * 50)
            found = SMALL.genotype(supernet)
            for cell in ("normal", "reduce"):
                for first in range(0, 8, 2):
                    expected = sorted(published[cell][first : first + 2], key=lambda gene: gene[1])
                    assert found[cell][first : first + 2] == expected


@pytest.mark.parametrize("name", [name for name in DISCRETE if name != "none"])
def test_operations_keep_channels_and_halve_upwards(name):
    for table in (SEARCH, DISCRETE):
        if name not in table:
            continue
        for stride in (1, 2):
            for side in (1, 7, 8):
                built = table[name](4, stride)
                assert built(torch.randn(3, 4, side, side)).shape == (3, 4, *2 * [math.ceil(side / stride)])


def test_search_form_has_no_scale_or_shift():
    for make in SEARCH.values():
        for stride in (1, 2):
            built = make(4, stride)
            if built is not None:
                assert all(parameter.dim() == 4 for parameter in built.parameters())
