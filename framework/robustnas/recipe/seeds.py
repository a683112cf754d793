"""Section `seeds`: which seeds search the genotypes, and which train the networks of each.

    seeds: [0, 1]                              a seed searches and trains
    seeds: {search: [0, 1, 2], train: [0, 1]}  every genotype is trained with every training seed

With one list, what the search found and how lucky its training was cannot be told apart; with two, the spread between
genotypes and the spread within one are measured.
"""

from __future__ import annotations

from typing import Any, Self

from attrs import Factory, frozen

from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults
from robustnas.recipe.values import BAD, found, read_value, refuse, refuse_unknown
from robustnas.runtime.derived import derive


@frozen(order=True)
class Seed:
    """The seeds of one network.

    Args:
        search: seed of the search that found its genotype.
        train: seed of its training and evaluation, that of the search where it is not given.
        nested: whether the two are chosen apart.
    """

    search: int
    train: int = Factory(lambda self: self.search, takes_self=True)
    nested: bool = False

    def __str__(self) -> str:
        return f"{self.search}.{self.train}" if self.nested else str(self.search)

    @property
    def of_candidates(self) -> int:
        """The seed of the trainings of candidates: no training that is reported begins with their luck."""
        return derive(self.search, "candidate", "train")

    @property
    def plain(self) -> int | str:
        """The seed as plain data: a number where it is one."""
        return str(self) if self.nested else self.search

    @classmethod
    def of(cls, text: str) -> Self:
        """Read what `str` writes.

        Raises:
            ValueError: it is something else.
        """
        search, dot, train = text.partition(".")
        return cls(int(search), int(train if dot else search), bool(dot))


@frozen
class Seeds:
    """The seeds of a recipe.

    Args:
        search: seeds of searches.
        train: seeds with which each genotype is trained; None where a search's own seed trains its genotype.
    """

    search: tuple[int, ...] = (0,)
    train: tuple[int, ...] | None = None

    @property
    def all(self) -> tuple[Seed, ...]:
        """The seeds of a method's networks, those of one genotype side by side."""
        if self.train is None:
            return tuple(Seed(seed) for seed in self.search)
        return tuple(Seed(search, train, nested=True) for search in self.search for train in self.train)

    @property
    def of_one_genotype(self) -> tuple[Seed, ...]:
        """The seeds of a method that does not search: its genotype is one, whatever the seed of a search."""
        return self.all if self.train is None else self.all[: len(self.train)]

    def plain(self) -> Any:
        """The section as plain data."""
        return list(self.search) if self.train is None else {"search": list(self.search), "train": list(self.train)}


def read_seeds(node: Node, faults: Faults) -> Seeds:
    """Read the section: distinct integers, none negative, in one list or two; the default where it has faults."""
    if not isinstance(node.value, dict):
        seeds = _list(node, faults)
        return Seeds() if seeds is BAD else Seeds(seeds)
    refuse_unknown(node, ("search", "train"), "key of seeds", faults)
    lists = {key: _list(node.entries[key], faults) for key in ("search", "train") if key in node.entries}
    for key in ("search", "train"):
        if key not in node.keys:
            text = f"a list of integers would do, such as {key}: [0, 1, 2]; one list for both is written seeds: [0, 1]"
            faults.missing(node.mark, f"{node.path}.{key}", text)
    return Seeds() if len(lists) < 2 or BAD in lists.values() else Seeds(**lists)


def _list(node: Node, faults: Faults) -> Any:
    """Read a list of seeds, or return `BAD` with faults."""
    if not isinstance(node.value, tuple) or not node.value:
        what = "an empty list" if node.value == () else found(node.value)
        return refuse(node, f"found {what}; a list of integers would do, such as [0, 1]", faults)
    before = faults.noted
    seeds: dict[int, None] = {}
    for item in node.value:
        seed = read_value(item, int, faults)
        if seed is BAD:
            continue
        if seed < 0:
            faults.add(item.mark, item.path, f"found {seed}; at least 0 would do")
        if seed in seeds:
            faults.add(item.mark, item.path, f"found {seed} twice; every seed once would do")
        seeds[seed] = None
    return BAD if faults.noted > before else tuple(seeds)
