"""The one table: a row a method, mean and standard deviation over seeds, best value marked.

results      from a run directory to the table, and to a list of what happened to each image
rows         the figures as plain data, from the results of the stages
forms        how they are presented: JSON, Markdown, CSV, terminal
robustbench  one result in the form of RobustBench's files
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.table.forms import cells, csv_text, json_data, markdown, matrices, questions, show
    from robustnas.table.rows import Comparison, SeedResult, figure, row, share

__all__ = [
    "Comparison",
    "SeedResult",
    "cells",
    "csv_text",
    "figure",
    "json_data",
    "markdown",
    "matrices",
    "questions",
    "row",
    "share",
    "show",
]

__getattr__ = facade(
    __name__,
    **dict.fromkeys(("cells", "csv_text", "json_data", "markdown", "matrices", "questions", "show"), "forms"),
    **dict.fromkeys(("Comparison", "SeedResult", "figure", "row", "share"), "rows"),
)
