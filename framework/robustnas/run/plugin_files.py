"""Which files of the user's own a run took plugins from: `plugins.json`, not there where none did."""

from __future__ import annotations

from robustnas.registry.plugin_file import GIVEN
from robustnas.run.directory import RunDirectory
from robustnas.runtime.terminal import tell

FILE = "plugins.json"


def record(directory: RunDirectory) -> None:
    """Write down path and digest of each, and tell which are not what an earlier run here was given."""
    former = [] if directory.lost(FILE) else directory.read_json(FILE) or []
    known = {(one["kind"], one["name"]): one for one in former}
    for key, file in GIVEN.items():
        given = {"kind": file.kind, "name": file.name, "class": file.cls, "file": str(file.path), "sha256": file.sha256}
        before = known.get(key, given)
        if before["sha256"] != file.sha256:
            text = f"{file.kind} {file.name!r}: {file.path} is not what the last run in this directory was given "
            tell(f"{text}({before['file']}); stages that need it are done anew", error=True)
        known[key] = given
    if list(known.values()) != former:
        directory.write_json(FILE, list(known.values()))
