"""The bilevel search, and then a genotype that is projected instead of read off alpha: perturbation-based selection.

    for every edge, in random order:   the operation whose removal hurts the supernet most stays alone
    for every edge, afterwards:        the more its removal hurts, the earlier the space's rule keeps it

What hurts is told by a criterion: the accuracy, the scores of the method's metrics (certified, with `certified-bound`),
or the outer loss of one (adversarial, with `adversarial-training`).  Batch norm has the statistics of the images that
judge, which are the supernet's own validation images.

Source: Wang et al. 2021 (DARTS-PT), arXiv:2108.04392.  There edges into a node are dropped node by node; here each is
removed once with all others in place, as which edges a node keeps is the space's own rule; and the weights of the
operations that are left are divided by their sum.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import define, evolve, frozen
from torch import Tensor

from robustnas.contracts import Context, Genotype, SearchContext, candidates
from robustnas.data.subset import Picked
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.options import option
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.epochs import FILE as CHECKPOINT
from robustnas.search import collapse, single_path
from robustnas.search.data import divided
from robustnas.search.gap import Judged, gap
from robustnas.search.inherited_network import InheritedNetwork
from robustnas.search.loop import NONE
from robustnas.search.objective import Objective
from robustnas.search.single_path import SinglePathTask
from robustnas.search.strategies.bilevel import Bilevel

FILE = "projection.json"
"""In the folder of the search: the edges that are decided so far."""

SURE = 0.6
"""The least mixing weight of an operation that is chosen; what is above it tells how much its edge counts."""

Mixing = dict[str, Tensor]


@frozen(kw_only=True)
class Projection(Bilevel):
    """Searches alpha and w together, then keeps the operations whose removal hurts most (DARTS-PT)."""

    criterion: Literal["clean", "metric", "outer"] = option(
        "clean",
        "what tells how much a removal hurts: clean accuracy, the scores of the method's metrics, or the outer loss of "
        "one of them",
    )
    images: int = option(128, "validation images that judge, at most", at_least=2)
    tune: int = option(
        0, "epochs in which w moves between two edges, at a tenth of its learning rate (paper: 10)", at_least=0
    )

    needs = ("candidates",)

    @property
    def asks(self) -> tuple[str, ...]:
        """What a metric of the method must have."""
        return {"clean": (), "metric": ("score",), "outer": ("outer_loss",)}[self.criterion]

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Search, then project."""
        found = dict(super().search(context))
        projecting = _Projecting.of(self, context, found["alpha"])
        genotype = projecting.project()
        of_alpha = {name: found.pop(name) for name in ("genotype", "collapse", "gap")}
        told = collapse.verdict(context.folder.history(), collapse.parameter_free(context.space, genotype))
        said = collapse.of_genotype(of_alpha["collapse"])
        return {
            **found,
            "genotype": genotype,
            "collapse": told,
            "gap": projecting.gap(genotype),
            "of_alpha": of_alpha,
            "projected": projecting.decided,
            "search_seconds": found["search_seconds"] + projecting.seconds,
            "notes": [*(note for note in found["notes"] if note not in said), *collapse.of_genotype(told)],
        }


@define(eq=False)
class _Projecting:
    """The supernet after its search, and how far its projection is.

    Args:
        mixing: the mixing weights as they are by now.
        decided: (table, row, operation), in the order of the decisions.
        images: (n, C, H, W), the validation images that judge.
        labels: (n,) of them.
        kept: whether a genotype of the space may keep `none`.
        seconds: of the projection so far, over all sittings.
    """

    strategy: Projection
    context: SearchContext
    supernet: PixelSupernet
    mixing: Mixing
    images: Tensor
    labels: Tensor
    decided: list[list[Any]]
    kept: bool
    seconds: float = 0.0

    @classmethod
    def of(
        cls, strategy: Projection, context: SearchContext, alpha: Mapping[str, Sequence[Sequence[float]]]
    ) -> _Projecting:
        """Load what the search left, with the alpha of its result: of an earlier epoch where it was stopped."""
        state = context.folder.load_tensors(CHECKPOINT)
        assert state is not None
        with seeding.seeded(context.seed, "projection", "build"):  # trained weights are overwritten at once
            supernet = PixelSupernet.of(context.space, context.dataset)
        supernet.load_state_dict(state["supernet"])
        with torch.no_grad():
            for name, table in supernet.alpha.items():
                table.copy_(torch.tensor(alpha[name]))
        supernet.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        split = context.dataset.split("train")
        _, val = divided(split.labels, context.settings, context.seed, context.processes)
        places = val[torch.randperm(len(val), generator=seeding.generator(context.seed, "projection", "images"))]
        places = places[: strategy.images]
        with torch.no_grad():
            mixing = {name: rows.detach().clone() for name, rows in supernet.mixing().items()}
        kept: dict[str, Any] = {"decided": [], "seconds": 0.0}
        if context.processes.first and context.folder.holds(FILE):
            kept = context.folder.read_json(FILE)
        kept = context.processes.broadcast(kept)
        keeps = any(NONE in ops for ops in candidates(context.space).values())
        return cls(
            strategy,
            context,
            supernet,
            mixing,
            split.take(places).to(context.device),
            split.labels[places].to(context.device),
            kept["decided"],
            keeps and _keeps_none(context.space, supernet, mixing),
            float(kept["seconds"]),
        )

    def project(self) -> Genotype:
        """Decide every edge, and let the space read the genotype off."""
        named, processes = candidates(self.context.space), self.context.processes
        edges = [(table, row) for table in named for row in range(len(self.mixing[table]))]
        drawn = torch.randperm(len(edges), generator=seeding.generator(self.context.seed, "projection", "order"))
        for number, place in enumerate(drawn.tolist()):
            if processes.any(interrupt.asked()):
                raise interrupt.Interrupted
            began = time.perf_counter()
            table, row = edges[place]
            ops = named[table]
            if number < len(self.decided):
                op = ops.index(self.decided[number][2])
            else:
                # one process decides: on a device two might differ in a last bit
                op = processes.broadcast(self._operation(table, row, ops) if processes.first else None)
                self.decided.append([table, row, ops[op]])
                self._note(began)
                began = time.perf_counter()
            self.mixing[table][row] = 0
            self.mixing[table][row, op] = 1
            if self.strategy.tune:
                self._tune(number)
                self._note(began)
            self.context.report(number + 1, len(edges), "edge")
        began = time.perf_counter()
        genotype: Genotype = processes.broadcast(self._read_off(edges) if processes.first else None)
        self.seconds += time.perf_counter() - began
        if processes.first:
            for folder in self.context.folder.path.glob("tuned-*"):
                shutil.rmtree(folder, ignore_errors=True)
        return genotype

    def _note(self, began: float) -> None:
        """Keep what is decided, and the seconds since `began`."""
        self.seconds += time.perf_counter() - began
        self.context.folder.write_json(FILE, {"decided": self.decided, "seconds": self.seconds})

    def gap(self, genotype: Genotype) -> dict[str, Any] | None:
        """As `robustnas.search.gap` has it, of the mixture that alpha's search ended with and the genotype."""
        context = self.context
        objective = Objective(context.metrics, context.threat, context.settings.gamma)
        most = max(2, context.settings.batch // context.settings.accumulate)
        some = slice(0, min(most, len(self.labels)))
        by = Judged(self.images[some], self.labels[some], objective, context.seed)
        found = gap(self.supernet, context.space, genotype, by) if context.processes.first else None
        told: dict[str, Any] | None = context.processes.broadcast(found)
        return told

    def _operation(self, table: str, row: int, ops: Any) -> int:
        """The operation without which this edge hurts the supernet most; of equals the earlier."""
        counted = [place for place, op in enumerate(ops) if op != NONE or self.kept]
        harms = []
        for op in counted:
            rest = self.mixing[table][row].clone()
            rest[op] = 0
            harms.append(self._harm(table, row, rest / rest.sum().clamp(min=torch.finfo(rest.dtype).tiny)))
        return counted[harms.index(max(harms))]

    def _harm(self, table: str, row: int, instead: Tensor) -> tuple[float, float]:
        """How bad the supernet is with other mixing weights on one edge; the larger the worse."""
        rows = self.mixing[table].clone()
        rows[row] = instead
        network = InheritedNetwork(self.supernet, {**self.mixing, table: rows})
        network.train()
        with seeding.seeded(self.context.seed, "projection", "judge"), scratch_statistics(network):
            harm = {"clean": self._wrong, "metric": self._unscored, "outer": self._outer}[self.strategy.criterion]
            return harm(network)

    def _wrong(self, network: InheritedNetwork) -> tuple[float, float]:
        """The share of wrong answers, and the loss: accuracy of so few images has ties."""
        with torch.no_grad():
            logits = network(self.images)
        wrong = (logits.argmax(dim=1) != self.labels).double().mean()
        return float(wrong), float(F.cross_entropy(logits, self.labels))

    def _unscored(self, network: InheritedNetwork) -> tuple[float, float]:
        """Minus the mean scores of the method's metrics, weighted."""
        context, total = self.context, 0.0
        with torch.no_grad():
            network(self.images)
            with frozen_statistics(network):
                for weight, metric in context.metrics:
                    if hasattr(metric, "score"):
                        scores = metric.score(network, self.images, self.labels, context.threat)
                        total += weight * float(scores.double().mean())
        return -total, 0.0

    def _outer(self, network: InheritedNetwork) -> tuple[float, float]:
        """The outer loss of the method's metric, under attack with `adversarial-training`."""
        context = self.context
        metric = next(one for _, one in context.metrics if hasattr(one, "outer_loss"))
        generator = seeding.generator(context.seed, "projection", "outer", device=context.device)
        loss = metric.outer_loss(
            network, self.images, self.labels, context.threat, Context(1.0, generator, F.cross_entropy)
        )
        return float(loss.detach()), 0.0

    def _read_off(self, edges: list[tuple[str, int]]) -> Genotype:
        """The genotype by the space's rule, where an edge counts the more the more its removal hurts."""
        nothing = {table: torch.zeros_like(rows[0]) for table, rows in self.mixing.items()}
        harms = [self._harm(table, row, nothing[table]) for table, row in edges]
        rank = {edge: sorted(harms).index(harm) for edge, harm in zip(edges, harms, strict=True)}
        named = {table for table, _ in edges}
        # tables of other choices stay as alpha has them
        final = {table: rows.clone() for table, rows in self.mixing.items()}
        for table in named:
            for row in range(len(final[table])):
                weight = SURE + (1 - SURE) * (rank[table, row] + 1) / len(edges)
                op = int(self.mixing[table][row].argmax())
                others = final[table].shape[1] - 1
                final[table][row] = (1 - weight) / max(others, 1)
                final[table][row, op] = weight if others else 1.0
        read: Any = InheritedNetwork(self.supernet, final)
        with torch.no_grad():
            return self.context.space.genotype(read)

    def _tune(self, number: int) -> None:
        """Move w on the half of the images that moves it, with the mixing weights as they are."""
        context, settings = self.context, self.context.settings
        labels = context.dataset.split("train").labels
        train, _ = divided(labels, settings, context.seed, context.processes)
        todo = SinglePathTask(
            Picked(context.dataset, train),
            context.space,
            evolve(settings, epochs=self.strategy.tune, w_lr=settings.w_lr / 10, w_lr_min=settings.w_lr_min / 10),
            seed=seeding.derive(context.seed, "projection", number),
            metrics=context.metrics,
            threat=context.threat,
            mixing={name: rows.cpu() for name, rows in self.mixing.items()},
            start={name: one.cpu() for name, one in self.supernet.state_dict().items()},
        )
        folder = evolve(context.folder, path=context.folder.path / f"tuned-{number:012x}")
        single_path.run(todo, folder, context.device, processes=context.processes)
        context.processes.broadcast(None)
        state = folder.load_tensors(single_path.FILE)
        assert state is not None
        self.supernet.load_state_dict(state)


def _keeps_none(space: Any, supernet: PixelSupernet, mixing: Mixing) -> bool:
    """Whether the space's rule keeps `none` where nothing else has a weight."""
    named = candidates(space)
    only = {table: rows.clone() for table, rows in mixing.items()}
    for table, ops in named.items():
        if NONE in ops:
            only[table] = torch.zeros_like(only[table])
            only[table][:, list(ops).index(NONE)] = 1
    read: Any = InheritedNetwork(supernet, only)
    with torch.no_grad():
        return NONE in str(space.genotype(read))
