"""What a candidate's network gets right of the training images held out, and what metrics say of it there.

No test image has a say.  All candidates of a search are judged on the same images, from the same starts of the attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.attack.pgd import pgd
from robustnas.bounds import margins
from robustnas.contracts import Images
from robustnas.data.order import in_order
from robustnas.errors import RunError
from robustnas.nn.batch_statistics import statistics_of
from robustnas.runtime import seeding
from robustnas.search.candidates import PGD_STEPS
from robustnas.threat import ThreatModel

CERTIFIED = 128
"""So many of the images held out are certified or scored, at most: both cost as much as many passes."""

Statistics = Callable[[nn.Module, Tensor], AbstractContextManager[nn.Module]]
"""Enters a context with the network as it sees a batch: with these images' statistics, say."""


def running(network: nn.Module, images: Tensor) -> AbstractContextManager[nn.Module]:
    """Batch norm has its running statistics, as whoever uses a trained network sees it."""
    return nullcontext(network.eval())


@frozen(eq=False)
class Judge:
    """Judges networks on some training images.

    Args:
        images: the training split.
        places: (m,) int64, those held out.
        batch: images at once; the statistics of `statistics_of` are theirs.
        threat: what attacks and certificates are of.
        seed: of the attack's start, the same for every candidate.
        device: where the networks are.
        statistics: how a network sees a batch.
    """

    images: Images
    places: Tensor
    batch: int
    threat: ThreatModel
    seed: int
    device: torch.device
    statistics: Statistics = running

    def right(self, network: nn.Module, *, attacked: bool = True) -> dict[str, int]:
        """Count the images that the network gets right, and those that it does under PGD as well."""
        generator = seeding.generator(self.seed, "candidate", "judge")
        clean = robust = 0
        for shown, labels in self._batches(len(self.places)):

            def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

            with self.statistics(network, shown) as ready:
                with torch.no_grad():
                    right = ready(shown).argmax(dim=1) == labels
                clean += int(right.sum())
                if attacked:
                    found = pgd(ready, shown, loss, self.threat, steps=PGD_STEPS, generator=generator)
                    with torch.no_grad():
                        robust += int((right & (ready(found).argmax(dim=1) == labels)).sum())
        return {"images": len(self.places), "clean": clean, **({"robust": robust} if attacked else {})}

    def certified(self, network: nn.Module) -> float:
        """The share of the images, the first `CERTIFIED` of them, that CROWN-IBP certifies."""
        sure = total = 0
        for shown, labels in self._batches(CERTIFIED):
            with self.statistics(network, shown) as ready, torch.no_grad():
                sure += int((margins(ready, shown, labels, self.threat) > 0).all(dim=1).sum())
            total += len(labels)
        return sure / total

    def score(self, network: nn.Module, metrics: Sequence[tuple[float, Any]]) -> float:
        """The mean score of the images, the first `CERTIFIED` of them, by metrics with weights.

        Raises:
            RunError: a score is not finite, or of the wrong shape.
        """
        total, count = 0.0, 0
        for shown, labels in self._batches(CERTIFIED):
            with self.statistics(network, shown) as ready, torch.no_grad():
                for weight, metric in metrics:
                    total += weight * total_score(metric, ready, shown, labels, self.threat)
            count += len(labels)
        return finite(total) / count

    def _batches(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first images held out and their labels, batch by batch, on the device."""
        count, size = min(most, len(self.places)), self.batch
        while self.statistics is statistics_of and size > 2 and count % size == 1:
            size -= 1  # a single image has no statistics to speak of
        for batch in in_order(count, size):
            places = self.places[batch]
            yield self.images.take(places).to(self.device), self.images.labels[places].to(self.device)


def total_score(metric: Any, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> float:
    """The sum of a metric's scores.

    Raises:
        RunError: they are not one an image.
    """
    scores = metric.score(network, images, labels, threat)
    if scores.shape != (len(labels),):
        raise RunError(f"a score of {len(labels)} images must be ({len(labels)},), found {tuple(scores.shape)}")
    return float(scores.double().sum())


def finite(total: float) -> float:
    """The score itself.

    Raises:
        RunError: it is not finite.
    """
    if not math.isfinite(total):
        raise RunError(f"the score is {total}")
    return total
