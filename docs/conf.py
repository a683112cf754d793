"""How the documents become pages: `sphinx-build -W docs site`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import robustnas

sys.path.insert(0, str(Path(__file__).parent))

project = "robustnas"
copyright = "the robustnas authors, MIT licence"
release = version = robustnas.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "plugin_pages",
    "gallery_pages",
]

exclude_patterns = ["examples"]  # packages of their own, whose READMEs are no pages

html_theme = "furo"
html_title = f"robustnas {version}"
html_copy_source = False

# links such as #train go to headings, as they do where the files are read as they are
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them, and the text says what they mean


def _keep_colon(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the text of a constant for its type; a semicolon stays text."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", "; ")


def setup(app: Any) -> None:
    """Called by Sphinx; the handler comes before napoleon's, whose priority is 500."""
    app.connect("autodoc-process-docstring", _keep_colon, priority=400)
