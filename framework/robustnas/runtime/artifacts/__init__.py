"""Files of a run: whole or absent, opened through no link, and known by their digests.

files.py          one file: written whole, read as a regular file
digests.py        what was written into a folder, so that what is read there is that and nothing else
lease.py          who may write into a place
lock.py           whether a process of this machine is still there
stage_folder.py   the folder of one stage
"""

from robustnas.runtime.artifacts.digests import forget, opened, write_recorded
from robustnas.runtime.artifacts.files import (
    PART,
    UMASK,
    damaged,
    disk_full,
    held_open,
    json_bytes,
    of_no_stage,
    real_folder,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)
from robustnas.runtime.artifacts.lease import Lease
from robustnas.runtime.artifacts.lock import HELD, locked, try_lock
from robustnas.runtime.artifacts.stage_folder import StageFolder, read_json

__all__ = [
    "HELD",
    "PART",
    "UMASK",
    "Lease",
    "StageFolder",
    "damaged",
    "disk_full",
    "forget",
    "held_open",
    "json_bytes",
    "locked",
    "of_no_stage",
    "opened",
    "read_json",
    "real_folder",
    "try_lock",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_recorded",
    "write_text",
]
