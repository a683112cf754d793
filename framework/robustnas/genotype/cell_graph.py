"""The cells of a genotype as graphs: states, and edges with the operation that each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from attrs import frozen

from robustnas.errors import InputError
from robustnas.genotype import cell_string, darts_notation, gate_codes
from robustnas.genotype.cell_genotype import OTHER_NAMES, Genotype

CELLS = ("normal", "normal_concat", "reduce", "reduce_concat", *OTHER_NAMES)
"""Keys of a genotype of the DARTS family: one of them tells that it is meant as such."""

JOINED = ""
"""The operation of an edge that joins a node to the output of a cell."""


@frozen
class CellGraph:
    """A cell as a directed graph without circles.

    Args:
        states: their names; an edge leads to a later one.
        inputs: how many of the first ones are inputs.
        edges: (state it leaves, state it enters, operation), those without an operation (`none`) left out.
        absent: edges that are left out.
    """

    states: tuple[str, ...]
    inputs: int
    edges: tuple[tuple[int, int, str], ...]
    absent: int

    @property
    def joined(self) -> list[str]:
        """The nodes that are concatenated to the output; none where the last node is the output itself."""
        return [self.states[source] for source, _, op in self.edges if op == JOINED]

    def formulas(self) -> list[str]:
        """What each node is, a line a node: `2 = sep_conv_3x3(c_{k-2}) + skip_connect(c_{k-1})`."""
        lines = []
        for node in range(self.inputs, len(self.states)):
            terms = [f"{op}({self.states[source]})" for source, target, op in self.edges if target == node and op]
            if joined := [self.states[source] for source, target, op in self.edges if target == node and not op]:
                terms = [f"concatenation({', '.join(joined)})"]
            lines.append(f"{self.states[node]} = {' + '.join(terms) or '0'}")
        return lines


def graphs(genotype: Genotype | Mapping[str, Any] | str) -> dict[str, CellGraph]:
    """The cells of a genotype by name: `normal` and `reduction`; of NAS-Bench-201 and RobNet `cell`, or `cell 1` and so
    on where each cell of a network has its own.

    Raises:
        InputError: it is in neither form, or not valid.
    """
    data = genotype.to_data() if isinstance(genotype, Genotype) else genotype
    data = darts_notation.plain(cell_string.plain(data))
    if isinstance(data, Mapping) and isinstance(data.get("cell"), str):
        return {"cell": _of_string(data["cell"])}
    if gate_codes.is_codes(data):
        cells = gate_codes.read(data)
        names = ["cell"] if len(cells) == 1 else [f"cell {place}" for place in range(1, len(cells) + 1)]
        return {name: _of_codes(codes) for name, codes in zip(names, cells, strict=True)}
    if isinstance(data, Mapping) and data and data.keys().isdisjoint(CELLS):
        found = ", ".join(str(key)[:30] for key in islice(data, 12))
        drawn = "cells of the DARTS family, NAS-Bench-201 and RobNet"
        raise InputError(f"genotype: found {found}, which cannot be drawn; {drawn} can be")
    read = Genotype.from_data(data)
    return {"normal": _of_genes(read, reduction=False), "reduction": _of_genes(read, reduction=True)}


def _of_string(text: str) -> CellGraph:
    """Read a cell of NAS-Bench-201, whose last node is its output."""
    ops, edges, node = cell_string.read(text), list[tuple[int, int, str]](), 1
    while len(edges) < len(ops):
        edges += [(state, node, ops[len(edges) + state]) for state in range(node)]
        node += 1
    names = ("input", *map(str, range(1, node - 1)), "output")
    return _graph(names, 1, edges)


def _of_codes(codes: Sequence[str]) -> CellGraph:
    """Read a cell of RobNet, which has all edges, and whose output is all its nodes."""
    left, edges, node = [gate_codes.OPS[code] for code in codes], list[tuple[int, int, str]](), 2
    while left:
        edges += [(state, node, left[state]) for state in range(node)]
        left, node = left[node:], node + 1
    return _joining(edges, range(2, node), node)


def _of_genes(genotype: Genotype, *, reduction: bool) -> CellGraph:
    """Read a cell of the DARTS family, whose output is some of its nodes."""
    genes, concat = genotype.cell(reduction)
    entered = genotype.entered(reduction)
    edges = [(state, node, op) for node, (op, state) in zip(entered, genes, strict=True)]
    return _joining(edges, sorted(set(concat)), max(entered) + 1)


def _joining(edges: list[tuple[int, int, str]], concat: Iterable[int], last: int) -> CellGraph:
    """The cell of two inputs whose output, the state `last`, joins these nodes."""
    names = ("c_{k-2}", "c_{k-1}", *map(str, range(2, last)), "c_{k}")
    return _graph(names, 2, [*edges, *((node, last, JOINED) for node in concat)])


def _graph(names: tuple[str, ...], inputs: int, edges: list[tuple[int, int, str]]) -> CellGraph:
    kept = tuple(edge for edge in edges if edge[2] != cell_string.NONE)
    return CellGraph(names, inputs, kept, len(edges) - len(kept))
