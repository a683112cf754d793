"""Seeds: every random number of a run is a function of the recipe's seed and of what it is used for.

A stage never carries a generator's state from one epoch to the next: each use derives its own seed from the
recipe's seed and words that say what it is for (`"search", "order", epoch`).  That is why resuming at an epoch
gives the same numbers as never having stopped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from robustnas.runtime.derived import derive

__all__ = ["derive", "generator", "put_back", "reseed", "seeded", "states", "untouched"]


def generator(seed: int, *words: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for one use."""
    return torch.Generator(device=device).manual_seed(derive(seed, *words))


@contextmanager
def seeded(seed: int, *words: str | int) -> Iterator[None]:
    """Seed torch's global generators for one use inside, and put them back afterwards.

    Layers initialise themselves from the global generator, so networks are built inside this.
    """
    with _forked():
        reseed(derive(seed, *words))
        yield


def reseed(seed: int) -> None:
    """`torch.manual_seed`, 0.7 ms faster where the CPU is the only device.

    There torch would note the seed for every kind of device that might still come, each with the stack of its caller.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def untouched() -> Iterator[None]:
    """Put the global generators of torch, NumPy and Python back afterwards as they were."""
    plain, legacy = random.getstate(), np.random.get_state()
    try:
        with _forked():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(legacy)


def _forked() -> AbstractContextManager[None]:
    """Put torch's global generators back afterwards, those of every CUDA device among them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices=devices)


def states(generators: Mapping[str, torch.Generator], device: torch.device) -> dict[str, torch.Tensor]:
    """Note the states of these generators and of torch's global ones, as a checkpoint keeps them."""
    found = {name: generator.get_state() for name, generator in generators.items()}
    found["global"] = torch.get_rng_state()
    if device.type == "cuda":
        found["global on the device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        found["global on the device"] = torch.mps.get_rng_state()
    return found


def put_back(kept: Mapping[str, torch.Tensor], generators: Mapping[str, torch.Generator], device: torch.device) -> None:
    """Put the generators back as they were when `states` was called."""
    for name, generator in generators.items():
        generator.set_state(kept[name])
    torch.set_rng_state(kept["global"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(kept["global on the device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(kept["global on the device"])
