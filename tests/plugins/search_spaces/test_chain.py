"""The chain: supernet against network, widths as masks, bounds, one path alone, what is refused."""

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.bounds import margins
from robustnas.contracts import Resizable, SearchSpace
from robustnas.errors import InputError
from robustnas.nn.cells import SinglePath
from robustnas.threat import ThreatModel
from robustnas.train.capacity import count
from robustnas_plugins.search_spaces.chain import TABLES, Chain, read
from robustnas_plugins.search_spaces.chain_networks import KERNELS, POOLS, WIDTHS, chain_network
from robustnas_plugins.search_spaces.masks import masks, weighed, weights

SPACE = Chain(blocks=3, channels=2, network_channels=2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def genotype_of(*blocks):
    return {"blocks": [dict(zip(TABLES, block, strict=True)) for block in blocks]}


def inherited(supernet, genotype):
    """The discrete network in search form with the first channels of the supernet's own weights."""
    blocks = read(genotype)
    network = chain_network(blocks, 1, 3, 2, affine=False)
    state = supernet.state_dict()
    convs = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network if isinstance(layer, nn.BatchNorm2d)]
    for number, (block, conv, norm) in enumerate(zip(blocks, convs, norms, strict=True)):
        place, (out, inner) = KERNELS.index(block.kernel), conv.weight.shape[:2]
        conv.weight.data = state[f"cells.{number}.convs.{place}.weight"][:out, :inner].clone()
        for name in ("running_mean", "running_var"):
            getattr(norm, name).copy_(state[f"cells.{number}.norms.{place}.{name}"][:out])
    network[-1].weight.data = state["classifier.weight"][:, : network[-1].in_features].clone()
    network[-1].bias.data = state["classifier.bias"].clone()
    return network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 1)])
def test_one_hot_mixing_is_the_discrete_network_in_search_form(training, size):
    supernet, images = SPACE.supernet((1, *size), 3), torch.rand(5, 1, *size)
    supernet(images)  # running statistics of their own
    generator = torch.Generator().manual_seed(1)
    for genotype in (*(SPACE.sample(generator) for _ in range(6)), genotype_of(*[(5, 4, "max_pool_3x3")] * 3)):
        network = inherited(supernet, genotype).train(training)
        path = SPACE.path(genotype)
        for mixing in (path, SinglePath(path)):
            found = supernet.train(training)(images, mixing)
            torch.testing.assert_close(network(images), found, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_widths_weighs_channels():
    assert masks([1, 2, 4]).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    found = weighed(torch.ones(1, 4, 1, 1), weights(torch.tensor([0.5, 0.25, 0.25]), masks([1, 2, 4])))
    assert found.flatten().tolist() == [1.0, 0.5, 0.25, 0.25]


def test_a_path_moves_its_own_kernels_alone():
    supernet = SPACE.supernet((1, 8, 8), 3)
    path = SinglePath(SPACE.path(genotype_of((1, 4, "none"), (3, 1, "none"), (5, 4, "none"))))
    F.cross_entropy(supernet(torch.rand(4, 1, 8, 8), path), torch.tensor([0, 1, 2, 0])).backward()
    moved = [[conv.weight.grad is not None for conv in block.convs] for block in supernet.cells]
    assert moved == [[True, False, False], [False, True, False], [False, False, True]]


def test_decisions_make_every_genotype_once_and_draws_are_uniform():
    space = Chain(blocks=1)
    genotypes = [space.decide(options) for options in product(*map(range, space.decisions))]
    expected = [genotype_of(block) for block in product(KERNELS, WIDTHS, POOLS)]
    assert genotypes == expected
    generator = torch.Generator().manual_seed(0)
    drawn = [expected.index(space.sample(generator)) for _ in range(27 * 40)]
    assert max(abs(drawn.count(one) - 40) for one in range(27)) < 4.5 * 40**0.5


def test_sizes():
    assert isinstance(SPACE, SearchSpace)
    assert isinstance(SPACE, Resizable)
    genotype = genotype_of((3, 2, "none"), (5, 1, "avg_pool_3x3"))
    by_hand = 9 * 1 * 8 + 2 * 8 + 25 * 8 * 4 + 2 * 4 + 4 * 3 + 3
    assert count(Chain(network_channels=4).network(genotype, (1, 8, 8), 3)) == by_hand
    assert SPACE.sized(5, 3).size == (5, 3)
    with pytest.raises(ValueError, match="genotypes of this chain have 3 blocks, 4 are asked for"):
        SPACE.sized(5, 4)
    widths = [count(SPACE.network(genotype_of((3, width, "none")), (1, 8, 8), 3)) for width in WIDTHS]
    assert all(narrow < wide for narrow, wide in pairwise(widths))


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_bounds_hold_at_sampled_images(method):
    images, labels, threat = torch.rand(3, 1, 7, 5), torch.arange(3), ThreatModel("linf", 0.02)
    supernet = SPACE.supernet((1, 7, 5), 3)
    with torch.no_grad():
        for table in supernet.alpha.values():
            table.normal_()
    generator = torch.Generator().manual_seed(2)
    for network in (supernet, *(SPACE.network(SPACE.sample(generator), (1, 7, 5), 3) for _ in range(4))):
        network(images)
        network.eval()
        with torch.no_grad():
            lower = margins(network, images, labels, threat, method=method)
            for _ in range(20):
                logits = network(threat.project(images + 0.02 * torch.randn_like(images).sign(), images))
                others = logits[~F.one_hot(labels, 3).bool()].view(3, 2)
                assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-5).all()


@pytest.mark.parametrize(
    ("genotype", "said"),
    [
        ({}, r"found nothing; blocks, a list of 1 to 16 such as \{'kernel': 3, 'width': 2, 'pool': 'none'\}, would do"),
        ({"normal": 1}, "found normal; blocks"),
        ({"blocks": []}, "found blocks; blocks, a list"),
        ({"blocks": [[3, 2]]}, r"blocks\[0\] is \[3, 2\]; \{'kernel'"),
        ({"blocks": [{"kernel": 3}]}, r"blocks\[0\] is"),
        (genotype_of((7, 2, "none")), r"blocks\[0\] has the kernel 7; one of 1, 3, 5 would do"),
        (genotype_of((3, 2.0, "none")), "the width 2.0; one of 1, 2, 4 would do"),
        (genotype_of((3, True, "none")), "the width True"),
        (genotype_of((3, 2, "pool")), "the pool 'pool'; one of none, avg_pool_3x3, max_pool_3x3"),
    ],
)
def test_genotypes_that_are_refused(genotype, said):
    with pytest.raises(InputError, match=said):
        SPACE.network(genotype, (1, 8, 8), 3)


def test_a_path_of_another_chain_and_an_auxiliary_head_are_refused():
    one = genotype_of((3, 2, "none"))
    with pytest.raises(InputError, match="blocks are 1; this supernet has 3"):
        SPACE.path(one)
    with pytest.raises(InputError, match="no auxiliary head"):
        SPACE.network(one, (1, 8, 8), 3, auxiliary=True)
    with pytest.raises(ValueError, match="blocks is 17; at most 16 would do"):
        Chain(blocks=17)
