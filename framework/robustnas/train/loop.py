"""The epochs of training: SGD with cosine, clipping, drop-path that rises, a checkpoint an epoch.

Every epoch derives its generators from the seed and its number; asked to stop, training saves a checkpoint after the
step it is in.  So resuming gives the numbers of a run that never stopped, bit for bit on the same machine, versions,
processes and thread count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NoReturn

import attrs
import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Dataset, Genotype, SearchSpace
from robustnas.data.batches import Batch, Part, gradient_of
from robustnas.data.order import in_order, shuffled
from robustnas.errors import RunDirectoryError, RunError
from robustnas.nn.batch_statistics import Noted, noted_statistics
from robustnas.nn.diagnostics import nonfinite_tensors
from robustnas.nn.normalize import PixelNetwork
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.device import can_fuse
from robustnas.runtime.memory import Peak, highest
from robustnas.runtime.precision import mixed, policy
from robustnas.runtime.processes import ALONE, Processes, other_processes
from robustnas.runtime.report import Report
from robustnas.runtime.strangers import first_line
from robustnas.threat import ThreatModel
from robustnas.train import certified
from robustnas.train.certified import Moment
from robustnas.train.data import TrainingData, training_data
from robustnas.train.network import build, parameters
from robustnas.train.regimes import loss as regime_loss
from robustnas.train.regimes import perturb
from robustnas.train.settings import Certified, Standard, Train


@frozen
class TrainTask:
    """Everything that determines a trained network."""

    dataset: Dataset
    space: SearchSpace
    genotype: Genotype
    threat: ThreatModel
    settings: Train
    seed: int


def run(
    task: TrainTask, folder: StageFolder, device: torch.device, report: Report, processes: Processes = ALONE
) -> dict[str, Any]:
    """Train from scratch or from the last checkpoint; leaves `network.pt` in the folder.

    Args:
        task: what determines the result.
        folder: gets checkpoints, the history and the network.
        device: where network and images live.
        report: is told after each epoch.
        processes: the processes that share each batch; all of them call this alike.

    Returns:
        Plain data: genotype, parameters (without the auxiliary head), the epoch kept, last figures, train_seconds,
        `notes` on the division of the images.

    Raises:
        RunError: the loss is not finite.
        RunDirectoryError: the checkpoint is damaged or of another network.
        InputError: batches that these processes cannot share; a last epsilon beyond the pixel range; images that cannot
            be read in the size, or changed in the colours, that the settings ask for.
        Interrupted: the process was asked to stop; the checkpoint holds the last step.
    """
    settings = task.settings
    if isinstance(settings.regime, Certified):
        certified.last_epsilon(settings.regime, task.threat)  # now, not in the first step
    peak = Peak(device)
    data = training_data(task.dataset, settings, task.seed, device, processes)
    with seeding.seeded(task.seed, "train", "weights"):
        network = build(task.space, task.genotype, task.dataset, settings)
    if processes.size > 1:
        synchronise(network)
    if settings.recompute_cells:
        recompute(network.network, "train.recompute_cells")
    # convolutions of few channels run faster with channels last, on the CPU too
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.decay,
        fused=can_fuse(device),
    )
    state = _resume(folder, network, optimizer, processes)

    def checkpoint() -> None:
        folder.save_tensors(
            "checkpoint.pt",
            {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "state": dict(state)},
        )

    # the history is part of the checkpoint: the file beside it may be behind after a kill
    records = state["records"]
    report(int(state["epoch"]), settings.epochs, "epoch")
    with policy(settings.precision), data:
        for epoch in range(state["epoch"] + 1, settings.epochs + 1):
            began = time.perf_counter() - float(state["middle"]["seconds"] if state["middle"] else 0.0)
            data.batches.feed.reset()
            peak.reset()

            def stop(middle: dict[str, Any], began: float = began) -> NoReturn:
                state["middle"] = {**middle, "seconds": time.perf_counter() - began}
                checkpoint()
                raise interrupt.Interrupted

            with seeding.seeded(task.seed, "train", "layers", epoch):
                figures = _Epoch(task, network, optimizer, data, epoch, device, processes, stop).run(state["middle"])
            state["middle"] = None
            if settings.checkpoint == "best" and _judged(settings, epoch):
                held_out = _held_out_accuracy(task, network, data, processes)
                figures["held_out"] = held_out
                if held_out > state["best"]:
                    state["best"], state["best_epoch"] = held_out, epoch
                    folder.save_tensors("best.pt", network.state_dict())
            state["epoch"] = epoch
            seconds = time.perf_counter() - began
            state["seconds"] += seconds
            machine = {"waiting": data.batches.feed.waited / seconds, **peak.read(), "total_seconds": state["seconds"]}
            records.append({"epoch": epoch, **figures, **machine})
            checkpoint()
            folder.rewrite_history(records)
            report(epoch, settings.epochs, "epoch", **{k: v for k, v in figures.items() if k != "lr"})
            if processes.any(interrupt.asked()):
                raise interrupt.Interrupted
    folder.rewrite_history(records)
    kept = settings.epochs
    weights = network.state_dict()
    if settings.checkpoint == "best":
        best = folder.load_tensors("best.pt")
        if best is None:
            raise RunDirectoryError(damaged(folder.path / "best.pt", "it is missing although an epoch was best"))
        weights, kept = best, int(state["best_epoch"])
    folder.save_tensors("network.pt", weights)
    left_out = ("epoch", "lr", "waiting", "peak_memory", "peak_memory_reserved", "total_seconds")
    figures = {key: value for key, value in records[-1].items() if key not in left_out}
    return {
        "genotype": task.genotype,
        "parameters": parameters(task.space, task.genotype, task.dataset),
        "epoch_kept": kept,
        **figures,
        **highest(records),
        "train_seconds": state["seconds"],
        "notes": data.notes,
    }


def _resume(
    folder: StageFolder, network: PixelNetwork, optimizer: torch.optim.Optimizer, processes: Processes
) -> dict[str, Any]:
    """The state after the last step that was checkpointed; of epoch 0 where there is none.

    Raises:
        RunDirectoryError: the checkpoint is of another network, or of another number of processes.
    """
    state: dict[str, Any] = {
        "epoch": 0,
        "seconds": 0.0,
        "best": -1.0,
        "best_epoch": 0,
        "records": [],
        "middle": None,
        "processes": processes.size,
    }
    checkpoint = folder.load_tensors("checkpoint.pt")
    if checkpoint is None:
        return state
    try:
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        state.update(checkpoint["state"])
    except (RuntimeError, KeyError, ValueError, TypeError) as fault:
        why = f"it is not a checkpoint of this training: {first_line(fault)}"
        raise RunDirectoryError(damaged(folder.path / "checkpoint.pt", why)) from fault
    if state["processes"] != processes.size:
        raise RunDirectoryError(other_processes(folder.path / "checkpoint.pt", state["processes"], processes))
    return state


def learning_rate(settings: Train, epoch: int) -> float:
    """Cosine from `lr` at epoch 1 towards `lr_min` (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    turn = math.cos(math.pi * (epoch - 1) / settings.epochs)
    return settings.lr_min + (settings.lr - settings.lr_min) * (1 + turn) / 2


@frozen(eq=False)
class _Epoch:
    """One pass over the images that train.

    Args:
        stop: is given the state in the middle of the epoch when the process is asked to stop; does not return.
    """

    task: TrainTask
    network: PixelNetwork
    optimizer: torch.optim.Optimizer
    data: TrainingData
    epoch: int
    device: torch.device
    processes: Processes
    stop: Callable[[dict[str, Any]], NoReturn]

    def run(self, middle: dict[str, Any] | None) -> dict[str, float]:
        """Its mean loss and its accuracy on the images the loss judged, augmented as they were; what its schedule said.

        Args:
            middle: where an earlier sitting stopped inside this epoch.
        """
        task, settings, epoch, network = self.task, self.task.settings, self.epoch, self.network
        order = shuffled(self.data.train, settings.batch, seeding.generator(task.seed, "train", "order", epoch))
        generators = {use: seeding.generator(task.seed, "train", use, epoch) for use in ("augment", "perturb")}
        lr = learning_rate(settings, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if settings.drop_path > 0:
            network.network.drop_path = settings.drop_path * (epoch - 1) / settings.epochs  # type: ignore[assignment]
        network.train()
        done, sums = 0, torch.zeros(2 if self._moment(epoch) is None else 3, device=self.device)
        if middle is not None:
            done, sums = int(middle["steps"]), middle["sums"].to(self.device)
            seeding.put_back(middle["generators"], generators, self.device)
        batches = self.data.batches.of(order[done:], generators["augment"])
        for number, batch in enumerate(batches, done + 1):
            moment = self._moment(epoch - 1 + number / len(order))
            sums = sums + len(order[number - 1]) * self._step(batch, moment, generators["perturb"])
            if number < len(order) and self.processes.any(interrupt.asked()):
                self._check(sums)
                self.stop(
                    {
                        "steps": number,
                        "sums": sums.cpu(),
                        "generators": seeding.states(generators, self.device),
                    }
                )
        self._check(sums)
        figures = dict(zip(("loss", "accuracy", "certified"), (sums / len(self.data.train)).tolist(), strict=False))
        moment = self._moment(epoch)
        return {**figures, **({} if moment is None else attrs.asdict(moment)), "lr": lr}

    def _moment(self, passed: float) -> Moment | None:
        """The schedule of certified training after this many epochs; other regimes have none."""
        task, regime = self.task, self.task.settings.regime
        if not isinstance(regime, Certified):
            return None
        end = certified.last_epsilon(regime, task.threat)
        return certified.moment(regime, end, task.settings.epochs, passed)

    def _step(self, batch: Batch, moment: Moment | None, perturbing: torch.Generator) -> Tensor:
        """Move the weights.  Returns mean loss and accuracy of the batch, with a schedule the share certified too."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = torch.zeros(2 if moment is None else 3, device=self.device)
        with nullcontext() if moment is None else noted_statistics(self.network) as noted:
            for part in batch:
                with mixed(self.task.settings.precision, self.device):
                    loss, right = self._loss(part, moment, noted, perturbing)
                torch.autograd.backward(part.share * loss)
                seen += part.share * torch.stack([loss.detach().float(), *(some.float().mean() for some in right)])
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        if self.processes.size > 1:
            *gradients, seen = self.processes.sum([*(gradient_of(parameter) for parameter in parameters), seen])
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # in place: fused optimisers take for granted that a gradient lies in memory as its parameter does
                gradient_of(parameter).copy_(gradient)
        torch.nn.utils.clip_grad_norm_(parameters, self.task.settings.clip, foreach=True)
        self.optimizer.step()
        return seen

    def _loss(
        self, part: Part, moment: Moment | None, noted: Noted | None, perturbing: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """The regime's loss, and which images are right and, where there is a schedule, certified: (), (n,) each."""
        settings, threat = self.task.settings, self.task.threat
        data = self.network, part.images, part.labels
        if moment is not None:
            assert noted is not None
            loss, logits, proved = certified.loss(
                moment, *data, threat.norm, self._criterion, settings.auxiliary, noted
            )
            return loss, [logits.argmax(1) == part.labels, proved]
        assert not isinstance(settings.regime, Certified)
        loss, logits = regime_loss(settings.regime, *data, threat, self._criterion, settings.auxiliary, perturbing)
        return loss, [logits.argmax(1) == part.labels]

    def _criterion(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.task.settings.label_smoothing)

    def _check(self, sums: Tensor) -> None:
        """Refuse to save what has diverged.

        Raises:
            RunError: the loss is not finite.
        """
        if not bool(sums.isfinite().all()):
            gentler = "" if self._moment(self.epoch) is None else ", or a longer ramp_epochs of train.regime,"
            raise RunError(
                f"training diverged: the loss is {float(sums[0])} in epoch {self.epoch}"
                f"{nonfinite_tensors(self.network)}; the checkpoint of epoch {self.epoch - 1} is intact. "
                f"A smaller train.lr or train.clip{gentler} would do"
            )


def _judged(settings: Train, epoch: int) -> bool:
    """Whether an epoch may give the network that is kept: in certified training, once epsilon is at its end."""
    regime = settings.regime
    return not isinstance(regime, Certified) or epoch >= regime.end(settings.epochs)


def _held_out_accuracy(task: TrainTask, network: PixelNetwork, data: TrainingData, processes: Processes) -> float:
    """Accuracy on the images held out: clean, under the regime's own PGD, or certified at its last epsilon."""
    regime = task.settings.regime
    generator = seeding.generator(task.seed, "train", "held-out perturbation")  # the same start every epoch
    unused = torch.Generator()
    network.eval()
    correct = next(network.parameters()).new_zeros(())
    order = [data.held_out[batch] for batch in in_order(len(data.held_out), task.settings.batch)]
    for (part,) in data.plain.of(order, unused):
        images = part.images
        if isinstance(regime, Certified):
            end = certified.last_epsilon(regime, task.threat)
            correct += certified.certified(regime, network, images, part.labels, task.threat.norm, end).sum()
            continue
        if not isinstance(regime, Standard):
            images = perturb(regime, network, images, part.labels, task.threat, generator)
        with torch.no_grad():
            correct += (network(images).argmax(1) == part.labels).sum()
    return float(processes.sum([correct])[0]) / len(data.held_out)
