"""Steps, searches and trainings that one process or several can do: what `two_processes` compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import evolve, frozen

from robustnas.contracts import Context
from robustnas.data.batches import Part
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.optimizers import SGD
from robustnas.nn.synchronised import synchronise
from robustnas.registry import ORDERS as REGISTERED
from robustnas.search import SearchTask, SinglePathTask
from robustnas.search.balance import Balance
from robustnas.search.hypergradient.step import Step
from robustnas.search.hypergradient.unrolled import Unrolled
from robustnas.search.objective import Objective
from robustnas.search.settings import Search
from robustnas.search.weights import weights
from robustnas.threat import ThreatModel
from robustnas.train import TrainTask
from robustnas.train.regimes.certified import Certified
from robustnas.train.settings import Train
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import Bars, TinyDataset, TinySpace, TinySupernet, batch
from support.searches import LogitSize

THREAT = ThreatModel("linf", "8/255")
COUNT = 9
"""Images of a step: an odd number, so that the two shares differ."""


ORDERS = {name: REGISTERED.load(name)() for name in REGISTERED.names()}
CASES = {
    "plain": (),
    "score": (LogitSize(),),
    "jacobian": (Jacobian(),),
    "noise": (RandomNoise(),),
    "sdarts": (AdversarialAlpha(steps=2),),
}


def layer():
    """A batch norm in float64, images of it, and a direction."""
    draw = torch.Generator().manual_seed(0)
    module = torch.nn.BatchNorm2d(3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    images, direction = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64, generator=draw)
    return module, images, direction


def warp(out):
    return out.sin()


def network():
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)
    ).eval()
    images = torch.rand(23, 2, 2, 2)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 3
    return model, images, labels


def step_of(metrics, processes, device="cpu", supernet=None):
    """A step in float64, this process's share of it, with filled momentum buffers.

    Random numbers are drawn on the CPU, whatever the device, so that devices can be compared.
    """
    torch.manual_seed(3)
    supernet = PixelSupernet(supernet or TinySupernet(activation=torch.tanh), (0.5, 0.5), (0.25, 0.25)).double()
    supernet.to(device)
    w = weights(supernet)
    optimizer = SGD(w.parameters, 0.05, momentum=0.9, weight_decay=0.03)
    images, labels = (tensor.to(device) for tensor in batch(8, 0, torch.float64))
    torch.autograd.backward(F.cross_entropy(supernet(images), labels), inputs=w.parameters)
    optimizer.step()
    optimizer.zero_grad()
    if processes.size > 1:
        synchronise(supernet)
        w = weights(supernet)
    mine = processes.share(COUNT)
    train, val = (
        (Part(images[mine].to(device), labels[mine].to(device), len(labels[mine]) / COUNT),)
        for images, labels in (batch(COUNT, seed, torch.float64) for seed in (1, 2))
    )
    inner, outer = (
        Context(0.5, torch.Generator().manual_seed(seed), F.cross_entropy, processes.average) for seed in (4, 5)
    )
    objective = Objective(tuple((1.0, metric) for metric in metrics), THREAT, 0.1)
    return Step(
        supernet=supernet,
        objective=objective,
        weights=w,
        w_optimizer=optimizer,
        train=train,
        val=val,
        inner=inner,
        outer=outer,
        processes=processes,
    )


SETTINGS = Search(epochs=2, batch=6, warmup_epochs=0, gamma=0.05, alpha_lr=0.05, crop=1, flip=True, cutout=2)


@frozen
class SmoothSpace(TinySpace):
    """Without kinks: where one is crossed, rounding would grow into another search."""

    def supernet(self, shape, classes):
        return TinySupernet(shape, classes, activation=torch.tanh)


def search_task(*metrics, **settings):
    pairs = tuple((1.0, metric) for metric in metrics)
    return SearchTask(TinyDataset(), SmoothSpace(), pairs, THREAT, evolve(SETTINGS, **settings), 7)


SEARCHES = {
    "score": search_task(LogitSize()),
    "sdarts, unrolled": search_task(AdversarialAlpha(steps=2), order=Unrolled()),
    "in parts": search_task(LogitSize(), batch=8, accumulate=2),
    "balanced": search_task(LogitSize(), LogitSize(), gamma=Balance(0.5)),
}


SINGLE_PATH = SinglePathTask(TinyDataset(), Darts(cells=1, channels=2), evolve(SETTINGS, epochs=1), 7)


@frozen
class StillSpace(TinySpace):
    """Networks without dropout, whose draws an image has for itself."""

    def network(self, genotype, shape, classes, auxiliary=False):
        made = super().network(genotype, shape, classes, auxiliary)
        made.body[3].p = 0.0
        return made


TRAINING = Train(epochs=2, batch=16, lr=0.1, cutout=2, crop=1, drop_path=0.0, auxiliary=0.4, checkpoint="best")

CERTIFIED = evolve(TRAINING, regime=Certified(warmup_epochs=0.5, ramp_epochs=1))

TRAININGS = {
    name: TrainTask(Bars(), StillSpace(), {"width": 4}, ThreatModel("linf", 0.1), settings, seed=3)
    for name, settings in {"standard": TRAINING, "certified": CERTIFIED}.items()
}
