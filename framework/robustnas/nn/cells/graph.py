"""The graph of a cell: how edges are numbered, which are kept, and which cells of a network reduce.

States 0 and 1 are the cell's inputs; node i is state i + 2 and has an edge from every state before it.  Edges
are numbered node by node, and within a node by the state they leave: 14 of them for 4 nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.errors import InputError
from robustnas.genotype import Gene


def edges(nodes: int) -> list[tuple[int, int]]:
    """Every edge of a cell in order, as (state it leaves, state it enters)."""
    return [(source, node) for node in range(2, nodes + 2) for source in range(node)]


def edge_index(source: int, node: int) -> int:
    """The number of the edge from state `source` to state `node` (2 or more)."""
    return (node - 2) * (node + 1) // 2 + source


def strongest_inputs(
    mixing: Tensor,
    ops: Sequence[str],
    nodes: int,
    none: str = "none",
    edge_weights: Tensor | None = None,
    *,
    none_competes: bool = False,
) -> tuple[Gene, ...]:
    """The edges a cell keeps: mixing (E, O), rows over `ops` -> two `(operation, state)` a node.

    A node keeps the two inputs whose strongest operation is strongest, times the input's entry of
    `edge_weights` (E,) where those are given, and on each of the two that operation; `none` is never kept and
    does not count.  Where it competes, inputs on which `none` is the strongest operation come after all others (a
    node keeps two in any case).  Among equals the earlier state and the earlier operation win.  The two are listed
    by the state they read, so that one architecture has one genotype.
    Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, sec. 2.4; edge weights: Xu et al. 2020 (PC-DARTS),
    arXiv:1907.05737, sec. 3.3.
    """
    absent = (
        [row == ops.index(none) for row in mixing.argmax(dim=1).tolist()] if none_competes else [False] * len(mixing)
    )
    counted = [index for index, op in enumerate(ops) if op != none]
    rows = mixing.detach()[:, torch.tensor(counted, device=mixing.device)].tolist()
    factors = [1.0] * len(rows) if edge_weights is None else edge_weights.detach().tolist()
    genes: list[Gene] = []
    for node in range(2, nodes + 2):
        own = [edge_index(source, node) for source in range(node)]
        strength = [factors[edge] * max(rows[edge]) for edge in own]
        order = sorted(range(node), key=lambda source: (absent[own[source]], -strength[source]))
        for source in sorted(order[:2]):
            row = rows[own[source]]
            genes.append((ops[counted[row.index(max(row))]], source))
    return tuple(genes)


def drawn_inputs(ops: Sequence[str], nodes: int, generator: torch.Generator, none: str = "none") -> tuple[Gene, ...]:
    """Draw a cell that `strongest_inputs` can keep, all of them equally likely: two `(operation, state)` a node.

    A node's two states are drawn without replacement from those before it, and each operation from `ops` without
    `none`.  Source: Li and Talwalkar 2019, arXiv:1902.07638 (random search over the DARTS space).
    """
    counted, device = [op for op in ops if op != none], generator.device
    genes: list[Gene] = []
    for node in range(2, nodes + 2):
        states = sorted(torch.randperm(node, generator=generator, device=device)[:2].tolist())
        chosen = torch.randint(len(counted), (2,), generator=generator, device=device).tolist()
        genes += [(counted[op], state) for op, state in zip(chosen, states, strict=True)]
    return tuple(genes)


def input_decisions(ops: Sequence[str], nodes: int, none: str = "none") -> tuple[int, ...]:
    """How many options each free decision has of a cell that `strongest_inputs` can keep.

    Three a node: which two of the states before it, which operation on the earlier, and on the later.
    """
    counted = sum(op != none for op in ops)
    return tuple(count for node in range(2, nodes + 2) for count in (node * (node - 1) // 2, counted, counted))


def decided_inputs(options: Sequence[int], ops: Sequence[str], none: str = "none") -> tuple[Gene, ...]:
    """The cell of one option for each of `input_decisions`: two `(operation, state)` a node.

    Raises:
        InputError: an option that there is not.
    """
    counted = [op for op in ops if op != none]
    genes: list[Gene] = []
    for node, place in enumerate(range(0, len(options), 3), 2):
        pairs = list(combinations(range(node), 2))
        pair, *chosen = options[place : place + 3]
        if not (0 <= pair < len(pairs) and all(0 <= op < len(counted) for op in chosen)):
            raise InputError(
                f"genotype: node {node} has the options {[pair, *chosen]}; numbers from 0 below "
                f"{[len(pairs), len(counted), len(counted)]} would do"
            )
        genes += [(counted[op], state) for op, state in zip(chosen, pairs[pair], strict=True)]
    return tuple(genes)


def one_hot_inputs(genes: Sequence[Gene], ops: Sequence[str], nodes: int, none: str = "none") -> Tensor:
    """The mixing weights (E, O) of a cell that keeps these genes alone: 1 on each, and on `none` of every other edge.

    Raises:
        InputError: two operations are kept on one edge, or the cell has not `nodes` nodes.
    """
    if len(genes) != 2 * nodes:
        raise InputError(f"genotype: found a cell of {len(genes) // 2} nodes; the supernet's cells have {nodes}")
    kept = [none] * len(edges(nodes))
    for position, (op, source) in enumerate(genes):
        node = position // 2 + 2
        edge = edge_index(source, node)
        if none not in (op, kept[edge]):
            raise InputError(
                f"genotype: node {node} has {kept[edge]} and {op} from state {source}; "
                "in a supernet's path an edge has one operation"
            )
        kept[edge] = op if kept[edge] == none else kept[edge]
    return F.one_hot(torch.tensor([ops.index(op) for op in kept]), len(ops)).float()


def reduction_cells(cells: int) -> frozenset[int]:
    """Which cells of a network halve rows and columns: at a third and two thirds of its depth, as in DARTS.

    The first cell never does: with three cells or more that is the published rule, with two the second cell
    reduces, and one cell alone is a normal cell.
    """
    return frozenset({cells // 3, 2 * cells // 3} - {0})
