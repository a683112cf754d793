"""Counts the weights of supernets and networks, and finds out what they offer, building each distinct one once."""

from __future__ import annotations

import json
from typing import Any

import torch
from attrs import Factory, define, frozen

from robustnas.contracts import Dataset, Genotype, SearchSpace, published
from robustnas.errors import InputError
from robustnas.options import plain
from robustnas.runtime import seeding
from robustnas.train.capacity import matched, parameters
from robustnas.train.network import has_drop_path
from robustnas.train.settings import Match


@frozen
class Offers:
    """What training may ask of the networks of a space.

    Args:
        auxiliary: whether they can have an auxiliary head.
        drop_path: whether they have drop-path.
    """

    auxiliary: bool
    drop_path: bool


@define
class Sizes:
    """Trainable weights of the supernets and networks that see one dataset, and what else is known by building them.

    Methods by the thousand may share a few of them: the loader makes one object of spaces that are written alike.
    """

    dataset: Dataset
    counts: dict[tuple[int, str], int] = Factory(dict)
    samples: dict[int, Genotype] = Factory(dict)
    offered: dict[int, Offers] = Factory(dict)
    spaces: list[SearchSpace] = Factory(list)
    """Spaces seen so far: keeping them alive ensures that no other space gets the `id` of one of them."""

    def supernet(self, space: SearchSpace) -> int:
        """Count the weights of the supernet without alpha; allocates nothing."""
        key = id(space), ""
        if key not in self.counts:
            with torch.device("meta"):
                supernet: Any = space.supernet(self.dataset.shape, self.dataset.classes)
            alphas = {id(alpha) for alpha in supernet.alpha.values()}
            trainable = (p for p in supernet.parameters() if p.requires_grad and id(p) not in alphas)
            self._keep(space, key, sum(p.numel() for p in trainable))
        return self.counts[key]

    def network(self, space: SearchSpace, genotype: Genotype, match: Match | None = None) -> int:
        """Count the weights of the network without its auxiliary head; allocates nothing.

        Args:
            match: the capacity that its size is chosen for; None for the space's own size.

        Raises:
            InputError: the space has no such network, or none that comes near the capacity.
        """
        key = id(space), json.dumps([genotype, plain(match)], sort_keys=True)
        if key not in self.counts:
            sized = space if match is None else matched(space, genotype, self.dataset, match).space
            self._keep(space, key, parameters(sized, genotype, self.dataset))
        return self.counts[key]

    def sample(self, space: SearchSpace) -> Genotype:
        """A genotype of the space, known before any search: a published one, or that of an untrained supernet."""
        if id(space) not in self.samples:
            genotype = next(iter(published(space).values()), None)
            if genotype is None:
                with seeding.seeded(0, "check"):
                    genotype = space.genotype(space.supernet(self.dataset.shape, self.dataset.classes))
            self.samples[id(space)] = genotype
            self.spaces.append(space)
        return self.samples[id(space)]

    def offers(self, space: SearchSpace) -> Offers:
        """What training may ask of the space's networks.

        Raises:
            InputError: its networks cannot be built.
        """
        if id(space) not in self.offered:
            shape, classes, genotype = self.dataset.shape, self.dataset.classes, self.sample(space)
            with torch.device("meta"):
                drop_path = has_drop_path(space.network(genotype, shape, classes))
                try:
                    space.network(genotype, shape, classes, auxiliary=True)
                    auxiliary = True
                except InputError:  # by contract a space without auxiliary heads raises this
                    auxiliary = False
            self.offered[id(space)] = Offers(auxiliary, drop_path)
            self.spaces.append(space)
        return self.offered[id(space)]

    def _keep(self, space: SearchSpace, key: tuple[int, str], count: int) -> None:
        self.counts[key] = count
        self.spaces.append(space)
