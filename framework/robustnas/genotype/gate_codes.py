"""Cells as RobNet writes them: a code of two gates for every edge, `{"codes": [["11", "00", ...], ...]}`.

A cell has two inputs and nodes 2, 3, ...; each node has an edge from every state before it, and all edges are added.
The first digit of an edge's code opens its identity, the second its convolution:

    00  none    01  sep_conv_3x3    10  skip_connect    11  both, a residual convolution

Codes stand node by node, and within a node by the state that the edge leaves.  One list is the code of every cell of a
network (cell-based); several are those of its cells from first to last (cell-free).

Source: Guo et al. 2020 (RobNet), arXiv:1911.10695.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, count, takewhile
from reprlib import repr as shortened
from typing import Any

from robustnas.errors import InputError

OPS = {"00": "none", "01": "sep_conv_3x3", "10": "skip_connect", "11": "res_sep_conv_3x3"}
"""The operation of an edge by its code."""

MOST_CELLS = 128
"""A genotype may have codes of so many cells."""

MOST_EDGES = 152
"""A cell may have so many edges: 16 nodes."""


def is_codes(data: Any) -> bool:
    """Whether plain data is meant as a genotype in this form."""
    return isinstance(data, Mapping) and "codes" in data


def write(cells: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The genotype of cells of such codes, as plain data."""
    return {"codes": [[*codes] for codes in cells]}


def read(data: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The codes of every cell that a genotype has; one list of codes is one cell.

    Raises:
        InputError: it is none in this form; says where.
    """
    cells = data.get("codes")
    if not isinstance(cells, (list, tuple)) or not cells:
        raise InputError(f"genotype: codes is {shortened(cells)}; a list of cells would do, each a list of codes")
    cells = [cells] if isinstance(cells[0], str) else cells
    if len(cells) > MOST_CELLS:
        raise InputError(f"genotype: codes has {len(cells)} cells; at most {MOST_CELLS} would do")
    return tuple(_cell(f"genotype: codes[{place}]", codes) for place, codes in enumerate(cells))


def _cell(where: str, codes: Any) -> tuple[str, ...]:
    if not isinstance(codes, (list, tuple)):
        raise InputError(f"{where} is {shortened(codes)}; a list of codes such as ['11', '00', ...] would do")
    sizes = list(takewhile(lambda edges: edges <= MOST_EDGES, accumulate(count(2))))
    if len(codes) not in sizes:
        raise InputError(f"{where} has {len(codes)} codes; one an edge would do, {sizes[3]} for a cell of 4 nodes")
    for edge, code in enumerate(codes):
        if not isinstance(code, str) or code not in OPS:
            raise InputError(
                f"{where}[{edge}] is {shortened(code)}; '00', '01', '10' or '11' would do, in YAML with quotation marks"
            )
    return tuple(codes)
