"""A table as Python holds it: plain records, a DataFrame, and what a notebook shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from attrs import field, frozen

from robustnas.errors import InputError
from robustnas.runtime import printable
from robustnas.table import forms, html
from robustnas.table.grids import Body, Grid, below, cells
from robustnas.table.lines import under
from robustnas.table.rows import Comparison


@frozen(repr=False)
class Table:
    """A row a method, of several runs a row a method of each; iterating over it gives its `records`.

    Args:
        records: the rows, flat and unrounded, with the columns of `table.csv`: shares in [0, 1], radii in pixel units;
            None where nothing was measured.
        rows: the rows as `table.json` holds them, with the value of every seed.
        title: what the rows share.
        titles: what stands above the columns of the printed table.
        body: its cells, each a text and whether it is the best of its column.
        notes: the lines under it, which say what its figures mean.
        below: further grids, each a title, titles and cells: differences from the first method with intervals, what
            each attack's variants left standing.
        comparisons: the tests of pairs as `table.json` holds them, each method with the best and with the first.
    """

    records: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    title: str
    titles: list[str]
    body: Body
    notes: list[str]
    below: list[Grid] = field(factory=list)
    comparisons: list[dict[str, Any]] = field(factory=list)

    @classmethod
    def of(cls, comparison: Comparison) -> Self:
        """Make it of the figures and what is said of them."""
        return cls(
            forms.records(comparison),
            comparison.rows,
            comparison.heading,
            *cells(comparison),
            under(comparison),
            below(comparison),
            comparison.comparisons,
        )

    def dataframe(self) -> Any:
        """Return the records as a `pandas.DataFrame`.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as fault:
            raise InputError(
                "a DataFrame needs pandas, which is not installed: `pip install pandas`; `.records` needs nothing"
            ) from fault
        return pandas.DataFrame(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.records[place]

    def __repr__(self) -> str:
        """Give the table in Markdown, notes underneath."""
        notes = [f"- {printable.paragraph(note)}" for note in self.notes]
        further = [
            f"\n{printable.paragraph(title)}\n\n{forms.markdown_table(titles, body)}"
            for title, titles, body in self.below
        ]
        return "\n".join([forms.markdown_table(self.titles, self.body), "", *notes, *further])

    def _repr_html_(self) -> str:
        """Give the table as HTML, which notebooks show in place of `repr`."""
        table = html.grid(self.title, self.titles, self.body, map(html.escaped, self.notes))
        return "".join([table, *(html.grid(*grid) for grid in self.below)])
