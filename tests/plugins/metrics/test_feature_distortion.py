"""Feature distortion: which features, how far, and what a bound costs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.errors import RunError
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.feature_distortion import FeatureDistortion
from robustnas_plugins.metrics.worst_images import worst_images
from support.networks import TinySupernet, batch, convolutional

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5), ThreatModel("l1", 6)]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_it_is_how_far_the_classifiers_input_moves(threat):
    net = convolutional((2, 6, 6), 3)
    images, labels = batch(6)
    worst = worst_images(net, images, labels, threat, 7, None)
    clean, moved = net[:-1](images), net[:-1](worst)
    expected = -(moved - clean).norm(dim=1) / clean.norm(dim=1)
    found = FeatureDistortion().score(net, images, labels, threat)
    torch.testing.assert_close(found, expected)
    assert found.max() < 0
    bound = -float(expected.detach().median())
    bounded = FeatureDistortion(bound=bound).score(net, images, labels, threat)
    torch.testing.assert_close(bounded, (expected + bound).clamp_max(0))
    assert (bounded == 0).any()
    assert (bounded < 0).any()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_its_images_are_admissible_raise_the_loss_and_draw_nothing(threat):
    net = convolutional((2, 6, 6), 3)
    images, labels = batch(6)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    worst = worst_images(net, images, labels, threat, 5, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert threat.distance(worst, images).max() <= threat.epsilon * (1 + 1e-5)
    with torch.no_grad():
        rise = F.cross_entropy(net(worst), labels, reduction="none") - F.cross_entropy(
            net(images), labels, reduction="none"
        )
    assert rise.min() > 0


def test_scaling_features_is_no_gain_and_alpha_has_a_gradient():
    torch.manual_seed(0)
    net = TinySupernet()
    with torch.no_grad():
        net(batch(8, 9)[0])
    net.eval()
    images, labels = batch(6)
    score = FeatureDistortion(steps=2).score(net, images, labels, THREATS[0])
    (gradient,) = torch.autograd.grad(score.sum(), net.table)
    assert gradient.abs().max() > 0

    class Shrunk(nn.Module):
        def forward(self, x):
            features = 0.01 * self.body(x)
            return self.head(features)

    own = convolutional((2, 6, 6), 3)
    shrunk = Shrunk()
    shrunk.body, shrunk.head = own[:-1], nn.Linear(own[-1].in_features, 3)
    with torch.no_grad():
        shrunk.head.weight.copy_(100 * own[-1].weight)
        shrunk.head.bias.copy_(own[-1].bias)
    scores = [FeatureDistortion().score(each.eval(), images, labels, THREATS[1]).detach() for each in (own, shrunk)]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-5)


def test_a_network_without_a_linear_layer_is_refused():
    net = nn.Sequential(nn.Conv2d(2, 3, 6), nn.Flatten())
    with pytest.raises(RunError, match="the network has none"):
        FeatureDistortion().score(net, *batch(2), THREATS[0])


@pytest.mark.parametrize(("options", "message"), [({"bound": -1}, "bound"), ({"steps": 0}, "steps")])
def test_options_that_cannot_be_honoured_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistortion(**options)
