"""The run directory: one experiment, a folder a stage, and whoever is at work in it.

run.json          which experiment this is: dataset, search space, threat
digests.json      what was written here (see `robustnas.runtime.artifacts.digests`), and which stages are older than
that recipe.yaml       the recipe of the last run, every default filled in
layout.json       which folder holds which stage, and the columns of the table
search/ train/ clean/ probe/ certify/ attack/ smooth/      stages, `<method>-seed<seed>-<key>`
.work/            who is at work, and at which stage (see `robustnas.run.presence`, `robustnas.run.leases`)
table.md table.csv table.json comparisons.csv
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from robustnas.errors import RunDirectoryError
from robustnas.options import plain
from robustnas.plan import KINDS, Plan, Stage
from robustnas.run.presence import FOLDER
from robustnas.runtime.artifacts import (
    PART,
    Lease,
    StageFolder,
    damaged,
    digests,
    json_bytes,
    of_no_stage,
    read_json,
    real_folder,
    write_recorded,
)

DIRECTORY = "directory"
"""The name of the lease of the directory's own files."""

NAMED = 4
"""A note names at most so many folders."""


@frozen
class RunDirectory:
    """A folder that holds one experiment.

    Args:
        path: where it is.
        holder: the name under which this process holds leases of stages; None where it only reads, or nobody else can
            be at work.
        command: the name of the process whose command made what is done here; None where that is this process.
    """

    path: Path
    holder: str | None = None
    command: str | None = None

    def sweep(self, stages: Iterable[Stage]) -> None:
        """Remove what a kill left half written in folders of stages that are done; whoever takes another sweeps it."""
        for folder in self.folders(stages).values():
            if folder.done:
                folder.swept()

    def claim(self, plan: Plan) -> None:
        """Make the directory this experiment's, after `check`; no other process writes files of its own meanwhile."""
        for left in self.path.glob(f".*{PART}"):
            left.unlink(missing_ok=True)
        if not (self.path / "run.json").exists():
            self.write_json("run.json", plain(plan.identity))

    def _stage_folders(self) -> list[Path]:
        """List the folders of all stages here.

        Raises:
            RunDirectoryError: one is a link to another.
        """
        folders = []
        for kind in KINDS:
            real_folder(self.path / kind)
            for folder in sorted((self.path / kind).glob("*")):
                real_folder(folder)
                folders += [folder] if folder.is_dir() else []
        return folders

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file of the directory's own, with its digest; a `holder` holds the directory's lease.

        Raises:
            LeaseLostError: another process has taken that over.
        """
        self._write(name, json_bytes(data))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the directory's own, as `write_json` does."""
        self._write(name, text.encode())

    def read_json(self, name: str) -> Any:
        """Read what `write_json` wrote; None where it wrote nothing.

        Raises:
            RunDirectoryError: the file is gone, or not what was written.
        """
        if self.lost(name):
            remedy = "run the recipe again in this directory: that writes the file anew"
            raise RunDirectoryError(damaged(self.path / name, "it was written and is missing", remedy))
        file = self.path / name
        return read_json(file, of_no_stage(file)) if os.path.lexists(file) else None

    def lost(self, name: str) -> bool:
        """Whether a file that was written here is gone."""
        return digests.missing(self.path / name)

    def _write(self, name: str, data: bytes) -> None:
        if not digests.present(self.path):
            stages = self._stage_folders()
            older = () if any(map(digests.present, stages)) else tuple(map(digests.key_of, stages))
            files = digests.of_an_older_version(self.path)
            digests.write(self.path / digests.FILE, digests.Digests(files=files, older=older))
        check = None if self.holder is None else self._lease(DIRECTORY, self.holder).check
        write_recorded(self.path / name, lambda file: file.write(data), None, check=check)

    def _lease(self, name: str, holder: str) -> Lease:
        return Lease(self.path / FOLDER / f"{name}.lease", holder)

    def verify(self, stages: Iterable[StageFolder], *, written_anew: bool = False) -> list[str]:
        """Check that the folders of stages have digests, against which each file is checked when it is read.

        Only folders of a version that kept no digests may lack them: either no folder here has any, or the directory's
        own digests list these folders as older.

        Args:
            written_anew: whether the directory's own files are about to be written anew.

        Returns:
            Notes for a reader.

        Raises:
            RunDirectoryError: digests are gone from where they were, or a folder is a link to another.
        """
        without = []
        for stage in stages:
            stage.own()
            without += [stage.path] if _without_digests(stage.path) else []
        top = self.path / digests.FILE
        if os.path.lexists(top):
            older = digests.read(top, of_no_stage(top)).older
        elif not any(digests.present(folder) for folder in self._stage_folders()):
            older = tuple(digests.key_of(folder) for folder in without)
        elif written_anew:
            older = ()
        else:
            remedy = "run the recipe again in this directory: that writes the file anew, and no stage is redone"
            raise RunDirectoryError(damaged(top, "it is missing, and the stages here have theirs", remedy))
        for folder in without:
            if digests.key_of(folder) not in older:
                raise RunDirectoryError(
                    damaged(folder / digests.FILE, "it is missing, so the other files are not known")
                )
        names = ", ".join(folder.name for folder in without[:NAMED]) + (" and others" if without[NAMED:] else "")
        told = f"of a version that kept no digests, so its files are taken as they are: {names}"
        return [f"{self.path}: {told}"] if without else []

    def check(self, plan: Plan) -> None:
        """Refuse a directory that belongs to another experiment.

        Raises:
            RunDirectoryError: it belongs to another dataset, search space or threat.
        """
        file = self.path / "run.json"
        if not os.path.lexists(file):
            return
        wanted, recorded = plain(plan.identity), read_json(file, of_no_stage(file))
        if not isinstance(recorded, dict) or not wanted.keys() <= recorded.keys():
            raise RunDirectoryError(damaged(file, f"it does not hold {', '.join(wanted)}", of_no_stage(file)))
        differ = [key for key in wanted if recorded.get(key) != wanted[key]]
        if differ:
            lines = "\n".join(
                f"  {key}: found {_brief(recorded.get(key))}, the recipe says {_brief(wanted[key])}" for key in differ
            )
            raise RunDirectoryError(
                f"{self.path} holds another experiment; one table compares like with like\n{lines}\n"
                "  choose another directory with --out"
            )

    def folder(self, stage: Stage) -> StageFolder:
        """The folder of a stage, found by its key even where the method had another name when it was made."""
        own = self.path / stage.folder
        found = StageFolder(own) if os.path.lexists(own) else self.folders([stage])[stage.key]
        if self.holder is None:
            return found
        return evolve(found, lease=self._lease(stage.key, self.holder))

    def folders(self, stages: Iterable[Stage]) -> dict[str, StageFolder]:
        """The folders of stages by key, for each key that of its first stage; lists the directory only once."""
        stages = list(stages)
        there = {kind: _by_key(self.path / kind) for kind in {stage.kind for stage in stages}}
        folders_by_key: dict[str, StageFolder] = {}
        for stage in stages:
            if stage.key not in folders_by_key:
                own = stage.folder.partition("/")[2]
                names = there[stage.kind].get(stage.key, [own])
                folders_by_key[stage.key] = StageFolder(self.path / stage.kind / (own if own in names else names[0]))
        return folders_by_key

    def beside(self, stage: Stage) -> list[StageFolder]:
        """The folders of finished stages that differ from a stage in their keys alone: of other images, say.

        Those without digests are left out: nothing can be taken over from an older version's.

        Raises:
            RunDirectoryError: one has lost its result, or is a link to another.
        """
        kind, _, own = stage.folder.partition("/")
        names = [name for names in _by_key(self.path / kind).values() for name in names]
        alike = [name for name in sorted(names) if name != own and name.rpartition("-")[0] == own.rpartition("-")[0]]
        folders = [StageFolder(self.path / kind / name) for name in alike]
        return [folder for folder in folders if folder.done and digests.present(folder.path)]

    def at(self, where: str) -> StageFolder:
        """The folder of a stage, from its path below this directory."""
        return StageFolder(self.path / where)

    def done(self, stage: Stage) -> bool:
        """Whether the stage has a result here."""
        return self.folder(stage).done

    def all_done(self, stages: Iterable[Stage]) -> set[str]:
        """The keys of those stages that have a result here."""
        return {key for key, folder in self.folders(stages).items() if folder.done}


def _by_key(folder: Path) -> dict[str, list[str]]:
    """List the names in a folder of stages, sorted, by the keys at their ends."""
    names_by_key: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        names_by_key.setdefault(name.rpartition("-")[2], []).append(name)
    return names_by_key


def _without_digests(folder: Path) -> bool:
    """Whether a folder has files of a stage but no digests."""
    if not os.path.lexists(folder) or digests.present(folder):
        return False
    return any(one.suffix in (".json", ".jsonl", ".pt", ".npz") for one in folder.glob("*"))


def _brief(value: Any) -> str:
    """Write an experiment's dataset, space or threat in a few words."""
    if isinstance(value, Mapping):
        options = value.get("options", {k: v for k, v in value.items() if k != "name"})
        inside = ", ".join(f"{k} {v}" for k, v in options.items() if v is not None)
        if "name" not in value:
            return inside
        return f"{value['name']} ({inside})" if inside else str(value["name"])
    return repr(value)
