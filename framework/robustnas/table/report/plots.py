"""Writes charts as files, with matplotlib: for papers, in colours and sizes of paper."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from robustnas.errors import InputError
from robustnas.runtime.artifacts import write_bytes
from robustnas.table.report import axis
from robustnas.table.report.charts import Chart, Drawing, HeatMap, Series
from robustnas.table.report.heat import BESIDE
from robustnas.table.report.svg import DASHES, shortened

COLOURS = ("#0068b0", "#c24a00", "#00795a", "#a8437f", "#836300", "#1c1f24", "#4a8fc7", "#7a5bc4")
"""As the page has them in the light."""

MARKERS = "os^DvP_"

INCHES = (4.2, 3.0)

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
"""Type 42 fonts are what conferences accept."""


def need() -> None:
    """Require matplotlib.

    Raises:
        InputError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as fault:
        raise InputError(
            "--figures needs matplotlib, which is not installed: `pip install 'robustnas[plots]'`; the page needs none"
        ) from fault


def write(drawings: Sequence[Drawing], folder: Path, kind: str) -> Path:
    """Write each drawing as a file, `pdf` or `png`, under the name of its key; of two with one name the second as `-2`.

    Raises:
        InputError: matplotlib is not installed.
        RunDirectoryError: a file cannot be written.
    """
    need()
    import matplotlib
    from matplotlib.figure import Figure

    names = set[str]()
    for drawing in drawings:
        name = next(one for number in count(1) if (one := drawing.key + f"-{number}" * (number > 1)) not in names)
        names.add(name)
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            figure = Figure(figsize=INCHES, layout="constrained")
            if isinstance(drawing, HeatMap):
                _heat(drawing, figure)
            else:
                _chart(drawing, figure)
            file = io.BytesIO()
            dated: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(file, format=kind, dpi=200, metadata=dated)
        write_bytes(folder / f"{name}.{kind}", file.getvalue())
    return folder


def _chart(chart: Chart, figure: Any) -> None:
    """Draw lines or points."""
    axes = figure.subplots()
    for series in chart.series:
        across, up = zip(*series.points, strict=True)
        axes.plot(across, up, label=_plain(shortened(series.name)), **_look(series))
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.set_ylim(chart.low, None if chart.high is None else chart.high * 1.03)
    if chart.whole:
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in axis.ticks(low, high, whole=True) if low <= tick <= high])
    axes.set(title=_plain(chart.title), xlabel=_plain(chart.across), ylabel=_plain(chart.up))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _look(series: Series) -> dict[str, Any]:
    """The colour, dashes and markers of a series."""
    if series.style is None:
        return {"color": "#57606a", "linestyle": ":", "linewidth": 1.0}
    dashes = [float(one) for one in DASHES[series.style % len(DASHES)].split()]
    line: dict[str, Any] = {"linestyle": (0, dashes) if dashes else "-"} if series.joined else {"linestyle": ""}
    return {
        **line,
        "color": COLOURS[series.style % len(COLOURS)],
        "marker": MARKERS[series.style % len(MARKERS)],
        "markevery": max(1, len(series.points) // 6),
        "markersize": 4,
        "linewidth": 1.4,
        "drawstyle": "steps-post" if series.steps else "default",
    }


def _heat(chart: HeatMap, figure: Any) -> None:
    """Draw fields side by side."""
    beside = min(BESIDE, len(chart.fields))
    lines = -(-len(chart.fields) // beside)
    figure.set_size_inches(7, 0.6 + 1.1 * lines)
    every = figure.subplots(lines, beside, squeeze=False).ravel()
    for place, (axes, field) in enumerate(zip(every, chart.fields, strict=False)):
        drawn = axes.imshow(field.values, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        axes.set_title(_plain(field.title), fontsize=7, pad=2)
        axes.set_xticks([])
        first = place % beside == 0
        axes.set_yticks(range(len(field.rows)) if first else [], map(_plain, field.rows) if first else [], fontsize=5)
    for axes in every[len(chart.fields) :]:
        axes.set_visible(False)
    figure.colorbar(drawn, ax=list(every), shrink=0.6)
    figure.suptitle(_plain(f"{chart.title} (epochs {chart.columns[0]} to {chart.columns[-1]})"), fontsize=9)


def _plain(text: str) -> str:
    """A text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
