"""Everything that is wrong with a recipe, gathered before anything is raised."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, define, frozen

from robustnas.errors import RecipeError


@frozen
class Mark:
    """A place in a file (lines and columns from 1), or the argument of `--set` a value came from (line 0)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def nearest(places: Mapping[str, Mark], path: str, file: str) -> Mark:
    """Where a key is written; of one that is not, where the nearest above it is, or the file begins."""
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
    """A collection of faults.  What is said twice of one place (of a section that methods share) counts once.

    Args:
        found: the faults, in the order in which they were noted.
        noted: how often one was noted, those included that were known already.
        partial: the recipe that this one extends cannot be had, so that what is not here may well be there.
    """

    found: dict[Fault, None] = Factory(dict)
    partial: bool = False
    noted: int = 0

    def add(self, mark: Mark, path: str, text: str) -> None:
        """Note a fault."""
        self.noted += 1
        if not mark.line or not any(fault.mark == mark and fault.text == text for fault in self.found):
            self.found.setdefault(Fault(mark, path, text))

    def join(self, others: Faults) -> None:
        """Note what others have found."""
        for fault in others.found:
            self.add(fault.mark, fault.path, fault.text)

    def missing(self, mark: Mark, path: str, would: str) -> None:
        """Note a key that is not there, unless the recipe is partial."""
        if not self.partial:
            self.add(mark, path, f"missing; {would}")

    def __len__(self) -> int:
        return len(self.found)

    def raise_all(self) -> None:
        """Raise what was gathered, file by file from top to bottom, `--set` last.

        Raises:
            RecipeError: there is at least one fault.
        """
        if not self.found:
            return
        files = list(dict.fromkeys(fault.mark.file for fault in self.found))
        ordered = sorted(
            self.found,
            key=lambda f: (f.mark.line == 0, files.index(f.mark.file), f.mark.line, f.mark.column),
        )
        raise RecipeError([str(fault) for fault in ordered])
