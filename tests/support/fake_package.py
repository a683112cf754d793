"""Makes installed packages for tests: a folder on `sys.path` with the metadata an installer would write."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path


def install(
    folder: Path, name: str, entry_points: dict[str, dict[str, str]], version: str = "1.0", **modules: str
) -> None:
    """Write a distribution into `folder`, as pip would.

    Args:
        folder: a folder on `sys.path`.
        name: of the distribution.
        entry_points: for each group, names and targets.
        version: of the distribution.
        modules: sources by module name; an older import of that name is forgotten.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {target}" for point, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        sys.modules.pop(module, None)


def group(kind: str) -> str:
    """The entry-point group of a kind of plugin."""
    return f"robustnas.{kind}"
