"""First weights that do not widen intervals.

    network     what the network was built with
    ibp         Gaussian of deviation sqrt(2 pi) / n, biases 0: every convolution and linear layer
    identity    a convolution's output is one channel of its input, plus a tenth of what it was built with

An affine layer of n inputs an output widens intervals by n E|w| on the average, and a rectifier halves their width
where its inputs lie around 0.  With `ibp` n E|w| is 2, so a layer and its rectifier leave the width as it is; torch's
own weights widen it by a multiple of sqrt(n).

Batch norm takes the scale of weights out again.  What it leaves is the width beside the spread of the values, and that
grows with sqrt(n) for weights of random signs, however small; with one input an output it stays.  So networks with
batch norms, cells among them, take `identity`.

Sources: Shi et al. 2021, arXiv:2102.06700 (ibp); Zagoruyko and Komodakis 2017, arXiv:1706.00388 (a layer that begins as
the identity, there for depth without skips).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

FirstWeights = Literal["network", "ibp", "identity"]

KEPT = 0.1
"""What `identity` keeps of the weights that are there, so that no two channels are alike."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def draw(network: nn.Module, kind: FirstWeights) -> None:
    """Put first weights into all layers they are meant for; random ones from torch's global generator."""
    for layer in network.modules():
        if kind == "ibp" and isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
            inputs = layer.weight[0].numel()
            layer.weight.normal_(0.0, math.sqrt(2 * math.pi) / inputs)
            if layer.bias is not None:
                layer.bias.zero_()
        elif kind == "identity" and isinstance(layer, CONVOLUTIONS):
            layer.weight.mul_(KEPT)
            middle = tuple(size // 2 for size in layer.weight.shape[2:])
            for number, of_output in enumerate(layer.weight):
                of_output[number % len(of_output)][middle] += 1.0
