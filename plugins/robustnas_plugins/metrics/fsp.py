"""Flow-of-solution-procedure distance (RobNet): how far the worst image found changes what deep cells do.

    G_l(x) = 1/(h w) sum_s,t F_in[s,t] (x) F_out[s,t]         what cell l makes of what it is given, (C_in, C_out)
    R      = - mean over the deep cells of log( || G_l(x') - G_l(x) ||_F^2 / || G_l(x) ||_F^2 )

x' maximises the cross-entropy within the threat by PGD from the clean image, and is a constant then.  F_in is the
output of the cell before, pooled to the size of F_out where the cell halves it.

Source: Guo et al. 2020 (RobNet), arXiv:1911.10695, sec. 3.4, which filters candidates by it before they are fine-tuned:
`strategy: {name: one-shot, keep: 0.2}`.  The division by the clean matrix and the logarithm are ours: without them
smaller features would be a gain, and cells of many channels would count alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.converters import optional as if_given
from attrs.validators import and_, gt, le, optional
from torch import Tensor, nn

from robustnas.errors import RunError
from robustnas.nn.fast import plain
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.worst_images import worst_images


@frozen
class Fsp:
    """Minus how far the worst image found changes what deep cells do, in logs (RobNet, Guo et al. 2020)."""

    deep: float = option(0.5, "share of the cells that count, the last ones", and_(gt(0.0), le(1.0)), converter=float)
    steps: int = option(7, "steps of PGD, from the clean image", at_least=1)
    step_size: float | None = option(
        None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)), converter=if_given(pixels)
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,).

        Raises:
            RunError: the network has neither cells nor convolutions that make maps.
        """
        worst = worst_images(network, images, labels, threat, self.steps, self.step_size)
        with _flows(network) as flows:
            network(images)
            clean = flows.copy()
            flows.clear()
            network(worst)
        if not clean:
            raise RunError("fsp looks at what cells, or else convolutions, make of maps, and the network has none")
        deep = list(clean)[-max(1, round(self.deep * len(clean))) :]
        distances = [_distance(clean[place], flows[place]) for place in deep]
        return -torch.stack(distances).mean(dim=0)


def _distance(clean: Tensor, moved: Tensor) -> Tensor:
    """The logarithm of the squared distance over the squared length, (N,)."""
    tiny = torch.finfo(clean.dtype).tiny ** 0.5
    apart = (moved - clean).square().sum(dim=(1, 2)).clamp_min(tiny)
    return apart.log() - clean.square().sum(dim=(1, 2)).clamp_min(tiny).log()


@contextmanager
def _flows(network: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Inside, the matrices (N, C_in, C_out) of cells are noted in order; of a network without, of its convolutions."""
    flows: dict[int, Tensor] = {}

    def note(place: int, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        maps = [one for one in inputs if isinstance(one, Tensor) and one.dim() == 4]
        if maps and isinstance(output, Tensor) and output.dim() == 4:
            rows, columns = output.shape[2:]
            given = F.adaptive_avg_pool2d(maps[-1], (rows, columns))  # a cell is given the one before it last
            flows[place] = torch.einsum("nihw,nohw->nio", given, output) / output[0, 0].numel()

    lists = [module for name, module in network.named_modules() if name.rpartition(".")[2] == "cells"]
    cells = [cell for module in lists for cell in module.children()]
    layers = cells or [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    with plain(), ExitStack() as hooks:
        for place, layer in enumerate(layers):
            hooks.callback(layer.register_forward_hook(partial(note, place)).remove)
        yield flows
