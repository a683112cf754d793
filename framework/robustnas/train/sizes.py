"""How large supernets and networks are; each that differs is built once."""

from __future__ import annotations

import json
from typing import Any

import torch
from attrs import Factory, define

from robustnas.contracts import Dataset, Genotype, SearchSpace
from robustnas.train.network import parameters


@define
class Sizes:
    """Trainable weights of the supernets and networks that see one dataset.

    Methods by the thousand may share a few of them: the loader makes one object of spaces that are written alike.
    """

    dataset: Dataset
    counts: dict[tuple[int, str], int] = Factory(dict)
    spaces: list[SearchSpace] = Factory(list)
    """Kept, so that no other space is given the `id` of one of them."""

    def supernet(self, space: SearchSpace) -> int:
        """Of the supernet, alpha not counted.  Allocates nothing."""
        key = id(space), ""
        if key not in self.counts:
            with torch.device("meta"):
                supernet: Any = space.supernet(self.dataset.shape, self.dataset.classes)
            alphas = {id(alpha) for alpha in supernet.alpha.values()}
            trainable = (p for p in supernet.parameters() if p.requires_grad and id(p) not in alphas)
            self._keep(space, key, sum(p.numel() for p in trainable))
        return self.counts[key]

    def network(self, space: SearchSpace, genotype: Genotype) -> int:
        """Of the network that is evaluated: without the auxiliary head.  Allocates nothing.

        Raises:
            InputError: the space has no such network.
        """
        key = id(space), json.dumps(genotype, sort_keys=True)
        if key not in self.counts:
            self._keep(space, key, parameters(space, genotype, self.dataset))
        return self.counts[key]

    def _keep(self, space: SearchSpace, key: tuple[int, str], count: int) -> None:
        self.counts[key] = count
        self.spaces.append(space)
