"""The one table: a row a method, mean and standard deviation over seeds, best value marked.

rows.py     the figures as plain data, from the results of the stages
forms.py    how they are presented: JSON, Markdown, CSV, terminal
"""

from robustnas.table.forms import cells, csv_text, json_data, markdown, matrices, questions, show
from robustnas.table.rows import AttackColumn, Comparison, SeedResult, figure, row, share

__all__ = [
    "AttackColumn",
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
