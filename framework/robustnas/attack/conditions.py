"""The conditions under which an attack is run: what is the same for all its radii and parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from robustnas.attack.outcomes import Outcomes
from robustnas.attack.progress import Progress
from robustnas.contracts import ACCESS
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

    Raises:
        ValueError: a number below 1, or an access that is none of `robustnas.contracts.ACCESS`.
    """

    label: str | None = None
    batch: int = field(default=256, validator=ge(1))
    seed: int = 0
    device: torch.device | str | None = None
    clean: Tensor | None = None
    places: Tensor | None = None
    source: nn.Module | None = None
    expectation: int = field(default=1, validator=ge(1))
    runs: int = field(default=1, validator=ge(1))
    variant: str = ""
    access: str = field(default="white-box", validator=in_(ACCESS))
    progress: Progress | None = None
    watch: Watch | None = None
    report: Report = silent
    processes: Processes = ALONE
