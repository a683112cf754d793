"""Batch norm statistics of passes that must leave none behind."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.nn.batch_statistics import frozen_statistics, noted_statistics, scratch_statistics
from support.networks import NORMED_IMAGES, NORMS, normed


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
def test_an_eval_pass_repeats_the_training_pass_before_it(options):
    net = normed(**options)
    with scratch_statistics(net):
        trained = net(NORMED_IMAGES)
        with frozen_statistics(net):
            torch.testing.assert_close(net(NORMED_IMAGES), trained, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(net(NORMED_IMAGES[:1]), trained[:1], rtol=1e-12, atol=1e-12)


def test_without_the_correction_the_two_differ():
    net = normed()
    with scratch_statistics(net, biased=False):
        trained = net(NORMED_IMAGES)
        with frozen_statistics(net):
            assert (net(NORMED_IMAGES) - trained).abs().max() > 1e-4


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
def test_everything_is_put_back(options):
    net = normed(**options)
    net(NORMED_IMAGES)
    net[0][1].eval()  # one module in another mode than the rest
    before = {name: (id(buffer), buffer.clone()) for name, buffer in net.named_buffers()}
    layers = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    settings = [(layer.momentum, layer.track_running_stats, layer.training) for layer in layers]
    with pytest.raises(KeyboardInterrupt), scratch_statistics(net), frozen_statistics(net):
        raise KeyboardInterrupt
    with scratch_statistics(net):
        net.train()
        net(NORMED_IMAGES)
        net[0][1].eval()
    after = dict(net.named_buffers())
    assert set(after) == set(before)
    assert len(before) >= 3
    for name, (identity, value) in before.items():
        assert id(after[name]) == identity
        assert torch.equal(after[name], value)
    assert [(layer.momentum, layer.track_running_stats, layer.training) for layer in layers] == settings
    assert not any(layer._forward_hooks for layer in layers)


def test_a_graph_built_inside_can_be_differentiated_outside():
    net = normed()
    with scratch_statistics(net):
        loss = net(NORMED_IMAGES).square().sum()
        with frozen_statistics(net):
            loss = loss + net(NORMED_IMAGES).sin().sum()
        net(NORMED_IMAGES + 0.1)
    net(NORMED_IMAGES)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_scratch_statistics_nest():
    net = normed()
    with scratch_statistics(net):
        expected = net(NORMED_IMAGES)
        with scratch_statistics(net):
            net(NORMED_IMAGES * 0.5)
        with frozen_statistics(net):
            torch.testing.assert_close(net(NORMED_IMAGES), expected)


def test_a_poisoned_running_statistic_does_not_reach_the_scratch_ones():
    net = normed()
    net[0][1].running_mean.fill_(torch.nan)
    with scratch_statistics(net):
        net(NORMED_IMAGES)
        with frozen_statistics(net):
            assert net(NORMED_IMAGES).isfinite().all()


@pytest.mark.parametrize("options", NORMS.values(), ids=NORMS)
def test_every_kind_of_batch_norm_lends_what_it_normalised_with(options):
    net, twin = normed(**options), normed(**options)
    net[0][1].eval()  # one layer that sees no batch
    twin[0][1].eval()
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    settings = [(layer.momentum, layer.track_running_stats, layer.training, set(layer._buffers)) for layer in layers]
    with noted_statistics(net) as noted:
        with noted.watched():
            trained = net(NORMED_IMAGES)
        with noted.lent(), torch.no_grad():
            torch.testing.assert_close(net(NORMED_IMAGES), trained, rtol=1e-12, atol=1e-12)
        net(NORMED_IMAGES + 1)  # nobody watches
        assert not noted.moments
    twin(NORMED_IMAGES)
    twin(NORMED_IMAGES + 1)
    assert [(it.momentum, it.track_running_stats, it.training, set(it._buffers)) for it in layers] == settings
    assert len(layers) == 2
    assert net.state_dict().keys() == twin.state_dict().keys()
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())
