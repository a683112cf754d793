"""Keeps the outcomes of batches that are done, so that a run that was killed goes on instead of beginning again."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch

from robustnas.attack.outcomes import Outcomes
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.progress_files import ProgressFiles
from robustnas.threat import ThreatModel


@attrs.define(eq=False)
class Progress:
    """What each part of a stage's attack has done at each radius, in memory and in the stage's folder.

    Args:
        folder: the stage's folder; None keeps nothing on the disk.
        rank: number of this process.
        beside: writes what else is kept of these batches; is called first, so that it never knows of fewer.
    """

    folder: StageFolder | None = None
    rank: int = 0
    beside: Callable[[], None] = lambda: None
    _files: ProgressFiles = attrs.field(init=False)
    _known: dict[str, Outcomes] = attrs.field(factory=dict, init=False)
    _own: dict[str, Outcomes] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._files = ProgressFiles(self.folder, self.rank)
        for path, own, state in self._files.read():
            for part, plain in state.items():
                if "indices" in plain:  # an older version wrote this and kept too little to go on from
                    continue
                try:
                    outcomes = Outcomes(**{**plain, "threat": ThreatModel(**plain["threat"])})
                except (TypeError, KeyError, ValueError, AttributeError) as fault:
                    raise RunDirectoryError(damaged(path, "it does not hold what was done of an attack")) from fault
                for kept in (self._known, self._own) if own else (self._known,):
                    kept[part] = kept[part].joined(outcomes) if part in kept else outcomes

    def of(self, part: str, threat: ThreatModel) -> Outcomes:
        """Return the outcomes of a part so far: those of all processes before this one began, and its own since."""
        none = torch.zeros(0, dtype=torch.int64)
        return self._known.get(part) or Outcomes(threat, index=none, label=none, clean=none)

    def note(self, part: str, outcomes: Outcomes) -> None:
        """Note that a batch is done; notes are written now and then."""
        for kept in (self._known, self._own):
            kept[part] = kept[part].joined(outcomes) if part in kept else outcomes
        if self._files.due:
            self.write()

    def write(self) -> None:
        self.beside()
        self._files.write({part: attrs.asdict(outcomes) for part, outcomes in self._own.items()})

    def forget(self) -> None:
        """Remove the files, which are not needed once the result is written."""
        self._files.forget()
