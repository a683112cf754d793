"""RobNet: published sizes to the digit, supernet against network, codes that share weights, bounds, what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F

from robustnas.bounds import margins
from robustnas.contracts import Resizable, SearchSpace
from robustnas.errors import InputError
from robustnas.genotype import gate_codes
from robustnas.nn.cells import SinglePath
from robustnas.testing import check_search_space
from robustnas.threat import ThreatModel
from robustnas.train.capacity import count, multiply_adds
from robustnas_plugins.search_spaces.robnet import RobNet
from robustnas_plugins.search_spaces.robnet_codes import PUBLISHED
from robustnas_plugins.search_spaces.robnet_networks import EDGES, RobNetNetwork
from support.edge_by_edge import per_edge
from support.shared_data import shared

SPACE = RobNet(cells=2, channels=3, network_cells=2, network_channels=4)
FREE = RobNet(cells=2, channels=3, cell_free=True, network_cells=2, network_channels=4)
BOTH = pytest.mark.parametrize("space", [SPACE, FREE], ids=["cell-based", "cell-free"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sizes(genotype, channels, cells):
    with torch.device("meta"):
        network = RobNet(network_channels=channels, network_cells=cells).network(genotype, (3, 32, 32), 10)
    return count(network), multiply_adds(network, (3, 32, 32))


class TestSizes:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "millions", "millions_of_adds"),
        [("RobNet-free", "5.440", 780), ("RobNet-large-v1", "6.843", 1030), ("RobNet-large-v2", "33.327", 5095)],
    )
    def test_published(self, name, millions, millions_of_adds):
        one = PUBLISHED[name]
        weights, adds = sizes(one.genotype, one.channels, one.depth)
        assert (weights, adds) == (one.parameters, one.multiply_adds)
        assert f"{weights / 1e6:.3f}" == millions
        assert round(adds / 1e6) == millions_of_adds

    def test_the_free_code_has_the_published_weights(self):
        space = RobNet()
        with torch.device("meta"):
            network = space.network(space.published["RobNet-free"], (3, 32, 32), 10)
        assert count(network) == space.references["RobNet-free"].parameters == 5_439_790

    def test_others_have_the_same_codes_and_count_the_same(self):
        facts = json.loads(shared("genotypes.json").read_text(encoding="utf-8"))["robnet"]
        for name, code in (("free", "free"), ("large_v1", "large"), ("large_v2", "large")):
            one, measured = PUBLISHED[f"RobNet-{name.replace('_', '-')}"], facts["measured"][f"robnet_{name}"]
            assert gate_codes.read(facts[f"robnet_{code}"]) == gate_codes.read(one.genotype)
            assert (one.channels, one.depth) == (measured["C"], measured["layers"])
            assert f"{one.parameters / 1e6:.3f}" == f"{measured['params_M']:.3f}"
            assert f"{one.multiply_adds / 1e6:.1f}" == f"{measured['macs_M']:.1f}"

    def test_by_hand(self):
        """One cell of C channels behind a stem of 3C: two 1x1 convolutions in front, and what the codes open."""
        channels, classes = 4, 10
        for code, edge in (("00", 0), ("10", 0), ("01", 2 * (9 * channels + channels**2)), ("11", 104)):
            stem = 27 * 3 * channels + 2 * 3 * channels
            by_hand = stem + 2 * 3 * channels**2 + EDGES * edge + 4 * channels * classes + classes
            assert sizes(gate_codes.write([[code] * EDGES]), channels, 1)[0] == by_hand

    def test_another_depth_has_the_codes_of_the_same_share_of_it(self):
        shut, open_ = ["00"] * EDGES, ["01"] * EDGES
        network = RobNetNetwork([shut, open_], 1, 3, cells=5, channels=4)
        assert [len(cell.edges) for cell in network.cells] == [0, 0, 0, EDGES, EDGES]


def inherited(space, supernet, genotype):
    """The discrete network in search form with the supernet's own weights: its form is the only one."""
    network = RobNetNetwork(gate_codes.read(genotype), 1, 3, space.cells, space.channels).double()
    state, chosen = per_edge(supernet, supernet.state_dict()), {}
    for name in network.state_dict():
        parts = name.split(".")
        if parts[2:3] == ["edges"]:
            codes = gate_codes.read(genotype)
            code = codes[int(parts[1]) % len(codes)][int(parts[3])]
            opened = [
                op for digit, op in zip(code[::-1], ("sep_conv_3x3", "skip_connect"), strict=True) if digit == "1"
            ]
            parts = [*parts[:4], "candidates", opened[int(parts[4])], *parts[5:]]
        chosen[name] = state[".".join(parts)]
    network.load_state_dict(chosen)
    return network


@pytest.mark.parametrize("training", [True, False])
@BOTH
def test_one_hot_mixing_is_the_discrete_network(space, training):
    supernet = space.supernet((1, 7, 5), 3).double()
    images, generator = torch.rand(4, 1, 7, 5, dtype=torch.float64), torch.Generator().manual_seed(1)
    supernet(images)  # running statistics of their own
    cells = len(space.tables)
    for genotype in [*(space.sample(generator) for _ in range(3)), gate_codes.write([["00"] * EDGES] * cells)]:
        network = inherited(space, supernet, genotype).train(training)
        path = space.path(genotype)
        for mixing in (path, SinglePath(path)):
            mixing = mixing.to(images) if isinstance(mixing, SinglePath) else {k: v.double() for k, v in mixing.items()}
            found = supernet.train(training)(images, mixing)
            torch.testing.assert_close(network(images), found, rtol=0, atol=1e-11)


def test_codes_that_open_one_gate_share_its_weights():
    """A row half 01 and half 11 has the whole convolution and half the identity."""
    supernet = SPACE.supernet((1, 8, 8), 3).double()
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    halves = torch.tensor([[0, 0.5, 0, 0.5]], dtype=torch.float64).repeat(EDGES, 1)
    conv, both = (supernet.double()(images, {"cell": F.one_hot(torch.tensor(EDGES * [c]), 4).double()}) for c in (1, 3))
    found = supernet(images, {"cell": halves})
    assert not torch.allclose(conv, both)
    assert not torch.allclose(found, conv)
    also = torch.tensor([[0, 0.75, 0.25, 0.25]], dtype=torch.float64).repeat(EDGES, 1)
    torch.testing.assert_close(supernet(images, {"cell": also}), found, rtol=0, atol=1e-12)


def test_a_path_leaves_closed_gates_alone():
    supernet = SPACE.supernet((1, 8, 8), 3)
    path = SinglePath(SPACE.path(gate_codes.write([["10"] * EDGES])))
    F.cross_entropy(supernet(torch.rand(4, 1, 8, 8), path), torch.tensor([0, 1, 2, 0])).backward()
    convolutions = [one for name, one in supernet.named_parameters() if ".separable." in name]
    assert convolutions
    assert all(one.grad is None or not one.grad.any() for one in convolutions)
    assert supernet.stem.layers[0].weight.grad.any()


@BOTH
def test_options_and_tables(space):
    assert isinstance(space, SearchSpace)
    assert isinstance(space, Resizable)
    supernet = space.supernet((1, 8, 8), 3)
    names = ["cell_0", "cell_1"] if space.cell_free else ["cell"]
    assert {name: tuple(rows.shape) for name, rows in supernet.alpha.items()} == dict.fromkeys(names, (EDGES, 4))
    assert space.candidates == dict.fromkeys(names, ("none", "sep_conv_3x3", "skip_connect", "res_sep_conv_3x3"))
    assert space.decisions == len(names) * EDGES * (4,)
    read = gate_codes.read(space.decide([3] * EDGES + [1] * EDGES * (len(names) - 1)))
    assert [set(codes) for codes in read] == [{"11"}, {"01"}][: len(names)]


@pytest.mark.slow
def test_a_cell_free_space_keeps_the_contract():
    check_search_space(FREE, shapes=((1, 8, 8),), auxiliary=False, methods=("ibp",))


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_hold_at_sampled_images(method):
    images, labels, threat = torch.rand(3, 1, 5, 4), torch.arange(3), ThreatModel("linf", 0.02)
    supernet = SPACE.supernet((1, 5, 4), 3)
    with torch.no_grad():
        supernet.alpha["cell"].normal_(std=2)
    for network in (supernet, SPACE.network(SPACE.genotype(supernet), (1, 5, 4), 3)):
        network(images)
        network.eval()
        with torch.no_grad():
            lower = margins(network, images, labels, threat, method=method)
            for _ in range(10):
                moved = threat.project(images + 0.02 * torch.randn_like(images).sign(), images)
                logits = network(moved)
                others = logits[~F.one_hot(labels, 3).bool()].view(3, 2)
                assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-5).all()


@pytest.mark.parametrize(
    ("genotype", "said"),
    [
        ({}, "found nothing; codes: .* 14 a cell, would do"),
        ({"normal": []}, "found normal; codes"),
        ({"codes": []}, r"codes is \[\]; a list of cells would do"),
        ({"codes": [["11"] * 13]}, r"codes\[0\] has 13 codes; one an edge would do, 14 for a cell of 4 nodes"),
        ({"codes": [["11"] * 9]}, r"codes\[0\] has 9 codes; 14, of 4 nodes, would do"),
        ({"codes": [["11"] * 13 + [11]]}, r"codes\[0\]\[13\] is 11; '00', .* with quotation marks"),
        ({"codes": [["11"] * 14, "11"]}, r"codes\[1\] is '11'; a list of codes"),
        ({"codes": 200 * [["11"] * 14]}, "codes has 200 cells; at most 128 would do"),
    ],
)
def test_genotypes_that_are_refused(genotype, said):
    with pytest.raises(InputError, match=said):
        SPACE.network(genotype, (1, 8, 8), 3)


def test_a_path_of_another_supernet_and_an_auxiliary_head_are_refused():
    one = SPACE.sample(torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="codes has 1 cells; this supernet has a code of its own for each of 2 cells"):
        FREE.path(one)
    with pytest.raises(InputError, match="no auxiliary head"):
        SPACE.network(one, (1, 8, 8), 3, auxiliary=True)
    with pytest.raises(TypeError, match="cell_free"):
        RobNet(cell_free="yes")
