"""The discretisation gap: how much accuracy and scores change where alpha's mixture becomes the genotype's one path.

Both are the supernet's own weights on the same validation images, with the batch norm statistics that these give it,
each time anew: what is told is what the choice of operations does, not what training from scratch makes good.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Genotype, Images, SearchSpace, path_of
from robustnas.errors import InputError, RobustnasError
from robustnas.nn.batch_statistics import statistics_of
from robustnas.nn.cells import SinglePath
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime import seeding
from robustnas.runtime.machine_faults import explain
from robustnas.runtime.precision import single
from robustnas.search.inherited_network import InheritedNetwork
from robustnas.search.objective import Objective

IMAGES = 128
"""So many validation images judge, at most."""


@frozen(eq=False)
class Judged:
    """The images that judge, and what they are judged by.

    Args:
        images: (n, C, H, W) in [0, 1], on the device.
        labels: (n,) int64.
        objective: has the metrics and the threat.
        seed: of draws of the metrics.
    """

    images: Tensor
    labels: Tensor
    objective: Objective
    seed: int

    def figures(self, network: Any) -> dict[str, float | None]:
        """Accuracy, and the mean score of each metric by name; None where it fails or is not finite."""
        found: dict[str, float | None] = {}
        with single(self.images.device), statistics_of(network, self.images) as ready:
            with torch.no_grad():
                found["accuracy"] = float((ready(self.images).argmax(dim=1) == self.labels).double().mean())
            for name, (_, metric) in zip(self.objective.names, self.objective.scores, strict=True):
                found[name] = self._score(metric, ready)
        return found

    def _score(self, metric: Any, network: Any) -> float | None:
        try:
            with torch.no_grad(), seeding.seeded(self.seed, "search", "gap"):
                scores = metric.score(network, self.images, self.labels, self.objective.threat)
        except RobustnasError:  # a bound that overflows on the genotype's path has no figure
            return None
        except Exception as fault:  # whatever somebody's metric raises: a search that is done is not lost to it
            if (explained := explain(fault, "search")) is not None:
                raise explained from fault
            return None
        mean = float(scores.double().mean())
        return mean if math.isfinite(mean) else None


def gap(supernet: PixelSupernet, space: SearchSpace, genotype: Genotype, by: Judged) -> dict[str, Any] | None:
    """By `accuracy` and the names of metrics, the figures of the `supernet` and of the `genotype`'s path in it.

    None where the space's supernets do not hold the networks of their genotypes, or not this one's.
    """
    path = path_of(space)
    if path is None:
        return None
    try:
        alone = InheritedNetwork(supernet, SinglePath(path(genotype)))
    except InputError:
        return None
    mixed, single_path = by.figures(supernet), by.figures(alone)
    return {
        "images": len(by.labels),
        **{name: {"supernet": mixed[name], "genotype": single_path[name]} for name in mixed},
    }


def judging(images: Images, places: Tensor, most: int, device: torch.device, objective: Objective, seed: int) -> Judged:
    """Some of the validation images, which are at `places` of the training split; at most `most`."""
    drawn = torch.randperm(len(places), generator=seeding.generator(seed, "search", "gap images"))
    some = places[drawn[: min(IMAGES, most)]]
    return Judged(images.take(some).to(device), images.labels[some].to(device), objective, seed)
