"""Draws the cells of each method: what its first search found, or what the recipe gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from robustnas.errors import InputError
from robustnas.genotype import drawing
from robustnas.plan.genotypes import is_written
from robustnas.run.asked import genotype_in
from robustnas.run.layout import Layout
from robustnas.runtime import printable
from robustnas.runtime.strangers import text_of
from robustnas.table.opened import Run
from robustnas.table.report.svg import safe


def of_method(run: Run, shown: Layout, method: str, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Draw the cells of a method, as pieces of a page.

    Args:
        recipe: of the run, as plain data.
    """
    places = {stages["choose"] or stages["search"]: seed for seed, stages in reversed(shown.methods[method].items())}
    if None in places:
        given = recipe["methods"][method].get("genotype")
        if given is None:
            yield "<p>A network made elsewhere: it has no genotype.</p>"
        elif isinstance(given, str) and not is_written(given):
            yield f"<p>Not searched: the recipe names {safe(given)}.</p>"  # which its space or a file knows
        else:
            yield f"<p>Not searched: the recipe has it.</p>\n{_drawn(given)}"
        return
    done = [(where, seed) for where, seed in reversed(places.items()) if run.directory.at(where).done]
    if not done:
        yield "<p>No search of this method is done yet.</p>"
        return
    where, seed = done[0]
    if len(places) > 1:
        yield f"<p>Of {len(places)} searches, that of seed {seed.search}.</p>"
    yield _drawn(genotype_in(run.directory.at(where)))


def _drawn(genotype: Any) -> str:
    """Draw a genotype; one that is in no form that can be drawn stands there as it is, with the reason."""
    try:
        figures = [
            f'<figure class="cell" tabindex="0">\n<figcaption>{safe(cell)}</figcaption>\n'
            f"{drawing.svg(genotype, cell)}\n</figure>\n"
            for cell in drawing.cells(genotype)
        ]
    except InputError as fault:
        text = genotype if isinstance(genotype, str) else json.dumps(genotype)
        return f"<p>Not drawn: {safe(text_of(fault))}</p>\n<pre>{escape(printable.lines(text))}</pre>"
    return f'<div class="cells">\n{"".join(figures)}</div>'
