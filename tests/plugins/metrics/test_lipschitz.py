"""The Lipschitz bound is above what the network does, and equal to it where that is known."""

import math

import pytest
import torch
from torch import nn

from robustnas.errors import UnsupportedOpError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.threat import ORDER, ThreatModel
from robustnas_plugins.metrics.lipschitz import Lipschitz
from robustnas_plugins.metrics.lipschitz_pass import constant, convolution_norms
from support.every_space import EVERY_SPACE, small_networks


@pytest.mark.parametrize(("name", "shape"), EVERY_SPACE)
def test_no_pair_of_images_and_no_jacobian_is_above_the_bound(name, shape):
    for net in small_networks(name, shape):
        images, others = torch.rand(2, 6, *shape).unbind()
        others[3:] = images[3:] + 1e-3 * (others[3:] - 0.5)
        with scratch_statistics(net), torch.no_grad():
            net(images)
            with frozen_statistics(net):
                moved, apart = net(images) - net(others), (images - others).flatten(1)
                rows = torch.autograd.functional.jacobian(net, images[:1]) if name == "nas-bench-201" else None
                for norm, order in ORDER.items():
                    found = constant(net, images[:1], norm)
                    sizes = [torch.linalg.vector_norm(one, ord=order, dim=1) for one in (moved, apart)]
                    assert (sizes[0] <= found * sizes[1]).all()
                    if rows is not None:
                        assert torch.linalg.matrix_norm(rows.reshape(3, -1), ord=order) <= found
                    score = Lipschitz().score(net, images, torch.zeros(6).long(), ThreatModel(norm, 0.1))
                    torch.testing.assert_close(score, -found.log().float().expand(6))


@pytest.mark.parametrize("norm", ORDER)
def test_alpha_has_a_gradient_on_every_edge(norm):
    net = next(small_networks("darts", (1, 8, 8))).eval()
    found = constant(net, torch.rand(1, 1, 8, 8), norm).log()
    gradients = torch.autograd.grad(found, list(net.alpha.values()), allow_unused=True)
    used = [one for one in gradients if one is not None]  # of the kind of cell that there is
    assert used
    assert all((one.abs().sum(dim=1) > 0).all() for one in used)


@pytest.mark.parametrize("norm", ORDER)
def test_a_linear_network_has_its_operator_norm(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3, 4)).double()
    matrix = net[2].weight @ net[0].weight.flatten(1)
    alone = nn.Sequential(nn.Flatten(), net[2])
    exact = torch.linalg.matrix_norm(net[2].weight, ord=ORDER[norm])
    torch.testing.assert_close(constant(alone, torch.rand(1, 3, 1, 1).double(), norm), exact)
    found = constant(net, torch.rand(1, 2, 1, 1).double(), norm)
    first = torch.linalg.matrix_norm(net[0].weight.flatten(1), ord=ORDER[norm])
    torch.testing.assert_close(found, exact * first)
    assert found >= torch.linalg.matrix_norm(matrix, ord=ORDER[norm])


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(
    ("groups", "kernel", "stride", "dilation"), [(1, 3, 1, 1), (1, 3, 2, 1), (4, 5, 1, 2), (1, 3, 2, 2)]
)
def test_convolutions_are_bounded_by_little_more_than_their_matrix(norm, groups, kernel, stride, dilation):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False).double()
    eye = torch.eye(4 * 81, dtype=torch.float64).view(-1, 4, 9, 9)
    exact = torch.linalg.matrix_norm(layer(eye).flatten(1).mT, ord=ORDER[norm]).detach()
    weights = layer.weight.view(groups, 4 // groups, *layer.weight.shape[1:])
    found = convolution_norms(weights, (stride, stride), norm, (dilation, dilation)).amax().detach()
    assert exact * (1 - 1e-9) <= found <= 4 * exact


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(2),
    ],
    ids=str,
)
def test_poolings_are_bounded(layer, norm):
    found = constant(layer, torch.rand(1, 2, 5, 5), norm)
    spikes = torch.eye(25).view(-1, 1, 5, 5).expand(-1, 2, -1, -1)  # a pixel alone, each in turn
    shown = torch.cat([spikes, torch.ones(1, 2, 5, 5), torch.rand(8, 2, 5, 5)])
    sizes = [torch.linalg.vector_norm(one.flatten(1), ord=ORDER[norm], dim=1) for one in (layer(shown), shown)]
    ratios = sizes[0] / sizes[1]
    assert (ratios <= found * (1 + 1e-6)).all()
    assert ratios.max() >= 0.4 * found


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "'softmax' has no rule"),
        (nn.BatchNorm2d(2), "statistics of its batch"),
        (nn.Dropout(), "draws at random"),
    ],
    ids=["softmax", "batch norm", "dropout"],
)
def test_what_has_no_rule_is_refused_by_name(net, message):
    with pytest.raises(UnsupportedOpError, match=message):
        constant(net, torch.rand(1, 2, 4, 4), "l2")


def test_products_of_features_are_refused():
    class Squared(nn.Module):
        def forward(self, x):
            return (x * x).flatten(1)

    with pytest.raises(UnsupportedOpError, match="product of two features"):
        constant(Squared(), torch.rand(1, 2, 4, 4), "linf")


def test_a_network_that_is_constant_has_a_finite_score():
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        net[1].weight.zero_()
    score = Lipschitz().score(net, torch.rand(2, 2, 4, 4), torch.zeros(2).long(), ThreatModel("l2", 0.5))
    assert score.isfinite().all()
    assert score[0] > 700 > -math.log(1e-30)
