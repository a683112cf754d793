"""Training a discrete network: SGD with cosine, clipping, drop-path that rises; the last network or the best one.

Checkpoints and history are the business of `robustnas.runtime.epochs`: training that is stopped and goes on gives the
numbers of a run that never stopped, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from attrs import Factory, define, evolve, frozen
from torch import Tensor, nn

from robustnas.contracts import Dataset, Genotype, SearchSpace, TrainingContext
from robustnas.data.batches import Batch
from robustnas.data.order import in_order, shuffled
from robustnas.errors import DivergedError, RunDirectoryError
from robustnas.nn.diagnostics import nonfinite_tensors
from robustnas.nn.optimizers import SGD
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.device import can_fuse
from robustnas.runtime.epochs import Epochs, sum_gradients
from robustnas.runtime.memory import highest
from robustnas.runtime.precision import mixed, policy
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent
from robustnas.threat import ThreatModel
from robustnas.train.capacity import matched, parameters
from robustnas.train.data import training_data
from robustnas.train.network import build
from robustnas.train.regimes.defaults import member
from robustnas.train.settings import Train

OF_THE_MACHINE = ("waiting", "peak_memory", "peak_memory_reserved", "epoch_seconds", "total_seconds")
"""Figures of an epoch's record that do not describe the network."""


@frozen
class TrainTask:
    """Everything that determines a trained network."""

    dataset: Dataset
    space: SearchSpace
    genotype: Genotype
    threat: ThreatModel
    settings: Train = Factory(Train)
    seed: int = 0


def run(
    task: TrainTask,
    folder: StageFolder,
    device: torch.device,
    report: Report = silent,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train from scratch or from the last checkpoint; leaves `network.pt` in the folder.

    Args:
        task: what determines the result.
        folder: gets checkpoints, the history and the network.
        device: where network and images live.
        report: is told after each epoch, and of steps now and then.
        processes: the processes that share each batch; all of them call this alike.

    Returns:
        Plain data: genotype, parameters (without the auxiliary head), the epoch kept, last figures, train_seconds,
        `notes` on the division of the images; `size` and `match` of a network that was matched to a capacity.

    Raises:
        DivergedError: the loss is not finite.
        RunDirectoryError: the checkpoint is damaged or of another network.
        InputError: batches that these processes cannot share; a last epsilon beyond the pixel range; images that cannot
            be read in the size, or changed in the colours, that the settings ask for; a capacity out of reach.
        Interrupted: the process was asked to stop; the checkpoint holds the last step.
    """
    settings = task.settings
    member(settings.regime, "check")(settings.epochs, task.threat)  # checked here, so as not to fail in the first step
    match = None if settings.match is None else matched(task.space, task.genotype, task.dataset, settings.match)
    task = task if match is None else evolve(task, space=match.space)
    epochs = Epochs("training", task.seed, settings.epochs, folder, device, report, processes)
    training = _Training(task, epochs)
    parts = {"network": training.network, "optimizer": training.optimizer}
    with policy(settings.precision), training.data:
        epochs.run(lambda number: _Epoch(training, number + 1), parts, training.data.batches.feed)
    kept, weights = training.kept()
    folder.save_tensors("network.pt", weights)
    last = {name: value for name, value in epochs.records[-1].items() if name not in ("epoch", "lr", *OF_THE_MACHINE)}
    return {
        "genotype": task.genotype,
        "parameters": parameters(task.space, task.genotype, task.dataset),
        **({} if match is None else match.record()),
        "epoch_kept": kept,
        **last,
        **highest(epochs.records),
        "train_seconds": epochs.seconds,
        "notes": training.data.notes,
    }


def learning_rate(settings: Train, epoch: int) -> float:
    """Cosine from `lr` at epoch 1 towards `lr_min` (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    turn = math.cos(math.pi * (epoch - 1) / settings.epochs)
    return settings.lr_min + (settings.lr - settings.lr_min) * (1 + turn) / 2


class _Training:
    """The network and its optimiser, and everything that stays the same from step to step."""

    def __init__(self, task: TrainTask, epochs: Epochs):
        settings = task.settings
        self.task, self.epochs, self.device, self.processes = task, epochs, epochs.device, epochs.processes
        self.data = training_data(task.dataset, settings, task.seed, self.device, self.processes)
        with seeding.seeded(task.seed, "train", "weights"):
            self.network = build(task.space, task.genotype, task.dataset, settings)
            member(settings.regime, "initialise")(self.network)
        if self.processes.size > 1:
            synchronise(self.network)
        if settings.recompute_cells:
            recompute(self.network.network, "train.recompute_cells")
        # convolutions of few channels run faster with channels last, on the CPU too
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = SGD(
            self.network.parameters(),
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.decay,
            fused=can_fuse(self.device),
        )

    def judge(self, epoch: int) -> dict[str, float]:
        """Compute the share of held-out images that the network gets right, and keep the network if it is the best."""
        settings = self.task.settings
        if settings.checkpoint != "best" or not member(settings.regime, "judged")(epoch, settings.epochs):
            return {}
        share = self._held_out()
        if share > max((record["held_out"] for record in self._judged), default=-1.0):
            self.epochs.folder.save_tensors("best.pt", self.network.state_dict())
        return {"held_out": share}

    def kept(self) -> tuple[int, dict[str, Any]]:
        """Return the kept epoch (the first of the best ones, or the last one) and its weights.

        Raises:
            RunDirectoryError: the file of the best network is missing.
        """
        if self.task.settings.checkpoint == "last":
            return self.task.settings.epochs, self.network.state_dict()
        weights = self.epochs.folder.load_tensors("best.pt")
        if weights is None or not self._judged:
            raise RunDirectoryError(
                damaged(self.epochs.folder.path / "best.pt", "it is missing although an epoch was best")
            )
        return int(max(self._judged, key=lambda record: float(record["held_out"]))["epoch"]), weights

    @property
    def _judged(self) -> list[dict[str, Any]]:
        return [record for record in self.epochs.records if "held_out" in record]

    def _held_out(self) -> float:
        """Compute the share that is right as the regime judges it: clean, perturbed or certified."""
        task, data = self.task, self.data
        generator = seeding.generator(task.seed, "train", "held-out perturbation")  # the same start every epoch
        perturbed, right = (member(task.settings.regime, name) for name in ("perturbed", "right"))
        network = self.network.eval()
        correct = torch.zeros((), device=self.device)
        order = [data.held_out[batch] for batch in in_order(len(data.held_out), task.settings.batch)]
        for (part,) in data.plain.of(order, torch.Generator()):
            with torch.no_grad():
                images = perturbed(network, part.images, part.labels, task.threat, generator)
                correct += right(network, images, part.labels, task.threat).sum()
        return float(self.processes.sum([correct])[0]) / len(data.held_out)


@define(eq=False)
class _Figures:
    """Sums of the loss, of right answers, and of the regime's own figures over the images so far."""

    training: _Training
    epoch: int
    sums: Tensor = Factory(lambda: torch.zeros(()))
    names: tuple[str, ...] = ()
    last: Tensor = Factory(lambda: torch.zeros(()))

    def add(self, count: int, means: Tensor) -> None:
        """Add the means of `count` images."""
        self.last = means
        self.sums = self.sums.to(means) + count * means

    def means(self) -> dict[str, float]:
        """Over all images that train."""
        return dict(zip(self.names, (self.sums / len(self.training.data.train)).tolist(), strict=True))

    def latest(self) -> dict[str, float]:
        """The means of the last step."""
        return dict(zip(self.names, self.last.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """The sums."""
        return {"sums": self.sums.cpu()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums of `state`."""
        self.sums = state["sums"]

    def check(self) -> None:
        """Refuse to save what has diverged.

        Raises:
            DivergedError: the loss is not finite.
        """
        if not bool(self.sums.isfinite().all()):
            advice = member(self.training.task.settings.regime, "advice")
            raise DivergedError(
                f"training diverged: the loss is {float(self.sums[0])} in epoch {self.epoch}"
                f"{nonfinite_tensors(self.training.network)}; the checkpoint of epoch {self.epoch - 1} is intact. "
                f"A smaller train.lr or train.clip{f', or {advice},' if advice else ''} would do"
            )


class _Epoch:
    """One pass over the images that train, as `robustnas.runtime.epochs.Epoch` promises it."""

    def __init__(self, training: _Training, epoch: int):
        task, settings = training.task, training.task.settings
        self.training, self.task, self.epoch = training, task, epoch
        self.words: tuple[str | int, ...] = ("train", "layers", epoch)
        self.order = shuffled(
            training.data.train, settings.batch, seeding.generator(task.seed, "train", "order", epoch)
        )
        self.steps = len(self.order)
        self.generators: Mapping[str, torch.Generator] = {
            use: seeding.generator(task.seed, "train", use, epoch) for use in ("augment", "perturb")
        }
        self.lr = learning_rate(settings, epoch)
        for group in training.optimizer.param_groups:
            group["lr"] = self.lr
        if settings.drop_path > 0:
            rising = settings.drop_path * (epoch - 1) / settings.epochs
            training.network.network.drop_path = rising  # type: ignore[assignment]
        training.network.train()
        self.figures = _Figures(training, epoch)

    def run(self, done: int) -> Iterator[None]:
        """Move the weights for each batch after the first `done`."""
        batches = self.training.data.batches.of(self.order[done:], self.generators["augment"])
        for number, batch in enumerate(batches, done):
            self.figures.add(len(self.order[number]), self._step(batch, self.epoch - 1 + (number + 1) / self.steps))
            yield

    def record(self) -> dict[str, Any]:
        """Mean loss and accuracy on the augmented images that the loss saw, and the schedule's figures."""
        task, settings = self.task, self.task.settings
        return {
            **self.figures.means(),
            **member(settings.regime, "schedule")(float(self.epoch), settings.epochs, task.threat),
            "lr": self.lr,
            **self.training.judge(self.epoch),
        }

    def _step(self, batch: Batch, passed: float) -> Tensor:
        """Move the weights.  Returns mean loss and accuracy of the batch, and the means of the regime's own figures."""
        training, settings = self.training, self.task.settings
        training.optimizer.zero_grad(set_to_none=True)
        seen = torch.zeros((), device=training.device)
        for part in batch:
            with ExitStack() as held:
                context = TrainingContext(
                    passed,
                    settings.epochs,
                    self.generators["perturb"],
                    self._criterion,
                    self._plain,
                    held.enter_context,
                )
                with mixed(settings.precision, training.device):
                    result = settings.regime.loss(training.network, part.images, part.labels, self.task.threat, context)
                torch.autograd.backward(part.share * result.loss)
            figures = {"accuracy": result.logits.argmax(1) == part.labels, **result.figures}
            self.figures.names = ("loss", *figures)
            means = [result.loss.detach().float(), *(figure.float().mean() for figure in figures.values())]
            seen = seen + part.share * torch.stack(means)
        weights = [parameter for parameter in training.network.parameters() if parameter.grad is not None]
        seen = sum_gradients(weights, seen, training.processes)
        torch.nn.utils.clip_grad_norm_(weights, settings.clip, foreach=True)
        training.optimizer.step()
        return seen

    def _criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.task.settings.label_smoothing)

    def _plain(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of standard training, the auxiliary head's in it by its weight, and the logits."""
        auxiliary = self.task.settings.auxiliary
        if auxiliary == 0:
            logits = network(images)
            return self._criterion(logits, labels), logits
        logits, head = network.with_auxiliary(images)  # type: ignore[operator]
        return self._criterion(logits, labels) + auxiliary * self._criterion(head, labels), logits
