"""Puts the page of a report together, and writes it: one file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustnas import __version__
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import real_folder, write_text
from robustnas.runtime.strangers import text_of
from robustnas.table import finished
from robustnas.table.opened import Run
from robustnas.table.report import plots, sections
from robustnas.table.report.contents import Contents
from robustnas.table.report.sections import Section
from robustnas.table.report.style import STYLE
from robustnas.table.report.svg import safe
from robustnas.table.rows import Comparison
from robustnas.table.several import joined

FILE = "report.html"

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page tells its reader's browser: nothing is loaded, and nothing runs."""


def write(
    runs: Sequence[Run], folder: Path | None = None, figures: str | None = None, *, force: bool = False
) -> list[Path]:
    """Write the report of some runs; of a run that goes on it says what is there.

    Args:
        folder: default the folder `report` of the first run.
        figures: also write each chart as a file, `pdf` or `png`, into `figures` below the folder.
        force: also of runs that are not alike, as `robustnas.table.several.joined` takes it.

    Returns:
        The page, and the folder of figures.

    Raises:
        RunDirectoryError: something in a run is damaged, or the folder cannot be written.
        InputError: the runs are not alike; or figures are asked for and matplotlib is not there.
        VerdictError: results contradict each other; the report is written first, without these.
    """
    if figures is not None:
        plots.need()
    place = runs[0].path / "report" if folder is None else folder
    if folder is None:
        real_folder(place)
    together = joined(*runs, force=force) if len(runs) > 1 else None
    every = [Contents.of(run) for run in runs]
    text = page(every, together)
    try:
        write_text(place / FILE, text)
        written = [place / FILE]
        if figures is not None:
            drawings = [one for contents in every for one in contents.drawings]
            written.append(plots.write(drawings, place / "figures", figures))
    except (RunDirectoryError, OSError) as fault:
        why = f"{place} cannot be written: {fault.strerror}" if isinstance(fault, OSError) else text_of(fault)
        raise RunDirectoryError(f"{why.splitlines()[0]}\n  another folder would do: --out FOLDER") from fault
    for contents in every:
        finished.agree(contents.comparison)
    return written


def page(every: Sequence[Contents], together: Comparison | None = None) -> str:
    """Make the page of some runs.

    Args:
        together: the table of all of them, of several.
    """
    names = [one.run.path.resolve().name for one in every]
    title = f"{', '.join(names)}: report"
    parts = list[str]()
    links = list[tuple[str, str]]()
    if together is not None:
        section = sections.of_runs(together)
        parts.append(_section(section))
        links.append((section.ident, section.title))
    for number, (name, contents) in enumerate(zip(names, every, strict=True), start=1):
        if len(every) > 1:
            parts.append(f'<h1 id="run-{number}">{safe(name)}</h1>')
            links.append((f"run-{number}", name))
        parts.append(f"<p>{_about(contents)}</p>")
        for section in sections.of_run(contents, number):
            parts.append(_section(section))
            links += [(section.ident, section.title)] if len(every) == 1 else []
    nav = "".join(f'<li><a href="#{ident}">{safe(words)}</a></li>\n' for ident, words in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{safe(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{safe(title)}</h1>
<nav aria-label="Contents"><ul>
{nav}</ul></nav>
</header>
<main>
{"".join(parts)}</main>
<footer>Written by robustnas {safe(__version__)}.</footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    return f'<section id="{section.ident}">\n<h2>{safe(section.title)}</h2>\n{section.body}\n</section>\n'


def _about(contents: Contents) -> str:
    """Say in a line what a run is about."""
    shown = contents.shown
    methods = len(shown.methods)
    networks = len(shown.networks)
    return (
        f"{safe(shown.dataset)}, threat {safe(str(shown.threat))}, {methods} method{'s' * (methods > 1)}, "
        f"{networks} network{'s' * (networks > 1)}; <code>{safe(str(contents.run.path))}</code>"
    )
