"""The discrete architecture of a cell space: which operations of the normal and the reduction cell are kept.

The format is the one of the DARTS family (Liu et al. 2019, arXiv:1806.09055).  States 0 and 1 of a cell are
the outputs of the two cells before it; node i is state i + 2.  Entries 2i and 2i + 1 are the two inputs of
node i, `(operation, state)`; `*_concat` lists the nodes whose outputs are joined as the cell's output.

    {"normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ...], "normal_concat": [2, 3, 4, 5],
     "reduce": [...], "reduce_concat": [...]}

A cell may have all 14 edges of four nodes instead, in the order of `robustnas.nn.cells.edges` (Ha et al. 2023, CRoZe,
arXiv:2306.05031); `"edges": "all"` beside the four keys says so.

Some repositories write `reduction` and `reduction_concat`; these are read too, and so is the notation of DARTS's
scripts (`robustnas.genotype.darts_notation`).  Which operations exist is the space's matter; everything else is
checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from reprlib import repr as shortened
from typing import Any

from attrs import Attribute, field, frozen

from robustnas.errors import InputError
from robustnas.genotype import darts_notation as notation

Gene = tuple[str, int]
"""One kept edge: an operation and the state it reads."""

MOST_NODES = 64
"""Most nodes of a cell; those of the literature have up to 8."""

EVERY = tuple(state for node in range(2, 6) for state in range(node))
"""The states that all edges of a cell of four nodes leave, node by node."""

OTHER_NAMES = ("reduction", "reduction_concat")
"""Keys of the reduction cell in some repositories, for `reduce` and `reduce_concat`."""


def _genes(name: str, value: Any) -> tuple[Gene, ...]:
    """Read the edges of a cell from plain data: two a node, each reading a state before its node."""
    if not isinstance(value, (list, tuple)):
        raise InputError(f"genotype: {name} is {shortened(value)}; a list of [operation, input] pairs would do")
    if len(value) > 2 * MOST_NODES:
        raise InputError(f"genotype: {name} has {len(value)} edges; at most {2 * MOST_NODES} would do, two a node")
    if not value or len(value) % 2:
        raise InputError(f"genotype: {name} has {len(value)} edges; two a node would do, and at least one node")
    genes = []
    for index, gene in enumerate(value):
        where = f"genotype: {name}[{index}]"
        if not isinstance(gene, (list, tuple)) or len(gene) != 2:
            raise InputError(f"{where} is {shortened(gene)}; a pair [operation, input] would do")
        op, state = gene
        if not isinstance(op, str):
            raise InputError(f"{where}: the operation is {shortened(op)}; the name of an operation would do")
        node = index // 2 + 2
        if isinstance(state, bool) or not isinstance(state, int) or not 0 <= state < node:
            raise InputError(
                f"{where}: node {node} reads state {shortened(state)}; a whole number from 0 to {node - 1} would do"
            )
        genes.append((op, state))
    return tuple(genes)


def _every(name: str, value: Any) -> tuple[Gene, ...]:
    """Read the edges of a cell that has all of them."""
    genes = _genes(name, value)
    if tuple(state for _, state in genes) != EVERY:
        states = [state for _, state in genes]
        raise InputError(f"genotype: {name} has edges from the states {states}; with all edges {[*EVERY]} would do")
    return genes


def _concat(name: str, value: Any, genes: tuple[Gene, ...], all_edges: bool) -> tuple[int, ...]:
    """Read the nodes of a cell's output from plain data."""
    nodes = 4 if all_edges else len(genes) // 2
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"genotype: {name} is {shortened(value)}; a list of nodes, 2 to {nodes + 1}, would do")
    for node in value:
        if isinstance(node, bool) or not isinstance(node, int) or not 2 <= node < nodes + 2:
            raise InputError(f"genotype: {name} holds {shortened(node)}; the nodes of this cell are 2 to {nodes + 1}")
    if len(value) > nodes:
        raise InputError(f"genotype: {name} lists {len(value)} nodes; this cell has {nodes}, each once")
    if not all_edges:
        _refuse_all_edges(name.removesuffix("_concat"), genes, last=max(value))
    return tuple(value)


def _refuse_all_edges(name: str, genes: tuple[Gene, ...], last: int) -> None:
    """Raise where a node reads every state before it: two by two, such a list would pass for a larger cell.

    Source of the form: Ha et al. 2023 (CRoZe), arXiv:2306.05031.
    """
    # of n nodes there are n (n + 3) / 2, so that one number alone can be meant
    nodes = (math.isqrt(9 + 8 * len(genes)) - 3) // 2
    every = [state for node in range(2, nodes + 2) for state in range(node)]
    if nodes > 1 and last < nodes + 2 and [state for _, state in genes] == every:
        raise InputError(
            f"genotype: {name} has all {len(genes)} edges of a cell of {nodes} nodes; two a node, {2 * nodes}, would do"
            + (", or edges: all" if nodes == 4 else "")
        )


@frozen
class Genotype:
    """Holds both cells of an architecture, valid by construction.

    Args:
        normal: edges of the normal cell, two a node, `(operation, state)`.
        normal_concat: nodes that make the normal cell's output.
        reduce: edges of the reduction cell.
        reduce_concat: nodes that make the reduction cell's output.
        all_edges: both cells have all 14 edges of four nodes, not two a node.

    Raises:
        InputError: an edge is not a pair, reads a state that is not there, or a cell's output is not of its
        nodes.
    """

    normal: tuple[Gene, ...] = field()
    normal_concat: tuple[int, ...] = field()
    reduce: tuple[Gene, ...] = field()
    reduce_concat: tuple[int, ...] = field()
    all_edges: bool = False

    @normal.validator
    @reduce.validator
    def _edges_hold(self, attribute: Attribute[Any], value: Any) -> None:
        (_every if self.all_edges else _genes)(attribute.name, value)

    @normal_concat.validator
    def _normal_output_holds(self, attribute: Attribute[Any], value: Any) -> None:
        _concat(attribute.name, value, self.normal, self.all_edges)

    @reduce_concat.validator
    def _reduce_output_holds(self, attribute: Attribute[Any], value: Any) -> None:
        _concat(attribute.name, value, self.reduce, self.all_edges)

    @classmethod
    def from_data(cls, data: Any) -> Genotype:
        """From plain data: a mapping with the four keys, or with `reduction` for `reduce`; or from DARTS's notation.

        Keys beside the four are facts about the cell (`source`, `paper`), not part of it, and are left out.

        Raises:
            InputError: what was found is not a genotype; the message says where.
        """
        data = notation.plain(data)
        if not isinstance(data, Mapping):
            raise InputError(
                f"genotype: found {type(data).__name__}; a mapping with normal, normal_concat, reduce and "
                "reduce_concat would do"
            )
        keys = ("normal", "normal_concat", "reduce", "reduce_concat")
        data = {**{key.replace("reduction", "reduce"): data[key] for key in OTHER_NAMES if key in data}, **data}
        if missing := [key for key in keys if key not in data]:
            found = ", ".join(str(key)[:30] for key in islice(data, 12)) or "nothing"
            raise InputError(f"genotype: {', '.join(missing)} missing; found {found}")
        if data.get("edges", "all") != "all":
            raise InputError(f"genotype: edges is {shortened(data['edges'])}; all would do, or none for two a node")
        all_edges = "edges" in data
        normal, reduce = ((_every if all_edges else _genes)(name, data[name]) for name in ("normal", "reduce"))
        return cls(
            normal=normal,
            normal_concat=_concat("normal_concat", data["normal_concat"], normal, all_edges),
            reduce=reduce,
            reduce_concat=_concat("reduce_concat", data["reduce_concat"], reduce, all_edges),
            all_edges=all_edges,
        )

    def to_data(self) -> dict[str, Any]:
        """As plain data of lists, strings and integers: what `from_data` reads and JSON keeps unchanged."""
        return {
            **({"edges": "all"} if self.all_edges else {}),
            "normal": [list(gene) for gene in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(gene) for gene in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }

    def entered(self, reduction: bool) -> tuple[int, ...]:
        """The node that each edge of the reduction cell enters, or of the normal cell."""
        if self.all_edges:
            return tuple(node for node in range(2, 6) for _ in range(node))
        return tuple(index // 2 + 2 for index in range(len(self.cell(reduction)[0])))

    def cell(self, reduction: bool) -> tuple[tuple[Gene, ...], tuple[int, ...]]:
        """Edges and output nodes of the reduction cell, or of the normal cell."""
        return (self.reduce, self.reduce_concat) if reduction else (self.normal, self.normal_concat)
