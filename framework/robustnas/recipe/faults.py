"""Everything that is wrong with a recipe, gathered before anything is raised."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, define, frozen

from robustnas.errors import RecipeError

MOST = 1000
"""A message lists at most so many faults of a recipe."""

LONGEST = 1500
"""A fault's text is cut at so many characters."""


@frozen
class Mark:
    """A place in a file (lines and columns from 1), or the argument of `--set` a value came from (line 0)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def nearest(places: Mapping[str, Mark], path: str, file: str) -> Mark:
    """Find where a key is written, or else the nearest key above it, or else the beginning of the file."""
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path) or Mark(file, 1, 1)


@frozen
class Fault:
    """One thing that is wrong: where, at which key, and in words what was found and what would do."""

    mark: Mark
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.path}: {self.text}" if self.path else f"{self.mark}: {self.text}"


@define
class Faults:
    """Collects faults; the same text at the same place (in a section that methods share) counts once.

    Args:
        noted: how often a fault was noted, repetitions included.
        partial: whether the recipe that this one extends could not be read, so that a missing key may stand there.
        most: raise once there are so many; None collects without limit.
        known: the faults in the order in which they were noted, by what tells them apart.
    """

    partial: bool = False
    most: int | None = MOST
    noted: int = 0
    known: dict[tuple[Mark, str, str], Fault] = Factory(dict)

    @property
    def found(self) -> list[Fault]:
        """All faults, in the order in which they were noted."""
        return list(self.known.values())

    def add(self, mark: Mark, path: str, text: str) -> None:
        """Note a fault.

        Raises:
            RecipeError: there are so many that more would help nobody.
        """
        self.noted += 1
        if len(text) > LONGEST:  # a fault may quote a long text of the recipe
            text = f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
        self.known.setdefault((mark, "" if mark.line else path, text), Fault(mark, path, text))
        if self.most is not None and len(self.known) >= self.most:
            self.raise_all()

    def join(self, others: Faults) -> None:
        """Note what others have noted."""
        for fault in others.found:
            self.add(fault.mark, fault.path, fault.text)

    def missing(self, mark: Mark, path: str, would: str) -> None:
        """Note a key that is not there, unless the recipe is partial."""
        if not self.partial:
            self.add(mark, path, f"missing; {would}")

    def __len__(self) -> int:
        return len(self.known)

    def raise_all(self) -> None:
        """Raise what was gathered, file by file from top to bottom, `--set` last.

        Raises:
            RecipeError: there is at least one fault.
        """
        if not self.known:
            return
        files: dict[str, int] = {}
        for fault in self.found:
            files.setdefault(fault.mark.file, len(files))
        ordered = sorted(
            self.found,
            key=lambda f: (f.mark.line == 0, files[f.mark.file], f.mark.line, f.mark.column),
        )
        texts = [str(fault) for fault in ordered]
        if len(texts) == self.most:
            texts.append(f"{ordered[0].mark.file}: more than {len(texts)} faults, of which these are the first found")
        raise RecipeError(texts)
