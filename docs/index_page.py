"""What a package index shows of README: its links to files of the repository are absolute, or plain text.

An index has no files of ours, so a relative link leads nowhere there.  Links are absolute once `[project.urls]` has a
`Source`; until then their text stays.  Hatchling calls this when it builds (`[tool.hatch.metadata.hooks.custom]`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)\s]+)\)")


def page(readme: str, source: str | None) -> str:
    """Write README for an index, whose `source` is the repository's address."""
    return RELATIVE.sub(lambda link: f"[{link[1]}]({source}/blob/main/{link[2]})" if source else link[1], readme)


class IndexPage(MetadataHookInterface):
    """Sets the field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with the table `[project]`."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = page(readme, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
