"""Section `published`: figures that papers report, which the table shows as rows of their own below what is measured.

    published:
      dsrna-combined: {source: "Hosseini et al. 2021, table 1", clean: 97.51, pgd-100: 60.71}

A figure is named as its printed column is and written in its unit.  Nothing is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustnas.certify.settings import Certify
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults
from robustnas.recipe.schema import Attack, Reported
from robustnas.recipe.values import BAD, found, read_value, refuse, refuse_unknown
from robustnas.runtime.quoted import quoted

SOURCE = "source"


def read_published(node: Node, attacks: Sequence[Attack] | None, certify: Certify | None, faults: Faults) -> Any:
    """Read the section: for each row its source and its figures, of which it may have none.

    Args:
        attacks: the recipe's, whose labels are columns; None where some could not be read.
        certify: the recipe's, whose norms are columns.
    """
    if not isinstance(node.value, dict):
        text = f"found {found(node.value)}; a mapping of names to figures would do, such as"
        return refuse(node, f"{text} {{dsrna: {{source: Hosseini et al. 2021, clean: 97.51}}}}", faults)
    shares = ["clean", *(str(attack.label) for attack in attacks or ()), *(["certified"] if certify else [])]
    others = [*(f"radius {norm}" for norm in (certify.norms if certify else ())), "parameters", "search"]
    rows = [_row(name, entry, shares, others, faults, whole=attacks is not None) for name, entry in node.value.items()]
    return tuple(rows)


def _row(name: str, node: Node, shares: Sequence[str], others: Sequence[str], faults: Faults, *, whole: bool) -> Any:
    """Read one row, or return `BAD` with faults; of unknown columns only where the `whole` table is known."""
    if not isinstance(node.value, dict):
        return refuse(node, f"found {found(node.value)}; a mapping of its source and figures would do", faults)
    if not name.strip() or not name.isprintable():
        return refuse(node, f"found {quoted(name)} as the name of a row; printable text would do", faults)
    if SOURCE not in node.keys:
        faults.missing(node.mark, f"{node.path}.{SOURCE}", "who published the figures would do, and under which regime")
    if whole:
        refuse_unknown(node, [SOURCE, *shares, *others], "column of this recipe's table", faults)
    source = read_value(node.entries[SOURCE], str, faults) if SOURCE in node.entries else BAD
    figures = {}
    for key, entry in node.entries.items():
        if key in shares or key in others:
            figures[key] = _figure(entry, "percent" if key in shares else "", faults)
    return BAD if source is BAD or BAD in figures.values() else Reported(name, source, figures)


def _figure(node: Node, unit: str, faults: Faults) -> Any:
    """Read a figure in the unit of its column, or return `BAD` with a fault."""
    value = read_value(node, float, faults)
    if value is not BAD and (value < 0 or (unit and value > 100)):
        would = "percent, from 0 to 100," if unit else "at least 0"
        return refuse(node, f"found {found(node.value)}; {would} would do", faults)
    return value
