"""The epochs of training: SGD with cosine, clipping, drop-path that rises, a checkpoint an epoch.

Every epoch derives its generators from the seed and its number, so resuming at an epoch gives the numbers of a
run that never stopped, bit for bit on the same machine, versions and thread count.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas import seeding
from robustnas.artifacts import StageFolder, damaged
from robustnas.augment import augment
from robustnas.contracts import Dataset, Genotype, Images, SearchSpace
from robustnas.errors import RunDirectoryError, RunError
from robustnas.images import halves, in_order, on_device, shuffled
from robustnas.normalize import PixelNetwork
from robustnas.recipe.schema import Standard, Train
from robustnas.report import Report
from robustnas.threat import ThreatModel
from robustnas.train.network import build, parameters
from robustnas.train.regimes import loss as regime_loss
from robustnas.train.regimes import perturb


@frozen
class TrainTask:
    """Everything that determines a trained network."""

    dataset: Dataset
    space: SearchSpace
    genotype: Genotype
    threat: ThreatModel
    settings: Train
    seed: int


@frozen(eq=False)
class _Data:
    """The training images on the device, and which of them train and which choose the checkpoint."""

    images: Images
    labels: Tensor
    train: Tensor
    held_out: Tensor

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.take(indices), self.labels[indices.to(self.labels.device)]


def run(task: TrainTask, folder: StageFolder, device: torch.device, report: Report) -> dict[str, Any]:
    """Train from scratch or from the last checkpoint; leaves `network.pt` in the folder.

    Returns:
        Plain data: genotype, parameters (without the auxiliary head), the epoch kept, last figures, train_seconds.

    Raises:
        RunError: the loss is not finite.
        RunDirectoryError: the checkpoint is damaged or of another network.
    """
    settings = task.settings
    data = _data(task, device)
    with seeding.seeded(task.seed, "train", "weights"):
        network = build(task.space, task.genotype, task.dataset, settings)
    # convolutions of few channels run faster with channels last, on the CPU too
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.decay
    )
    state = _resume(folder, network, optimizer)
    # the history is part of the checkpoint: the file beside it may be behind after a kill
    records = state["records"]
    for epoch in range(state["epoch"] + 1, settings.epochs + 1):
        began = time.perf_counter()
        with seeding.seeded(task.seed, "train", "layers", epoch):
            figures = _epoch(task, network, optimizer, data, epoch)
        if settings.checkpoint == "best":
            held_out = _held_out_accuracy(task, network, data)
            figures["held_out"] = held_out
            if held_out > state["best"]:
                state["best"], state["best_epoch"] = held_out, epoch
                folder.save_tensors("best.pt", network.state_dict())
        state["epoch"] = epoch
        state["seconds"] += time.perf_counter() - began
        records.append({"epoch": epoch, **figures, "total_seconds": state["seconds"]})
        folder.save_tensors(
            "checkpoint.pt",
            {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "state": dict(state)},
        )
        folder.rewrite_history(records)
        report(epoch, settings.epochs, "epoch", **{k: v for k, v in figures.items() if k != "lr"})
    folder.rewrite_history(records)
    kept = settings.epochs
    weights = network.state_dict()
    if settings.checkpoint == "best":
        best = folder.load_tensors("best.pt")
        if best is None:
            raise RunDirectoryError(damaged(folder.path / "best.pt", "it is missing although an epoch was best"))
        weights, kept = best, int(state["best_epoch"])
    folder.save_tensors("network.pt", weights)
    figures = {key: value for key, value in records[-1].items() if key not in ("epoch", "lr", "total_seconds")}
    return {
        "genotype": task.genotype,
        "parameters": parameters(task.space, task.genotype, task.dataset),
        "epoch_kept": kept,
        **figures,
        "train_seconds": state["seconds"],
    }


def _data(task: TrainTask, device: torch.device) -> _Data:
    """All training images train, unless some are held out to choose the checkpoint."""
    images = task.dataset.split("train")
    count = len(images.labels)
    if task.settings.checkpoint == "best":
        generator = seeding.generator(task.seed, "train", "held out")
        train, held_out = halves(count, 1 - task.settings.held_out, generator)
    else:
        train, held_out = torch.arange(count), torch.arange(0)
    return _Data(on_device(images, device), images.labels.to(device), train, held_out)


def _resume(folder: StageFolder, network: PixelNetwork, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state after the last epoch that was checkpointed; of epoch 0 where there is none."""
    state: dict[str, Any] = {"epoch": 0, "seconds": 0.0, "best": -1.0, "best_epoch": 0, "records": []}
    checkpoint = folder.load_tensors("checkpoint.pt")
    if checkpoint is None:
        return state
    try:
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        state.update(checkpoint["state"])
    except (RuntimeError, KeyError, ValueError, TypeError) as fault:
        why = f"it is not a checkpoint of this training: {str(fault).splitlines()[0]}"
        raise RunDirectoryError(damaged(folder.path / "checkpoint.pt", why)) from fault
    return state


def learning_rate(settings: Train, epoch: int) -> float:
    """Cosine from `lr` at epoch 1 towards `lr_min` (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    turn = math.cos(math.pi * (epoch - 1) / settings.epochs)
    return settings.lr_min + (settings.lr - settings.lr_min) * (1 + turn) / 2


def _epoch(
    task: TrainTask, network: PixelNetwork, optimizer: torch.optim.Optimizer, data: _Data, epoch: int
) -> dict[str, float]:
    """One epoch; returns its mean loss and its accuracy on the images the loss judged, augmented as they were."""
    settings = task.settings
    order = seeding.generator(task.seed, "train", "order", epoch)
    augmenting = seeding.generator(task.seed, "train", "augment", epoch)
    perturbing = seeding.generator(task.seed, "train", "perturb", epoch)
    fill = torch.tensor(task.dataset.mean)
    lr = learning_rate(settings, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if settings.drop_path > 0:
        network.network.drop_path = settings.drop_path * (epoch - 1) / settings.epochs  # type: ignore[assignment]
    network.train()

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)

    total_loss = torch.zeros((), device=data.labels.device)
    correct = torch.zeros((), device=data.labels.device)
    for indices in shuffled(data.train, settings.batch, order):
        images, labels = data.batch(indices)
        images = augment(
            images, augmenting, crop=settings.crop, flip=settings.flip, cutout=settings.cutout, fill=fill
        ).contiguous(memory_format=torch.channels_last)
        loss, logits = regime_loss(
            settings.regime, network, images, labels, task.threat, criterion, settings.auxiliary, perturbing
        )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        total_loss += loss.detach() * len(labels)
        correct += (logits.argmax(1) == labels).sum()
    mean_loss = (total_loss / len(data.train)).item()
    if not math.isfinite(mean_loss):
        raise RunError(
            f"training diverged: the loss is {mean_loss} in epoch {epoch}; the checkpoint of epoch {epoch - 1} is "
            "intact. A smaller train.lr or train.clip would do"
        )
    return {"loss": mean_loss, "accuracy": (correct / len(data.train)).item(), "lr": lr}


def _held_out_accuracy(task: TrainTask, network: PixelNetwork, data: _Data) -> float:
    """Accuracy on the images held out: clean in the standard regime, under the regime's own PGD in the others."""
    regime = task.settings.regime
    generator = seeding.generator(task.seed, "train", "held-out perturbation")  # the same start every epoch
    network.eval()
    correct = 0
    for batch in in_order(len(data.held_out), task.settings.batch):
        images, labels = data.batch(data.held_out[batch])
        if not isinstance(regime, Standard):
            images = perturb(regime, network, images, labels, task.threat, generator)
        with torch.no_grad():
            correct += int((network(images).argmax(1) == labels).sum())
    return correct / len(data.held_out)
