"""A cell as NAS-Bench-201 writes it: `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|none~2|`.

A `+` divides the nodes 1, 2, ...; an `operation~state` is an edge that leaves an earlier node, 0 being the cell's
input.  As plain data such a genotype is `{"cell": text}`.  Which operations and how many nodes there are is the space's
matter.

Source: Dong and Yang 2020, arXiv:2001.00326.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from reprlib import repr as shortened
from typing import Any

from robustnas.errors import InputError

LONGEST = 1000
"""Characters of a text: dozens of edges."""

NONE = "none"
"""The operation of an edge that is not written."""

EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|"


def is_cell(text: str) -> bool:
    """Whether a text is meant as one in this notation, rather than as a name or a path."""
    return text.lstrip().startswith("|") and "~" in text


def plain(data: Any) -> Any:
    """A genotype in this notation as plain data in the one form that `write` gives; anything else as it is.

    Raises:
        InputError: a text in this notation that cannot be read.
    """
    if isinstance(data, str) and is_cell(data):
        return {"cell": write(read(data))}
    if isinstance(data, Mapping) and isinstance(data.get("cell"), str):
        return {**data, "cell": write(read(data["cell"]))}
    return data


def write(ops: Sequence[str]) -> str:
    """The text of a cell, from the operation of every edge, node by node and within a node by the state it leaves."""
    left, nodes = list(ops), list[str]()
    for node in count(1):
        if not left:
            return "+".join(nodes)
        own, left = left[:node], left[node:]
        nodes.append("".join(f"|{op}~{state}" for state, op in enumerate(own)) + "|")
    raise AssertionError


def read(text: str) -> tuple[str, ...]:
    """The operation of every edge of a cell, in the order of `write`; an edge that is not written has `none`.

    Raises:
        InputError: a node or an edge is not of this notation, or an edge is there twice.
    """
    if len(text) > LONGEST:
        raise InputError(f"genotype: cell has {len(text)} characters; at most {LONGEST} would do")
    ops: list[str] = []
    for node, written in enumerate("".join(text.split()).split("+"), start=1):
        if len(written) < 3 or written[0] != "|" or written[-1] != "|":
            raise InputError(f"genotype: cell: node {node} is {shortened(written)}; edges like {EXAMPLE} would do")
        own = dict[int, str]()
        for edge in written[1:-1].split("|"):
            op, tilde, state = edge.partition("~")
            if not op or not tilde or state not in [str(earlier) for earlier in range(node)]:
                would = f"operation~state, the states 0 to {node - 1}, would do"
                raise InputError(f"genotype: cell: node {node} has the edge {shortened(edge)}; {would}")
            if int(state) in own:
                raise InputError(f"genotype: cell: node {node} has two edges from state {state}; one would do")
            own[int(state)] = op
        ops += [own.get(state, NONE) for state in range(node)]
    return tuple(ops)
