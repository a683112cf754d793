"""Scores of untrained networks, each against a computation of its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.attack.pgd import step
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelNetwork
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.croze import CRoZe
from robustnas_plugins.metrics.jacov import JacobianCovariance
from robustnas_plugins.metrics.layers import layer_of, outputs_noted, weights_of
from robustnas_plugins.metrics.robust_ntk import RobustNTK
from robustnas_plugins.metrics.synflow import SynFlow
from robustnas_plugins.metrics.worst_images import worst_images
from support.every_space import EVERY_SPACE, small_networks
from support.networks import TinySupernet, batch, convolutional

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5), ThreatModel("l1", 6)]


def supernet():
    torch.manual_seed(0)
    net = TinySupernet()
    with torch.no_grad():
        net(batch(8, 9)[0])
    return net.eval()


@pytest.mark.parametrize(("name", "shape"), EVERY_SPACE)
def test_every_score_is_finite_for_networks_of_every_space_and_leaves_them_as_they_were(name, shape):
    for wrapped in small_networks(name, shape):
        images, labels = torch.rand(3, *shape), torch.arange(3)
        before = {key: one.clone() for key, one in wrapped.state_dict().items()}
        wrapped.train()
        with scratch_statistics(wrapped), torch.no_grad():
            wrapped(images)
            with frozen_statistics(wrapped):
                for metric in (CRoZe(), SynFlow(), JacobianCovariance(), RobustNTK(steps=1)):
                    score = metric.score(wrapped, images, labels, THREATS[shape[0] % 2])
                    assert score.shape == (3,)
                    assert score.isfinite().all()
                    assert (score == score[0]).all()
                    assert not score.requires_grad
        assert all(torch.equal(one, before[key]) for key, one in wrapped.state_dict().items())


def test_synflow_of_a_linear_network_counts_its_paths_once_a_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    one, other = net[1].weight.detach().abs().double(), net[3].weight.detach().abs().double()
    biases = net[1].bias, net[3].bias
    with torch.no_grad():
        for bias in biases:
            bias.zero_()
    paths = (other @ one).sum()
    found = SynFlow().score(net, torch.rand(5, 1, 2, 2), torch.zeros(5).long(), THREATS[0])
    torch.testing.assert_close(found, (2 * paths).log().float().expand(5))


def test_synflow_sees_neither_batch_norm_nor_the_normalisation_nor_signs():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    bare = nn.Sequential(*(layer for layer in inside if not isinstance(layer, nn.BatchNorm2d)))
    images, labels = torch.rand(2, 1, 6, 6), torch.zeros(2).long()
    expected = SynFlow().score(bare.eval(), images, labels, THREATS[0])
    with torch.no_grad():
        inside[1].running_mean.fill_(3.0)
        inside[1].running_var.fill_(9.0)
        inside[1].weight.fill_(0.1)
        inside[1].bias.fill_(0.3)
    net = PixelNetwork(inside, (0.9,), (0.1,)).eval()
    torch.testing.assert_close(SynFlow().score(net, images, labels, THREATS[0]), expected)
    with torch.no_grad():
        inside[0].weight.neg_()
    torch.testing.assert_close(SynFlow().score(net, images, labels, THREATS[0]), expected)


def test_synflow_of_a_network_without_paths_is_finite():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[2].weight.zero_()
    assert SynFlow().score(net, torch.rand(2, 1, 2, 2), torch.zeros(2).long(), THREATS[0]).isfinite().all()


def test_jacov_is_that_of_numpys_correlations():
    net = supernet()
    images, labels = batch(6)
    rows = torch.stack([torch.func.jacrev(lambda x: net(x[None]).sum())(image) for image in images]).flatten(1)
    values = np.linalg.eigvalsh(np.corrcoef(rows.detach().double().numpy())) + 1e-5
    expected = -np.sum(np.log(values) + 1 / values)
    found = JacobianCovariance().score(net, images, labels, THREATS[0])
    np.testing.assert_allclose(found.numpy(), np.full(6, expected), rtol=1e-4)


def test_jacov_is_largest_where_rows_are_uncorrelated_and_finite_where_they_are_constant():
    class Rows(nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.weights = nn.Parameter(weights)

        def forward(self, x):
            return (x.flatten(1) * self.weights).sum(dim=1, keepdim=True)

    images, labels = torch.rand(2, 1, 2, 2), torch.zeros(2).long()
    apart = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]])
    found = JacobianCovariance().score(Rows(apart), images, labels, THREATS[0])
    torch.testing.assert_close(found, torch.full((2,), -2.0), rtol=1e-4, atol=0)
    same = JacobianCovariance().score(Rows(apart[:1].expand(2, -1)), images, labels, THREATS[0])
    assert same.isfinite().all()
    assert same[0] < -1e4
    assert JacobianCovariance().score(Rows(torch.ones(2, 4)), images, labels, THREATS[0]).isfinite().all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_kernel_is_that_of_per_sample_jacobians(threat, beta):
    net = convolutional(classes=3)
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    worst = worst_images(net, images, labels, threat, 7, None)
    weights = {name: one.detach() for name, one in net.named_parameters()}

    def total(own, image):
        return torch.func.functional_call(net, own, (image[None],)).sum()

    def rows(shown):
        found = torch.func.vmap(torch.func.grad(total), (None, 0))(weights, shown)
        return torch.cat([one.flatten(1) for one in found.values()], dim=1).double()

    clean, adversarial = rows(images), rows(worst)
    cross = clean @ adversarial.mT
    kernels = (clean @ clean.mT, cross + cross.mT, adversarial @ adversarial.mT)
    expected = (1 - beta) ** 2 * kernels[0] + beta * (1 - beta) * kernels[1] + beta**2 * kernels[2]
    metric = RobustNTK(beta=beta)
    torch.testing.assert_close(metric.kernel(net, images, labels, threat), expected, rtol=1e-5, atol=1e-5)
    values = torch.linalg.eigvalsh(expected)
    found = metric.score(net, images, labels, threat)
    torch.testing.assert_close(found, values[0].log().float().expand(4), rtol=1e-4, atol=1e-4)
    found = RobustNTK(beta=beta, figure="condition").score(net, images, labels, threat)
    torch.testing.assert_close(found, (values[0] / values[-1]).log().float().expand(4), rtol=1e-4, atol=1e-4)


def test_the_kernel_has_no_gradients_in_alpha_and_a_singular_one_has_a_finite_score():
    net = supernet()
    images, labels = batch(4)
    kernel = RobustNTK(beta=0).kernel(net, images, labels, THREATS[0])
    gradients = [
        torch.autograd.grad(net(image).sum(), [one for one in net.parameters() if one is not net.table])
        for image in images.split(1)
    ]
    rows = torch.stack([torch.cat([one.flatten() for one in row]) for row in gradients])
    torch.testing.assert_close(kernel, (rows @ rows.mT).double(), rtol=1e-5, atol=1e-6)
    twice = images[:1].repeat(4, 1, 1, 1)
    assert RobustNTK().score(net, twice, labels, THREATS[0]).isfinite().all()


def by_hand(net, images, labels, threat, scale, rate):
    """CRoZe of a network of two linear layers, written out."""
    weights = [net[1].weight.detach().double(), net[3].weight.detach().double()]

    def slopes(own, shown):
        inputs = [one.clone().requires_grad_() for one in (*own, shown)]
        hidden = F.linear(inputs[2].flatten(1), inputs[0], net[1].bias.double())
        logits = F.linear(hidden.relu(), inputs[1], net[3].bias.double())
        loss = F.cross_entropy(logits, labels)
        return torch.autograd.grad(loss, inputs), (hidden.detach(), logits.detach())

    def cosine(one, other):
        return (one * other).sum() / one.norm() / other.norm()

    (first, second, _), features = slopes(weights, images)
    robust = [
        own + scale * own.norm() * slope / slope.norm() for own, slope in zip(weights, (first, second), strict=True)
    ]
    (*_, uphill), _ = slopes(robust, images)
    worst = threat.project(step(images, uphill, threat.epsilon, threat.norm), images)
    found, moved = slopes(robust, worst)
    total = 0.0
    for place, slope in enumerate((first, second)):
        z = 1 + torch.stack([cosine(*pair) for pair in zip(features[place], moved[place], strict=True)]).mean()
        p = 1 + cosine(weights[place] - rate * slope, robust[place] - rate * found[place])
        total += z * p * cosine(slope, found[place]).abs()
    return total


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_croze_is_the_sum_of_its_products(threat):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    images, labels = batch(6)
    for options in ({}, {"scale": 0.3, "rate": 0.5}):
        metric = CRoZe(**options)
        expected = by_hand(net, images.double(), labels, threat, metric.scale, metric.rate)
        found = metric.score(net, images, labels, threat)
        torch.testing.assert_close(found, expected.float().expand(6), rtol=1e-4, atol=1e-4)
    other = CRoZe(epsilon=0.3).score(net, images, labels, threat)
    expected = by_hand(net, images.double(), labels, ThreatModel(threat.norm, 0.3), 2.0, 0.001)
    torch.testing.assert_close(other, expected.float().expand(6), rtol=1e-4, atol=1e-4)


def test_its_image_goes_uphill(monkeypatch):
    """The published code goes downhill: it subtracts epsilon times the sign of the gradient."""
    net, (images, labels) = convolutional((2, 6, 6), 3), batch(6)
    shown = []
    monkeypatch.setattr(
        "robustnas_plugins.metrics.croze.step",
        lambda *given: shown.append((given, step(*given))) or shown[-1][1],
    )
    CRoZe().score(net, images, labels, THREATS[0])
    ((clean, slope, length, norm), moved), *others = shown
    assert not others
    assert (norm, length) == ("linf", THREATS[0].epsilon)
    assert ((moved - clean) * slope).sum() > 0


def test_a_layer_is_what_computes_with_a_weight_and_supernets_note_the_outputs_of_theirs():
    net = next(small_networks("darts", (1, 8, 8)))
    weights = weights_of(net)
    assert not any("alpha" in name for name in weights)
    layers = {layer_of(net, name) for name in weights}
    assert not any(isinstance(net.get_submodule(path), nn.ParameterList) for path in layers)
    with outputs_noted(net, weights) as noted, torch.no_grad():
        net(torch.rand(4, 1, 8, 8))
    assert set(noted) == layers
    assert all(one.shape[0] == 4 and one.dim() == 2 for one in noted.values())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        (CRoZe, {"scale": 0}, "scale"),
        (CRoZe, {"epsilon": -1}, "epsilon"),
        (CRoZe, {"rate": -1}, "rate"),
        (RobustNTK, {"figure": "largest"}, "figure"),
        (RobustNTK, {"beta": 1.5}, "beta"),
        (RobustNTK, {"steps": 0}, "steps"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(plugin, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        plugin(**options)
