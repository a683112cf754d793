"""The conditions under which an attack is run: what is the same for all its radii and parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.attack.outcomes import Outcomes
from robustnas.attack.progress import Progress
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent

Watch = Callable[[Outcomes, Tensor, Tensor], None]
"""A function that is called with images that were fooled: their outcomes, and the clean and the perturbed images
(n, C, H, W)."""


@frozen(eq=False, kw_only=True)
class Conditions:
    """How an attack is run, and what is known of the images beforehand.

    Args:
        label: the attack's name in messages and seeds; None is its class.
        batch: images attacked at once.
        seed: the recipe's seed.
        device: where the network lives; None finds out.
        clean: (N,) int64, the network's answers on the clean images, if they are known.
        places: (N,) int64, the images' places in the data set that these are a part of: by them an image is named in
            messages and draws its random numbers.  Default: counted from 0.
        source: the network that the attack sees; default the one that judges.
        expectation: passes averaged in each evaluation that the attack sees, for randomised networks.
        runs: how often the attack is run, each time on the images that still stand.
        variant: which of several columns of the attack this is, as in `Outcomes`.
        access: what the attack knows of the network, where its parts do not tell: see `robustnas.contracts.ACCESS`.
        progress: the outcomes of batches that are done already, to which this run adds its own.
        watch: is called with every image that was fooled.
        report: is called after every batch, with the name of the part that is run and the share of images still right
            so far as `standing`.
        processes: the processes that share the batches; each returns the outcomes of all images.
    """

    label: str | None = None
    batch: int = 256
    seed: int = 0
    device: torch.device | str | None = None
    clean: Tensor | None = None
    places: Tensor | None = None
    source: nn.Module | None = None
    expectation: int = 1
    runs: int = 1
    variant: str = ""
    access: str = "white-box"
    progress: Progress | None = None
    watch: Watch | None = None
    report: Report = silent
    processes: Processes = ALONE
