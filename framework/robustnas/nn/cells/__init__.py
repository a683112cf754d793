"""Cells: the parts that DARTS-family supernets and their discrete networks are made of.

A cell is a small graph: two inputs (the outputs of the two cells before it), n nodes, an edge from every
earlier state to every node.  In a supernet an edge mixes all candidate operations; in a discrete network each
node keeps two edges with one operation each.  A space of your own needs a table of operations and a few
lines:

    table = {
        "none": lambda channels, stride: None,                    # exactly zero, costs nothing
        "skip": lambda channels, stride: nn.AvgPool2d(stride),    # any module that keeps the channels
        "conv": lambda channels, stride: ReluConvNorm(channels, channels, 3, stride, affine=False),
    }
    cell = SharedCell(table, 2 * [3 * channels], channels, nodes=4, reduction=False)
    output = cell(state0, state1, alpha.softmax(-1))              # alpha (14, 3) for 4 nodes
    genes = strongest_inputs(alpha.softmax(-1), tuple(table), nodes=4)

`SharedCell` computes once what edges share.  A table entry with `for_edges` (see `ForEdges`) is computed for all
edges of a state at once.  With `partial=4` the operations act on a quarter of the channels (`partial_channels`); each
edge can have a weight beside those of its operations:

    cell = SharedCell(table, 2 * [3 * channels], channels, nodes=4, partial=4)
    output = cell(state0, state1, alpha.softmax(-1), edge_weights)             # edge_weights (14,)
    genes = strongest_inputs(alpha.softmax(-1), tuple(table), nodes=4, edge_weights=edge_weights)

Every module here computes with ordinary torch functions, without in-place operations and without branching on
values, so that bounds propagate through the same `forward`.
"""

from robustnas.nn.cells.columns import Columns
from robustnas.nn.cells.discrete_cell import DiscreteCell, drop_path
from robustnas.nn.cells.graph import (
    decided_inputs,
    drawn_inputs,
    edge_index,
    edges,
    input_decisions,
    one_hot_inputs,
    reduction_cells,
    strongest_inputs,
)
from robustnas.nn.cells.layers import DepthwiseSeparable, FactorizedReduce, ReluConvNorm, preprocessing
from robustnas.nn.cells.op_table import ForEdges, OpTable
from robustnas.nn.cells.shared_cell import LeavingEdges, SharedCell
from robustnas.nn.cells.single_path import SinglePath
from robustnas.nn.fast import convolve_and_norm, normalise

__all__ = [
    "Columns",
    "DepthwiseSeparable",
    "DiscreteCell",
    "FactorizedReduce",
    "ForEdges",
    "LeavingEdges",
    "OpTable",
    "ReluConvNorm",
    "SharedCell",
    "SinglePath",
    "convolve_and_norm",
    "decided_inputs",
    "drawn_inputs",
    "drop_path",
    "edge_index",
    "edges",
    "input_decisions",
    "normalise",
    "one_hot_inputs",
    "preprocessing",
    "reduction_cells",
    "strongest_inputs",
]
