"""The discrete architecture of a cell space: which operations of the normal and the reduction cell are kept.

The format is the one of the DARTS family (Liu et al. 2019, arXiv:1806.09055).  States 0 and 1 of a cell are
the outputs of the two cells before it; node i is state i + 2.  Entries 2i and 2i + 1 are the two inputs of
node i, `(operation, state)`; `*_concat` lists the nodes whose outputs are joined as the cell's output.

    {"normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ...], "normal_concat": [2, 3, 4, 5],
     "reduce": [...], "reduce_concat": [...]}

Which operations exist is the space's matter; everything else is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen

from robustnas.errors import InputError

Gene = tuple[str, int]
"""One kept edge: an operation and the state it reads."""


def _genes(name: str, value: Any) -> tuple[Gene, ...]:
    """The edges of a cell from plain data, two a node, each reading a state before its node."""
    if not isinstance(value, (list, tuple)):
        raise InputError(f"genotype: {name} is {value!r}; a list of [operation, input] pairs would do")
    if not value or len(value) % 2:
        raise InputError(f"genotype: {name} has {len(value)} edges; two a node would do, and at least one node")
    genes = []
    for index, gene in enumerate(value):
        where = f"genotype: {name}[{index}]"
        if not isinstance(gene, (list, tuple)) or len(gene) != 2:
            raise InputError(f"{where} is {gene!r}; a pair [operation, input] would do")
        op, state = gene
        if not isinstance(op, str):
            raise InputError(f"{where}: the operation is {op!r}; the name of an operation would do")
        node = index // 2 + 2
        if isinstance(state, bool) or not isinstance(state, int) or not 0 <= state < node:
            raise InputError(
                f"{where}: node {node} reads state {state!r}; a whole number from 0 to {node - 1} would do"
            )
        genes.append((op, state))
    return tuple(genes)


def _concat(name: str, value: Any, nodes: int) -> tuple[int, ...]:
    """The nodes of a cell's output from plain data."""
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"genotype: {name} is {value!r}; a list of nodes, 2 to {nodes + 1}, would do")
    for node in value:
        if isinstance(node, bool) or not isinstance(node, int) or not 2 <= node < nodes + 2:
            raise InputError(f"genotype: {name} holds {node!r}; the nodes of this cell are 2 to {nodes + 1}")
    return tuple(value)


@frozen
class Genotype:
    """Both cells of an architecture, valid by construction.

    Args:
        normal: edges of the normal cell, two a node, `(operation, state)`.
        normal_concat: nodes that make the normal cell's output.
        reduce: edges of the reduction cell.
        reduce_concat: nodes that make the reduction cell's output.

    Raises:
        InputError: an edge is not a pair, reads a state that is not there, or a cell's output is not of its
        nodes.
    """

    normal: tuple[Gene, ...] = field()
    normal_concat: tuple[int, ...] = field()
    reduce: tuple[Gene, ...] = field()
    reduce_concat: tuple[int, ...] = field()

    @normal.validator
    @reduce.validator
    def _edges_hold(self, attribute: Attribute[Any], value: Any) -> None:
        _genes(attribute.name, value)

    @normal_concat.validator
    def _normal_output_holds(self, attribute: Attribute[Any], value: Any) -> None:
        _concat(attribute.name, value, len(self.normal) // 2)

    @reduce_concat.validator
    def _reduce_output_holds(self, attribute: Attribute[Any], value: Any) -> None:
        _concat(attribute.name, value, len(self.reduce) // 2)

    @classmethod
    def from_data(cls, data: Any) -> Genotype:
        """From plain data: a mapping with the four keys.

        Keys beside the four are facts about the cell (`source`, `paper`), not part of it, and are left out.

        Raises:
            InputError: what was found is not a genotype; the message says where.
        """
        if not isinstance(data, Mapping):
            raise InputError(
                f"genotype: found {type(data).__name__}; a mapping with normal, normal_concat, reduce and "
                "reduce_concat would do"
            )
        keys = ("normal", "normal_concat", "reduce", "reduce_concat")
        if missing := [key for key in keys if key not in data]:
            found = ", ".join(map(str, data)) or "nothing"
            raise InputError(f"genotype: {', '.join(missing)} missing; found {found}")
        normal, reduce = _genes("normal", data["normal"]), _genes("reduce", data["reduce"])
        return cls(
            normal=normal,
            normal_concat=_concat("normal_concat", data["normal_concat"], len(normal) // 2),
            reduce=reduce,
            reduce_concat=_concat("reduce_concat", data["reduce_concat"], len(reduce) // 2),
        )

    def to_data(self) -> dict[str, Any]:
        """As plain data of lists, strings and integers: what `from_data` reads and JSON keeps unchanged."""
        return {
            "normal": [list(gene) for gene in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(gene) for gene in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }

    def cell(self, reduction: bool) -> tuple[tuple[Gene, ...], tuple[int, ...]]:
        """Edges and output nodes of the reduction cell, or of the normal cell."""
        return (self.reduce, self.reduce_concat) if reduction else (self.normal, self.normal_concat)
