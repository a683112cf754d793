"""Which batch norm statistics a pass sees, and what it leaves behind.

A search has one rule.  A metric sees the statistics of the images it judges (the current batch), as
constants: so an image's score depends on that image alone, and the score belongs to the network as alpha and
w are now.  The running statistics of a supernet lag behind both, and the ranking of operations by the
Jacobian norm turns over between the two (robust-nas-survey, section 6).  Running statistics move in the inner
step only; every other pass works on scratch ones.

Certified training differs in one point: the statistics are constants for an image, which moves within its ball, but
not for the weights.  A bound divides by how much a layer's outputs vary over the batch; a gradient that took this
for a constant would find it worth while to shrink weights, which changes nothing.

    with scratch_statistics(supernet):          # outer or virtual pass: running statistics stay as they are
        logits = supernet(images)               # training mode: normalises with this batch, and notes how
        with frozen_statistics(supernet):       # eval mode: the statistics just noted, as constants
            score = metric.score(supernet, images, labels, threat)

Every `nn.BatchNorm*d` works, without tracking or with `momentum=None` too.  Buffers are exchanged by
reference and never written in place, so tensors that autograd has saved stay valid for a later backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.nn.synchronised import SynchronisedBatchNorm


@contextmanager
def scratch_statistics(network: nn.Module, *, biased: bool = True) -> Iterator[None]:
    """Inside, passes in training mode leave the running statistics alone and write scratch ones.

    After such a pass the scratch statistics are those of its batch, and a pass in eval mode uses them.

    Args:
        network: any module; its batch norm layers are found.
        biased: batch norm normalises with the biased variance (divided by n) and notes the unbiased one (divided by
            n - 1).  True notes the biased one, so that an eval pass over the same images computes what the
            training pass computed, to rounding; False spares that correction where no eval pass follows.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    # A layer without statistics and weights cannot tell its device and type; the network's weights can.
    fallback = next(network.parameters(), torch.zeros(()))
    with _put_back(layers), ExitStack() as hooks:
        for layer in layers:
            _lend_scratch(layer, fallback)
            if biased:
                hooks.callback(layer.register_forward_hook(_note_biased_variance).remove)
        yield


@contextmanager
def _put_back(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Afterwards the layers have the buffers and the settings that they have now."""
    kept = [(layer, dict(layer._buffers), layer.momentum, layer.track_running_stats) for layer in layers]
    try:
        yield
    finally:
        for layer, buffers, momentum, tracks in kept:
            layer._buffers.update(buffers)
            layer.momentum, layer.track_running_stats = momentum, tracks


def _lend_scratch(layer: _BatchNorm, fallback: Tensor) -> None:
    like = next((it for it in (layer.running_mean, layer.weight) if it is not None), fallback).detach()
    size = layer.num_features
    # Not clones: with momentum 1 the old value is multiplied by 0, which would not remove a NaN.
    layer._buffers["running_mean"] = like.new_zeros(size)
    layer._buffers["running_var"] = like.new_ones(size)
    layer._buffers["num_batches_tracked"] = None
    layer.momentum = 1.0
    layer.track_running_stats = True


def _note_biased_variance(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Forward hook: n - 1 becomes n in the variance that a training pass has just noted."""
    variance = layer._buffers["running_var"]
    if layer.training and variance is not None:
        own = inputs[0].numel() // inputs[0].shape[1]
        entries = layer.entries if isinstance(layer, SynchronisedBatchNorm) else own
        # A new tensor: autograd has saved the old one, and checks that nobody writes to it.
        layer._buffers["running_var"] = variance * ((entries - 1) / entries)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode: batch norm uses the statistics it holds, as constants.

    Afterwards every module is in the mode it was in.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def statistics_of(network: nn.Module, images: Tensor) -> Iterator[nn.Module]:
    """Inside, the network is in eval mode with the statistics of these images (N, C, H, W), as constants.

    Afterwards statistics and modes are as they were.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        with scratch_statistics(network):
            with torch.no_grad():
                network(images)
            with frozen_statistics(network):
                yield network
    finally:
        for module, training in modes:
            module.training = training


class Noted:
    """The statistics that a training pass normalised with; `noted_statistics` makes it."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.moments: dict[_BatchNorm, tuple[Tensor, Tensor]] = {}
        self.watching = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, what passes in training mode normalise with is noted: mean and biased variance of each layer."""
        self.moments.clear()
        self.watching = True
        try:
            yield
        finally:
            self.watching = False

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the network is in eval mode and has the noted statistics; gradients of bounds pass through them.

        (A plain pass with gradients is refused by torch's own batch norm, which knows no such gradients.)
        A layer that the pass did not reach keeps its running statistics.  Afterwards modes and running statistics
        are what they were, and what was noted is forgotten.
        """
        with _put_back(self.moments), frozen_statistics(self.network):
            for layer, (mean, variance) in self.moments.items():
                layer._buffers["running_mean"], layer._buffers["running_var"] = mean, variance
                layer.track_running_stats = True
            self.moments.clear()
            yield


@contextmanager
def noted_statistics(network: nn.Module) -> Iterator[Noted]:
    """Inside, statistics of training passes can be noted and lent; the passes and their running statistics are the
    same as without.

        with noted_statistics(network) as noted:
            with noted.watched():
                logits = network(images)        # training mode, an ordinary pass
            with noted.lent():
                bounds = margins(network, images, labels, threat)
            torch.autograd.backward(loss_of(logits, bounds))

    Backward passes belong inside: cells that are computed again there (`robustnas.nn.recompute`) must find what
    hung on them before.
    """
    noted = Noted(network)

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        assert isinstance(layer, _BatchNorm)
        if not layer.training:
            return
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        # also where nobody watches: a cell that is computed again must save what it saved before
        moments = _moments(layer, x.to(torch.promote_types(x.dtype, torch.float32)))
        if noted.watching:
            noted.moments[layer] = moments

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                hooks.callback(module.register_forward_hook(note).remove)
        yield noted


def _moments(layer: _BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance a channel, (C,) both, over the images of all processes."""
    axes = [0, *range(2, x.dim())]
    if isinstance(layer, SynchronisedBatchNorm):
        return layer._moments(x, axes, [1, -1, *[1] * (x.dim() - 2)])
    variance, mean = torch.var_mean(x, axes, correction=0)
    return mean, variance
