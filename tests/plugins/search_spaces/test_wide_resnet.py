"""Wide residual networks: published sizes to the digit, supernet against network, skipped blocks, what is refused."""

import pytest
import torch
import torch.nn.functional as F

from robustnas.bounds import margins
from robustnas.contracts import Resizable, SearchSpace, enumeration
from robustnas.errors import InputError
from robustnas.nn.cells import SinglePath
from robustnas.nn.recompute import recompute
from robustnas.threat import ThreatModel
from robustnas.train.capacity import count, multiply_adds
from robustnas_plugins.search_spaces.wide_resnet import STAGES, WideResNetSpace, written
from robustnas_plugins.search_spaces.wide_resnet_networks import WideResNet

SPACE = WideResNetSpace(depths=[1, 2, 4], widths=[1, 2, 3], channels=2, network_channels=2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "millions", "blocks"),
    [("WRN-28-10", "36.48", 4), ("WRN-34-10", "46.16", 5), ("WRN-70-16", "266.80", 11)],
)
def test_published_sizes(name, millions, blocks):
    """To the digit by hand: blocks of two convolutions and two norms, a shortcut a stage, a norm, a linear layer."""
    space = WideResNetSpace()
    with torch.device("meta"):
        found = count(space.network(space.published[name], (3, 32, 32), 10))
    width, by_hand, last = int(name[-2:]), 27 * 16, 16
    for out in (16 * width, 32 * width, 64 * width):
        by_hand += last * out + 9 * last * out + 2 * last + 9 * out * out + 2 * out
        by_hand += (blocks - 1) * (2 * 9 * out * out + 4 * out)
        last = out
    by_hand += 2 * last + 10 * last + 10
    assert found == space.references[name].parameters == by_hand
    assert f"{found / 1e6:.2f}" == millions


@pytest.mark.slow
def test_published_multiply_adds():
    space = WideResNetSpace()
    with torch.device("meta"):
        network = space.network(space.published["WRN-28-10"], (3, 32, 32), 10)
    assert multiply_adds(network, (3, 32, 32)) == space.references["WRN-28-10"].multiply_adds == 5_243_328_768


def inherited(supernet, depths, widths):
    """The discrete network in search form with the first channels and blocks of the supernet's own weights."""
    network = WideResNet(depths, widths, 1, 3, 2, affine=False)
    state, deepest, chosen = supernet.state_dict(), supernet.depths[0], {}
    places = [stage * deepest + place for stage, depth in enumerate(depths) for place in range(depth)]
    for name, own in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "cells":
            parts[1] = str(places[int(parts[1])])
        chosen[name] = state[".".join(parts)][tuple(slice(side) for side in own.shape)].clone()
    network.load_state_dict(chosen)
    return network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_one_hot_mixing_is_the_discrete_network_in_search_form(training, size):
    supernet, images = SPACE.supernet((1, *size), 3), torch.rand(5, 1, *size)
    supernet(images)  # running statistics of their own
    generator = torch.Generator().manual_seed(1)
    for genotype in (*(SPACE.sample(generator) for _ in range(4)), written([1, 1, 1], [3, 1, 2])):
        network = inherited(supernet, genotype["depths"], genotype["widths"]).train(training)
        path = SPACE.path(genotype)
        for mixing in (path, SinglePath(path)):
            found = supernet.train(training)(images, mixing)
            torch.testing.assert_close(network(images), found, rtol=1e-4, atol=1e-4)


def test_a_path_skips_the_blocks_that_it_has_not():
    supernet = SPACE.supernet((1, 8, 8), 3)
    path = SinglePath(SPACE.path(written([1, 2, 4], [1, 2, 3])))
    F.cross_entropy(supernet(torch.rand(4, 1, 8, 8), path), torch.tensor([0, 1, 2, 0])).backward()
    moved = [block.conv1.weight.grad is not None for block in supernet.cells]
    assert moved == [True, False, False, False, True, True, False, False, True, True, True, True]
    assert not supernet.cells[0].conv2.weight.grad[:, 2:].any(), "channels beyond the width are not read"


def test_blocks_count_as_much_as_the_depths_that_have_them():
    supernet = SPACE.supernet((1, 8, 8), 3)
    images = torch.rand(4, 1, 8, 8)
    halves = torch.tensor([[0.5, 0.0, 0.5]]).repeat(STAGES, 1)
    widths = torch.tensor([[0.0, 0.0, 1.0]]).repeat(STAGES, 1)
    supernet.eval()
    seen = []
    for block in supernet.cells:
        block.register_forward_pre_hook(lambda block, given: seen.append(given[1]))
    supernet(images, {"depth": halves, "width": widths})
    assert [None if gate is None else gate.item() for gate in seen] == STAGES * [None, 0.5, 0.5, 0.5]


def test_cells_can_be_computed_again():
    images, slopes = torch.rand(4, 1, 8, 8), []
    for again in (False, True):
        torch.manual_seed(0)
        supernet = SPACE.supernet((1, 8, 8), 3)
        if again:
            recompute(supernet, "search.recompute_cells")
        supernet(images).square().sum().backward()
        slopes.append([supernet.alpha["depth"].grad, supernet.alpha["width"].grad, supernet.stem.weight.grad])
    for plain, recomputed in zip(*slopes, strict=True):
        torch.testing.assert_close(plain, recomputed)
        assert plain.any()


def test_what_is_published_is_in_the_space():
    assert list(WideResNetSpace(depths=[4, 5]).published) == list(WideResNetSpace(depths=[4, 5]).references)
    assert list(WideResNetSpace(depths=[4, 5]).published) == ["WRN-28-10", "WRN-34-10"]
    assert SPACE.published == {}


def test_options_and_decisions():
    assert isinstance(SPACE, SearchSpace)
    assert isinstance(SPACE, Resizable)
    assert WideResNetSpace().decisions == (5, 5) * STAGES
    assert SPACE.decide([0, 1, 2, 0, 1, 2]) == written([1, 4, 2], [2, 1, 3])
    small = WideResNetSpace(depths=[1, 2], widths=[1, 3])
    listed = list(enumeration(small)())
    assert len({str(one) for one in listed}) == len(listed) == 2**6
    assert sum(1 for _ in WideResNetSpace().genotypes()) == 15_625
    assert SPACE.sized(5, 3).size == (5, 3)
    with pytest.raises(ValueError, match="have 3 stages, 4 are asked for"):
        SPACE.sized(5, 4)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_hold_at_sampled_images(method):
    space = WideResNetSpace(depths=[1, 2], widths=[1, 2], channels=2, network_channels=2)
    images, labels, threat = torch.rand(3, 1, 7, 5), torch.arange(3), ThreatModel("linf", 0.01)
    supernet = space.supernet((1, 7, 5), 3)
    with torch.no_grad():
        for table in supernet.alpha.values():
            table.normal_()
    for network in (supernet, space.network(space.genotype(supernet), (1, 7, 5), 3)):
        network(images)
        network.eval()
        with torch.no_grad():
            lower = margins(network, images, labels, threat, method=method)
            for _ in range(20):
                logits = network(threat.project(images + 0.01 * torch.randn_like(images).sign(), images))
                others = logits[~F.one_hot(labels, 3).bool()].view(3, 2)
                assert (lower <= logits.gather(1, labels[:, None]) - others + 1e-5).all()


@pytest.mark.parametrize(
    ("genotype", "said"),
    [
        (
            {},
            r"found nothing, and depths None; depths: \[4, 4, 4\] and widths: \[10, 10, 10\] would do",
        ),
        ({"depths": [4, 4, 4]}, "found depths, and widths None"),
        ({"depths": [4, 4], "widths": [1, 1, 1]}, r"and depths \[4, 4\]"),
        ({"depths": [4, 4, 0], "widths": [1, 1, 1]}, "depths has 0; whole numbers from 1 to 32 would do"),
        ({"depths": [4, 4, 4], "widths": [1, True, 1]}, "widths has True"),
        ({"depths": [4, 4, 4], "widths": [1, 2.0, 1]}, "widths has 2.0"),
    ],
)
def test_genotypes_that_are_refused(genotype, said):
    with pytest.raises(InputError, match=said):
        SPACE.network(genotype, (1, 8, 8), 3)


def test_a_path_of_other_options_and_an_auxiliary_head_are_refused():
    with pytest.raises(InputError, match="depths has 3; this supernet has 1, 2, 4"):
        SPACE.path(written([3, 1, 1], [1, 1, 1]))
    with pytest.raises(InputError, match="no auxiliary head"):
        SPACE.network(written([1, 1, 1], [1, 1, 1]), (1, 8, 8), 3, auxiliary=True)


@pytest.mark.parametrize("option", ["depths", "widths"])
@pytest.mark.parametrize("value", [[], [2, 1], [1, 1], [0, 1], [1.0], [True], 3, [1, 65], [*range(1, 10)]])
def test_options_that_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is "):
        WideResNetSpace(**{option: value})
