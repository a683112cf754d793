"""Partial channels: what a cell's operations act on, what passes by, and how the two are put together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.bounds import margins
from robustnas.errors import InputError
from robustnas.nn.cells import ReluConvNorm, SharedCell
from robustnas.nn.cells.partial_channels import acting, parted, passed_by, shuffled
from robustnas.threat import ThreatModel

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def test_position_i_of_group_g_becomes_channel_i_times_k_plus_g():
    joined = torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 3, 2)
    for k in (1, 2, 3, 4, 6, 12):
        mixed = shuffled(joined.chunk(k, dim=1))
        size = 12 // k
        for g in range(k):
            for i in range(size):
                assert (mixed[:, i * k + g] == g * size + i).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shuffling_keeps_the_layout(layout):
    x = torch.rand(2, 8, 3, 5).contiguous(memory_format=layout)
    seen, others = parted(x, 4)
    assert torch.equal(torch.cat([seen, others], dim=1), x)
    mixed = shuffled([seen.contiguous(memory_format=layout), *others.chunk(3, dim=1)])
    assert mixed.is_contiguous(memory_format=layout)
    assert torch.equal(mixed, F.channel_shuffle(x, 4))


@pytest.mark.parametrize("size", [(1, 1), (7, 4), (8, 8), (5, 9)])
def test_what_passes_by_halves_upwards(size):
    others = torch.rand(2, 6, *size)
    halved = passed_by(others, 2)
    assert halved.shape[-2:] == tuple((side + 1) // 2 for side in size)
    assert halved[0, 0, -1, -1] == others[0, 0, 2 * ((size[0] - 1) // 2) :, 2 * ((size[1] - 1) // 2) :].max()
    assert passed_by(others, 1) is others


def test_channels_that_are_no_equal_parts_are_refused():
    assert acting(12, 3) == 4
    for partial in (5, 0, -1):
        with pytest.raises(InputError, match=f"one in {partial} of 12 channels; a number that divides 12"):
            acting(12, partial)
    with pytest.raises(InputError, match="one in 3 of 8 channels"):
        SharedCell({"conv": lambda channels, stride: ReluConvNorm(channels, channels, 3, stride)}, (8, 8), 8, partial=3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parting_and_shuffling_cost_nothing(layout):
    """Between two linear layers they are a permutation: the bounds are those of the permuted weights."""

    class Shuffle(nn.Module):
        def forward(self, x):
            seen, others = parted(x.contiguous(memory_format=layout), 4)
            return shuffled([seen * 1.0, *passed_by(others, 1).chunk(3, dim=1)])

    conv, linear = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8 * 12, 3)
    order = F.channel_shuffle(torch.arange(8.0).view(1, 8, 1, 1), 4).flatten().long()
    permuted = nn.Conv2d(2, 8, 3, padding=1)
    permuted.load_state_dict({"weight": conv.weight[order], "bias": conv.bias[order]})
    images, labels = torch.rand(3, 2, 3, 4), torch.arange(3)
    for method in ("ibp", "crown-ibp", "crown"):
        for norm in ("linf", "l2"):
            found, expected = (
                margins(net.eval(), images, labels, ThreatModel(norm, 0.05), method)
                for net in (
                    nn.Sequential(conv, Shuffle(), nn.Flatten(), linear),
                    nn.Sequential(permuted, nn.Flatten(), linear),
                )
            )
            torch.testing.assert_close(found, expected)
