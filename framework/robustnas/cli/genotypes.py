"""The commands `robustnas genotypes list` and `show`: cells of the literature that search spaces know by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from robustnas.cli.draw import drawn
from robustnas.cli.output import print_table
from robustnas.cli.published import published
from robustnas.errors import InputError
from robustnas.genotype.reference import Reference
from robustnas.runtime.quoted import quoted
from robustnas.runtime.strangers import text_of
from robustnas.runtime.suggest import did_you_mean
from robustnas.runtime.terminal import tell, write


def list_genotypes(arguments: argparse.Namespace) -> int:
    """A line for each: its search spaces, size and paper."""
    found = published()
    rows = []
    for name, one in found.items():
        reference = one.reference or Reference("")
        rows.append(
            (
                name,
                ", ".join(one.spaces),
                "-" if reference.parameters is None else f"{reference.parameters / 1e6:.3f}",
                "-" if reference.multiply_adds is None else f"{reference.multiply_adds / 1e6:.1f}",
                reference.sought or "-",
                reference.paper or "-",
            )
        )
    print_table(("name", "search space", "parameters M", "multiply-adds M", "sought", "paper"), rows)
    by_size: dict[str, list[str]] = {}
    for name, one in found.items():
        if one.reference and one.reference.size:
            by_size.setdefault(one.reference.size, []).append(name)
    usual = max(by_size, key=lambda size: len(by_size[size]), default="")
    for size, names in by_size.items():
        of = "" if size == usual else f" of {', '.join(names)}"
        tell(f"\nparameters and multiply-adds{of}: of {size}")
    tell("\nin a recipe: methods: {NAME: {genotype: NAME}}; one of them, drawn: robustnas genotypes show NAME")
    return 0


def show_genotype(arguments: argparse.Namespace) -> int:
    """Its reference and its drawing."""
    name: str = arguments.name
    found = published()
    if name not in found:
        raise InputError(
            f"found {quoted(name)}, which no installed search space publishes{did_you_mean(name, list(found))}; "
            "robustnas genotypes list shows all, and robustnas draw FILE draws one of your own"
        )
    one = found[name]
    lines = {"search space": ", ".join(one.spaces), **(_facts(one.reference) if one.reference else {})}
    write("".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n" + _shown(one.genotype))
    return 0


def _shown(genotype: Mapping[str, Any]) -> str:
    """Its drawing; of what is no cell, the genotype as a recipe may have it."""
    try:
        return drawn(genotype)
    except InputError as fault:
        return f"{json.dumps(genotype)}\nnot drawn: {text_of(fault)}\n"


def _facts(reference: Reference) -> dict[str, str]:
    counts = [
        f"{count:,} {what}"
        for count, what in ((reference.parameters, "parameters"), (reference.multiply_adds, "multiply-adds"))
        if count is not None
    ]
    facts = {
        "paper": reference.paper,
        "code": reference.code,
        "sought": reference.sought,
        "size": f"{', '.join(counts)} ({reference.size})" if counts else "",
        "notes": reference.notes,
    }
    return {key: value for key, value in facts.items() if value}
