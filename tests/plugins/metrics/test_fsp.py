"""The FSP distance: the formula written out, which cells count, and networks without cells."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.errors import RunError
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.fsp import Fsp
from robustnas_plugins.metrics.worst_images import worst_images
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import batch

THREAT = ThreatModel("linf", "8/255")


class Cells(nn.Module):
    """Two blocks, the second of which halves the map."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.ModuleList([nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1, stride=2)])
        self.head = nn.Linear(5, 3)

    def maps(self, images):
        first = self.cells[0](images)
        return images, first, self.cells[1](first.relu())

    def forward(self, images):
        return self.head(self.maps(images)[-1].mean(dim=(2, 3)))


def matrix(given, made):
    """The sum written out."""
    given = F.adaptive_avg_pool2d(given, made.shape[2:])
    total = torch.zeros(len(given), given.shape[1], made.shape[1])
    for row in range(made.shape[2]):
        for column in range(made.shape[3]):
            total += given[:, :, None, row, column] * made[:, None, :, row, column]
    return total / made.shape[2] / made.shape[3]


def test_it_is_the_formula_written_out():
    net = Cells().eval()
    images, labels = batch(6)
    worst = worst_images(net, images, labels, THREAT, 7, None)
    distances = []
    for place in (0, 1):
        clean, moved = (net.maps(one) for one in (images, worst))
        given = (0, 1)[place]
        a, b = (matrix(one[given].relu() if place else one[given], one[place + 1]) for one in (clean, moved))
        distances.append(((b - a).square().sum((1, 2)) / a.square().sum((1, 2))).log())
    torch.testing.assert_close(Fsp(deep=1.0).score(net, images, labels, THREAT), -(distances[0] + distances[1]) / 2)
    torch.testing.assert_close(Fsp().score(net, images, labels, THREAT), -distances[1])


@pytest.mark.parametrize("discrete", [False, True])
def test_the_cells_of_a_space_count_and_have_gradients(discrete):
    torch.manual_seed(0)
    space = Darts(cells=2, channels=4, network_cells=2, network_channels=4)
    net = space.network(space.published["DARTS_V2"], (1, 8, 8), 3) if discrete else space.supernet((1, 8, 8), 3)
    net.eval()
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    score = Fsp(steps=2).score(net, images, labels, THREAT)
    assert score.shape == (4,)
    inputs = list(net.parameters()) if discrete else list(net.alpha.values())
    slopes = torch.autograd.grad(score.sum(), inputs, allow_unused=True)
    assert any(slope is not None and bool(slope.abs().sum() > 0) for slope in slopes)


def test_a_network_without_maps_is_told():
    with pytest.raises(RunError, match="the network has none"):
        Fsp().score(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), *batch(2), THREAT)
