"""A module of networks as a stranger writes them, sound and wrong, and how tests load from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.foreign import load
from robustnas.foreign.settings import Weights

SHAPE = (1, 6, 6)


class Thing:
    """An object of a class of one's own, as checkpoints hold some."""


SOURCE = """\
import functools
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, classes=3, width=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width * 36, classes)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))


class Wrong(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images.flatten(1)[:, :3])


def make():
    return Plain()

def parallel():
    return nn.DataParallel(Plain())

class Wrapper(nn.Module):  # what torch.compile makes, which takes seconds to import
    def __init__(self):
        super().__init__()
        self._orig_mod = Plain()

def compiled():
    return Wrapper()

def named_module():
    outer = nn.Sequential()
    outer.add_module("module", Plain())
    return outer

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

made = Plain()
partial = functools.partial(Plain, 3)
wide = functools.partial(Plain, 1000)
number = 3
nothing = lambda: None
double = lambda: Plain().double()

def needs(classes, width, *rest, depth=3, **more):
    return Plain()

def raises():
    raise ValueError("no file here")

def exits():
    raise SystemExit(2)

def big():
    return nn.Sequential(nn.Upsample(scale_factor=1), nn.Flatten(), nn.Linear(3 * 64 * 64, 3))

def picky():
    class Picky(nn.Module):
        def forward(self, images):
            raise RuntimeError("never")
    return Picky()

pair = lambda: Wrong(lambda x: (x, x))
table = lambda: Wrong(lambda x: {"logits": x, "hidden": x})
named = lambda: Wrong(lambda x: {"hidden": x[:, :2], "logits": x})
nan = lambda: Wrong(lambda x: x / x)
just_class = lambda: Plain
state = lambda: Plain().state_dict()
function = lambda: make
both = lambda: ("transform", Plain())
half = lambda: Wrong(lambda x: nn.functional.linear(x, torch.ones(3, 3, dtype=torch.float64)))

def moved():
    raise AssertionError("Torch not compiled with CUDA enabled")

def moves(images):
    raise RuntimeError("Found no NVIDIA driver on your system")

sent = lambda: Wrong(moves)

class Drop(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, images):
        return getattr(self, self.name)

drop = lambda: Drop("drop_path_prob")
unset = lambda: Drop("scale")
typo = lambda: Wrong(lambda x: x.sofmax(1))

def rgb(size=None):
    layers = [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 3)] if size else [
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers)

rgb_small = functools.partial(rgb, 6)
rgb_large = functools.partial(rgb, 32)
large = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
one_by_one = lambda: Wrong(lambda x: x.reshape(1, 3))
complex_ = lambda: Wrong(lambda x: x * 1j)
classes = lambda: Wrong(lambda x: x.argmax(1))
squeezed = lambda: Wrong(lambda x: x.squeeze(0))
writes = lambda: Wrong(lambda x: x.sub_(0.5).div_(0.2))
clips = lambda: nn.Sequential(nn.ReLU(inplace=True), Plain())
alone = lambda: Wrong(lambda x: x.reshape(1, -1)[:, :3])
"""


def get(name: str = "make", weights: Path | None = None, key=None, prefix=None, **changed: Any) -> nn.Module:
    """A network of the module, with weights of a file or without."""
    which = None if weights is None else Weights(weights, key, prefix)
    return load(f"their_nets:{name}", which, **({"classes": 3, "shape": SHAPE} | changed))


def images() -> Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def trained() -> nn.Module:
    """Their network with weights that no factory gives."""
    with torch.random.fork_rng():
        torch.manual_seed(77)
        network = get()
        for parameter in network.parameters():
            parameter.data.normal_()
        network.train()(images())
    return network.eval()
