"""What a sweep measured, as plain records: outcomes over the value of a key, a line a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustnas.options import value_text
from robustnas.threat import pixels

OUTCOMES = ("clean", "robust", "certified")
"""The figures of a row that are drawn over a key."""


def swept(made: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List a record for each row that section `sweep` made and each of its keys, in the order of the rows.

    Args:
        made: `robustnas.run.layout.Layout.swept`.
        rows: of a table, `robustnas.table.rows.Comparison.rows`.

    Returns:
        Of each record, `key`; `value`, a number where it is one; `text`, the value as a recipe has it; `method`, whose
        line it is on: the method that was swept, with the values of the other keys where there are some; and the
        figures `OUTCOMES` of the row, each as in `robustnas.table.rows.Figure`.
    """
    records = []
    for row in rows:
        values = {key: value for key, value in made.get(row["method"], {}).items() if key != "of"}
        for key, value in values.items():
            others = [f"{other} {value_text(its)}" for other, its in values.items() if other != key]
            method = made[row["method"]]["of"]
            records.append(
                {
                    "key": key,
                    "value": _number(value),
                    "text": value_text(value),
                    "method": f"{method} ({', '.join(others)})" if others else method,
                    **{name: row.get(name) for name in OUTCOMES},
                }
            )
    return records


def _number(value: Any) -> Any:
    """A fraction such as 8/255 as a number; any other value as it is."""
    try:
        return pixels(value) if isinstance(value, str) and "/" in value else value
    except ValueError:
        return value
