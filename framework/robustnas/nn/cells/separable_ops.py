"""The depthwise-separable operations of all edges that leave a state, computed together: stage by stage.

An operation is a stack of `DepthwiseSeparable` layers.  The layers at one depth of all stacks make a stage: one
`separable_stage.stage` and one batch norm, whose channels are (operation, edge, channel).  Mixing weights cost no
pass over memory of their own: where a stack ends they are the scale of its batch norm.

    mixed_e  =  sum_o share_e,o * norm(P_o,e D_o,e relu(...))

In eval mode batch norm is a factor and a summand a channel, which the pointwise convolution takes over; the sum
over the operations that end is then part of that convolution, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import add

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from robustnas.nn.cells.layers import DepthwiseSeparable
from robustnas.nn.fast import (
    Form,
    JoinedNorm,
    StageShape,
    conv2d,
    convolved,
    is_fixed,
    normalise_channels,
    of_layer,
    scaled,
    separable,
    stage,
)


@frozen
class Stack:
    """An operation that is nothing but depthwise-separable layers.

    Args:
        layers: in order.
        nested: the operation is a `nn.Sequential` of them, not a layer itself.
    """

    layers: tuple[DepthwiseSeparable, ...]
    nested: bool

    @classmethod
    def of(cls, op: nn.Module) -> Stack | None:
        """The operation as a stack, if it is one.

        It takes a rectified state, so its first layer need not rectify; the others do.
        """
        nested = type(op) is nn.Sequential
        layers = tuple(layer for layer in (op.children() if nested else [op]) if type(layer) is DepthwiseSeparable)
        complete = bool(layers) and len(layers) == (len(list(op.children())) if nested else 1)
        found = cls(layers, nested)
        return found if complete and all(layer.rectify for layer in layers[1:]) and found.joins(found) else None

    def joins(self, other: Stack) -> bool:
        """Whether the two can be computed stage by stage together."""
        norms = {
            (norm.affine, norm.eps, norm.momentum, norm.track_running_stats)
            for norm in (layer.norm for layer in (*self.layers, *other.layers))
        }
        strides = zip(self.layers, other.layers, strict=False)
        return len(norms) == 1 and all(one.depthwise.stride == two.depthwise.stride for one, two in strides)


class _SeparableStage(nn.Module):
    """The layers at one depth of several stacks."""

    def __init__(self, layers: Sequence[DepthwiseSeparable], edges: int, shared: bool):
        super().__init__()
        dilations = tuple(layer.depthwise.dilation[0] for layer in layers)
        self.shape = StageShape(edges, layers[0].depthwise.stride[0], dilations, shared)
        self.depthwise = nn.ParameterList(layer.depthwise.weight for layer in layers)
        weights = [layer.pointwise.weight.detach() for layer in layers]
        # not torch.cat, which imports the compiler (2 CPU seconds) where weights are only counted, on the meta device
        self.pointwise = nn.Parameter(weights[0].new_empty(sum(map(len, weights)), *weights[0].shape[1:]))
        for place, weight in zip(self.pointwise.detach().split([*map(len, weights)]), weights, strict=True):
            place.copy_(weight)
        self.norm = JoinedNorm.of([layer.norm for layer in layers])

    def forward(self, inputs: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """The layers' outputs, each channel times its factor (M * edges * C,).

        M of (N, edges * C, H', W'), or those joined.
        """
        outputs = stage(self.shape, inputs, list(self.depthwise), self.pointwise)
        if len(outputs) > 1 and isinstance(self.norm, JoinedNorm):
            return list(scaled(self.norm, factors, *outputs))
        return [scaled(self.norm, factors, outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1))]

    def folded(self, inputs: Sequence[Tensor], factors: Tensor, ending: int) -> tuple[Tensor, list[Tensor]]:
        """In eval mode: the sum of the first `ending` layers' outputs, and those of the others, joined."""
        scale, shift = (part * factors for part in of_layer(self.norm))
        weight = self.pointwise * scale.view(-1, 1, 1, 1)
        seen = F.relu(inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), dim=1))
        mixed, *others = separable(Form(self.shape, ending), seen, list(self.depthwise), weight, shift)
        return mixed, others

    def alone(self, x: Tensor, place: int, edge: int) -> Tensor:
        """One layer on one edge: (N, C, H, W) -> (N, C, H', W')."""
        width = self.pointwise.shape[1]
        first = (place * self.shape.edges + edge) * width
        channels = slice(first, first + width)
        depthwise = [self.depthwise[place][edge * width : (edge + 1) * width]]
        shape = StageShape(1, self.shape.stride, (self.shape.dilations[place],), shared=True)
        if not is_fixed(self.norm):
            (output,) = stage(shape, [x], depthwise, self.pointwise[channels])
            return normalise_channels(self.norm, output, channels)
        (inner,) = convolved(shape, [x], depthwise)
        scale, shift = (part[channels] for part in of_layer(self.norm))
        return conv2d(inner, self.pointwise[channels] * scale.view(-1, 1, 1, 1), shift)


class SeparableOps(nn.Module):
    """Several stacks on several edges of one state.

    Args:
        stacks: by the operation's name, built for `edges` edges (see `ForEdges`); each joins all others, and
            their weights are taken over.
        edges: number of edges.
    """

    def __init__(self, stacks: Mapping[str, Stack], edges: int):
        super().__init__()
        layers = {name: stack.layers for name, stack in stacks.items()}
        # those that end first come first: at every depth they are the first channels
        self.names = sorted(layers, key=lambda name: len(layers[name]))
        self.nested = {name for name, stack in stacks.items() if stack.nested}
        self.edges = edges
        depths = range(max(map(len, layers.values())))
        self.reaching = [[name for name in self.names if len(layers[name]) > depth] for depth in depths]
        self.stages = nn.ModuleList(
            _SeparableStage([layers[name][depth] for name in names], edges, shared=depth == 0)
            for depth, names in enumerate(self.reaching)
        )

    def forward(self, state: Tensor, shares: Mapping[str, Tensor]) -> Tensor:
        """state (N, C, H, W), shares of each operation (edges,) -> the mixed outputs (N, edges * C, H', W')."""
        inputs, sums = [state], []
        for here, (names, beyond) in zip(self.stages, pairwise([*self.reaching, []]), strict=True):
            assert isinstance(here, _SeparableStage)
            ending = len(names) - len(beyond)
            width = here.norm.num_features // (len(names) * self.edges)
            one = here.pointwise.new_ones(self.edges)
            factors = torch.stack([shares[name] for name in names[:ending]] + [one] * len(beyond)).flatten()
            factors = factors.repeat_interleave(width)
            if ending and is_fixed(here.norm):
                mixed, inputs = here.folded(inputs, factors, ending)
                sums.append(mixed)
            else:
                outputs = here(inputs, factors)
                if len(outputs) < len(names):
                    own = width * self.edges
                    outputs = list(outputs[0].split([own] * ending + [own * len(beyond)] * bool(beyond), dim=1))
                sums += outputs[:ending]
                inputs = outputs[ending:]
        return reduce(add, sums)

    def alone(self, state: Tensor, name: str, edge: int) -> Tensor:
        """One operation on one edge: (N, C, H, W) -> (N, C, H', W')."""
        for here, names in zip(self.stages, self.reaching, strict=True):
            assert isinstance(here, _SeparableStage)
            if name in names:
                state = here.alone(state, names.index(name), edge)
        return state
