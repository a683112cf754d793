"""The directive `plugins KIND`: every installed plugin of a kind, with its text and its options.

    ```{plugins} metric
    ```

Read from the registries when pages are built, so a page cannot lag behind the code.
"""

from __future__ import annotations

import inspect
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from robustnas.options import options_of
from robustnas.registry import REGISTRIES


class Plugins(SphinxDirective):
    """A section a plugin."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections, parsed as the page is: as MyST."""
        registry = REGISTRIES[self.arguments[0]]
        text = "\n\n".join(_plugin(name, registry.load(name)) for name in registry.names())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _plugin(name: str, cls: type) -> str:
    """One plugin as MyST: its name, its text, its options."""
    lines = [f"### `{name}`", "", f"`{cls.__module__}.{cls.__qualname__}`", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    options = options_of(cls).values()
    if options:
        lines += ["| option | type | default | help |", "|---|---|---|---|"]
    for option in options:
        cells = (f"`{option.name}`", option.type_text, f"`{option.default_text}`", option.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("plugins", Plugins)
    return {"parallel_read_safe": True}
