"""The directive `gallery`: drawn cells of the literature and the report of a small run, made when pages are built.

    ```{gallery} DARTS_V2 PC_DARTS_CIFAR
    the recipe of the run
    ```

The run is kept with Sphinx's own files, so the next build finds its stages done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import robustnas
from robustnas.genotype import drawing
from robustnas.table.report import page
from robustnas_plugins.search_spaces.darts import Darts

FOLDER = "gallery"
"""Where the report is, below the pages."""


class Gallery(SphinxDirective):
    """Drawn cells, the recipe, and the report of its run in a frame."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make the figures."""
        recipe = "\n".join(self.content)
        kept = Path(self.env.doctreedir) / "gallery-run"
        run = robustnas.run_recipe(yaml.safe_load(recipe), kept, device="cpu")
        page.write([run], Path(self.env.app.outdir) / FOLDER)
        published = Darts().published
        cells = "".join(
            f"<figure><figcaption>{name}</figcaption>{drawing.svg(published[name])}</figure>"
            for name in self.arguments[0].split()
        )
        frame = f'<iframe src="{FOLDER}/report.html" title="Report of a small run" width="100%" height="900"></iframe>'
        shown = nodes.literal_block(recipe, recipe, language="yaml")
        return [nodes.raw("", cells, format="html"), shown, nodes.raw("", frame, format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True}
