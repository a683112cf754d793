"""Trains the weights that all networks of a space share, one path at a time: what an inherited network inherits.

    w  <-  SGD( grad_w L_train(w, path) )        a genotype drawn uniformly for every step, all training images

Source: Guo et al. 2020 (single path one-shot with uniform sampling), arXiv:1904.00420.  Alpha has no part in it.
A metric's `inner_loss` may stand for the loss: adversarial training of it is RobNet's (Guo et al. 2020,
arXiv:1911.10695).  With one genotype given it is the fine-tuning of that genotype's path alone.
`inheritance` reads the networks out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import Factory, field, frozen
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from robustnas.contracts import Context, Dataset, Genotype, SearchSpace, path_of, sampler
from robustnas.data.augment.augmentation import Augmentation
from robustnas.data.batches import Batch, Batches, Part, check_fit
from robustnas.data.order import shuffled
from robustnas.data.prefetch import Prefetcher
from robustnas.errors import DataError, InputError
from robustnas.nn.cells import SinglePath
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.optimizers import SGD
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.device import can_fuse
from robustnas.runtime.epochs import Epochs, sum_gradients
from robustnas.runtime.memory import highest
from robustnas.runtime.precision import mixed, policy
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent
from robustnas.search.figures import Figures
from robustnas.search.inherited_network import InheritedNetwork
from robustnas.search.loop import cosine
from robustnas.search.settings import Search
from robustnas.search.weights import weights
from robustnas.threat import ThreatModel

FILE = "supernet.pt"


@frozen
class SinglePathTask:
    """Everything that determines the shared weights.

    Args:
        dataset: only its training images are asked for.
        space: draws genotypes, and knows their paths through its supernet.
        settings: the recipe's section `search`; what concerns alpha, scores and compiling has no part.
        seed: determines every random number.
        metrics: (weight, metric) pairs, of which the one with an `inner_loss` has a say.
        threat: what that metric protects against; None where there is none.
        genotype: the only one whose path is trained; None draws one for each step.
        mixing: mixing weights by the names of alpha that stand for every path; None where paths are trained.
        start: the supernet's first state; None draws its weights.
    """

    dataset: Dataset
    space: SearchSpace = field()
    settings: Search = Factory(Search)
    seed: int = 0
    metrics: tuple[tuple[float, Any], ...] = ()
    threat: ThreatModel | None = None
    genotype: Genotype | None = None
    mixing: Mapping[str, Tensor] | None = field(default=None, eq=False)
    start: Mapping[str, Tensor] | None = field(default=None, eq=False)

    @space.validator
    def _has_paths(self, attribute: object, space: SearchSpace) -> None:
        if self.mixing is not None:
            return
        members = {"sample": sampler(space), "path": path_of(space)}
        if missing := " and no ".join(f"`{name}`" for name, member in members.items() if member is None):
            raise InputError(
                f"{type(space).__name__} has no {missing}, so no weights can be trained that its networks share; "
                "darts or nas-bench-201 would do"
            )


def run(
    task: SinglePathTask,
    folder: StageFolder,
    device: torch.device,
    report: Report = silent,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train from scratch or from the last checkpoint; leaves `supernet.pt` in the folder.

    Args:
        task: what determines the result.
        folder: gets the checkpoint, the history and the supernet.
        device: where the supernet and the images live.
        report: is told after each epoch, and of steps now and then.
        processes: the processes that share each batch; all of them call this alike.

    Returns:
        Plain data: `epochs`; `parameters`, the supernet's trainable weights (without alpha); `search_seconds`, over all
        sittings; `peak_memory` in bytes, see `robustnas.runtime.memory.Peak`; `notes`.

    Raises:
        RunError: the loss or a gradient is not finite; the checkpoint of the last good epoch stays.
        RunDirectoryError: the checkpoint is damaged or belongs to another training.
        DataError: fewer than two training images.
        InputError: batches that these processes cannot share.
        Interrupted: the process was asked to stop; the checkpoint holds the last step.
    """
    epochs = Epochs("training", task.seed, task.settings.epochs, folder, device, report, processes)
    training = _Training(task, device, processes)
    parts = {"supernet": training.supernet, "w_optimizer": training.optimizer}
    with policy(task.settings.precision), training.batches.feed:
        epochs.run(lambda number: _Epoch(training, number), parts, training.batches.feed)
    folder.save_tensors(FILE, training.supernet.state_dict())
    return {
        "epochs": len(epochs.records),
        "parameters": sum(parameter.numel() for parameter in training.w),
        "search_seconds": epochs.seconds,
        **highest(epochs.records),
        "notes": [],
    }


class PathSgd(SGD):
    """SGD that leaves every weight alone whose gradient is exactly zero: no decay, and its momentum stays for later.

    A step moves the weights of its path, and all others have such gradients, though they may share a tensor with it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in self.param_groups:
            for weight in (one for one in group["params"] if one.grad is not None):
                still, values = weight.grad == 0, [weight]
                if group["momentum"]:
                    # torch's fused form takes weights for granted that all have momentum, or none
                    values.append(self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight)))
                kept += [(still, value, value.clone()) for value in values]
        loss: float | None = super().step(closure)
        for still, value, before in kept:
            value.copy_(torch.where(still, before, value))
        return loss


class _Training:
    """The supernet and its optimiser, and everything that stays the same from step to step."""

    def __init__(self, task: SinglePathTask, device: torch.device, processes: Processes):
        settings, dataset = task.settings, task.dataset
        self.task, self.device, self.processes = task, device, processes
        images = dataset.split("train")
        self.images = torch.arange(len(images.labels))
        if len(self.images) < 2:
            raise DataError(f"found {len(self.images)} training image(s); batch norm needs at least 2")
        order = shuffled(self.images, settings.batch, torch.Generator())
        check_fit(order, settings.batch, settings.accumulate, processes, "search")
        with seeding.seeded(task.seed, "single path", "weights"):
            self.supernet = PixelSupernet.of(task.space, dataset)
        if task.start is not None:
            self.supernet.load_state_dict(task.start)
        inner = [metric for _, metric in task.metrics if callable(getattr(metric, "inner_loss", None))]
        self.inner_loss = inner[0].inner_loss if inner else None
        if processes.size > 1:
            synchronise(self.supernet)
        if settings.recompute_cells:
            recompute(self.supernet.supernet, "search.recompute_cells")
        self.supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.w = weights(self.supernet).parameters
        self.optimizer = PathSgd(
            self.w,
            settings.w_lr,
            momentum=settings.w_momentum,
            weight_decay=settings.w_decay,
            fused=can_fuse(device),
        )
        self.batches = Batches(
            Prefetcher(images, device),
            dataset.shape[1:],
            Augmentation(settings.crop, settings.flip, settings.cutout, dataset.mean),
            accumulate=settings.accumulate,
            processes=processes,
        )

    def path(self, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Draw a genotype, where not one is given; returns its path through the supernet, or the weights given."""
        if self.task.mixing is not None:
            return {name: rows.to(self.w[0]) for name, rows in self.task.mixing.items()}
        sample, path, genotype = sampler(self.task.space), path_of(self.task.space), self.task.genotype
        assert sample is not None
        assert path is not None
        return SinglePath(path(sample(generator) if genotype is None else genotype)).to(self.w[0])


class _Epoch:
    """One pass over the training images, as `robustnas.runtime.epochs.Epoch` promises it."""

    def __init__(self, training: _Training, epoch: int):
        settings, seed = training.task.settings, training.task.seed
        self.training = training
        self.words: tuple[str | int, ...] = ("single path", "global", epoch)
        self.lr = cosine(settings.w_lr, settings.w_lr_min, epoch / settings.epochs)
        training.optimizer.param_groups[0]["lr"] = self.lr
        # augmentation and genotypes are drawn on the CPU: the same seed gives the same ones on every device
        generators = {use: seeding.generator(seed, "single path", use, epoch) for use in ("augment", "draw")}
        self.context: Context | None = None
        if training.inner_loss is not None:
            inner = seeding.generator(seed, "single path", "inner", epoch, device=training.device)
            self.context = Context(epoch / settings.epochs, inner, F.cross_entropy, training.processes.average)
            generators["inner"] = inner
        self.generators: Mapping[str, torch.Generator] = generators
        order = seeding.generator(seed, "single path", "order", epoch)
        self.order = shuffled(training.images, settings.batch, order)
        self.steps = len(self.order)
        self.figures = Figures(epoch, settings.epochs, self.steps, training.device, training.supernet)

    def run(self, done: int) -> Iterator[None]:
        """Move the weights of one path for each batch after the first `done`."""
        batches = self.training.batches.of(self.order[done:], self.generators["augment"])
        for number, batch in enumerate(batches, done):
            moved = self._step(batch, self.training.path(self.generators["draw"]))
            self.figures.note(2 * (len(self.order[number]),), None, moved)
            yield

    def record(self) -> dict[str, Any]:
        """The mean loss on the augmented images, and the learning rate."""
        return {"loss": self.figures.means()["loss"], "w_lr": self.lr}

    def _loss(self, part: Part, path: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a part of a batch on a path: the metric's, or cross-entropy."""
        training = self.training
        if training.inner_loss is None:
            return F.cross_entropy(training.supernet(part.images, path), part.labels)
        network: Any = InheritedNetwork(training.supernet, path)
        loss: Tensor = training.inner_loss(network, part.images, part.labels, training.task.threat, self.context)
        return loss

    def _step(self, batch: Batch, path: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Move the path's weights.  Returns the loss before that, and the norm of its gradient before clipping."""
        training, settings, losses = self.training, self.training.task.settings, []
        training.optimizer.zero_grad()
        for part in batch:
            with mixed(settings.precision, training.device):
                loss = part.share * self._loss(part, path)
            loss.backward()
            losses.append(loss.detach())
        total = sum_gradients(training.w, torch.stack(losses).sum(), training.processes)
        norm = clip_grad_norm_(training.w, settings.w_clip, foreach=True)
        training.optimizer.step()
        return total, norm
