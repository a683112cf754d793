"""Synaptic flow (synflow): how much the weights pass from image to logits, whatever the images are.

    R = log sum_theta |theta| dS/d|theta|        S = sum of the logits of an image of ones by the network of |theta|

theta are the weights of convolutions and linear layers, batch norm is left out (mean 0, variance 1, scale 1, shift
0), and the dataset's normalisation is too.  Then a network of rectifiers is linear, and S the sum over all paths of
the products of weights along them; the sum above counts each path once a layer.

A zero-cost score: of untrained networks, of the weights alone, the same for each image and for every threat, without a
gradient, in float64.  The logarithm is ours, orders stay.  It foretells clean accuracy (Abdelfattah et al. 2021,
arXiv:2101.08134, whose form this is); of robustness it says nothing by itself.

Source: Tanaka et al. 2020, arXiv:2006.05467.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.nn.float64 import Wide
from robustnas.nn.normalize import Normalize
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.layers import weights_of


@frozen
class SynFlow:
    """Logarithm of the synaptic flow (Tanaka et al. 2020, arXiv:2006.05467).

    A zero-cost score of the weights alone, without a gradient.
    """

    differentiable = False

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), one number for all."""
        state = {name: one.detach().double() for name, one in _without_norms(network).items()}
        sizes = {name: state[name].abs().requires_grad_() for name in weights_of(network)}
        ones = torch.ones_like(images[:1], dtype=torch.float64)
        with torch.enable_grad(), Wide():
            flow = torch.func.functional_call(network, state | sizes, (ones,)).sum()
            gradients = torch.autograd.grad(flow, list(sizes.values()), allow_unused=True, materialize_grads=True)
        total = torch.stack([(one * by).sum() for one, by in zip(sizes.values(), gradients, strict=True)]).sum()
        found = total.detach().clamp_min(torch.finfo(total.dtype).tiny).log()
        return found.to(images.dtype).expand(len(images))


def _without_norms(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; those of normalisations do nothing."""
    state = dict(network.named_parameters()) | dict(network.named_buffers())
    state = {name: one for name, one in state.items() if one.is_floating_point()}
    for path, module in network.named_modules():
        if not isinstance(module, _BatchNorm | Normalize):
            continue
        nothing = {"mean": 0, "std": 1, "running_mean": 0, "running_var": 1, "weight": 1, "bias": 0}
        for name, value in nothing.items():
            full = f"{path}.{name}" if path else name
            if full in state:
                state[full] = torch.full_like(state[full], value)
    return state
