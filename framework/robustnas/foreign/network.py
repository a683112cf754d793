"""Makes somebody's own network, fills it, tries it, and identifies it by plain data.

Both run code of its author: whatever that raises becomes an `InputError` with the line it came from.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from robustnas.contracts import Shape
from robustnas.errors import InputError
from robustnas.foreign.answers import check_answers
from robustnas.foreign.factory import made_by, resolved, working_directory
from robustnas.foreign.settings import Weights
from robustnas.foreign.weights import fill, sha256
from robustnas.nn.normalize import PixelNetwork


def load(
    factory: str,
    weights: Weights | None,
    classes: int,
    shape: Shape,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    tell: Callable[[str], None] | None = None,
) -> nn.Module:
    """Load the network, on the CPU in eval mode: (N, C, H, W) pixels in [0, 1] -> (N, K) logits.

    It is put through black images, and refused unless it answers each with finite logits and leaves the images as they
    are.

    Args:
        factory: `module:name`; the working directory is searched for the module first.  The name is of a function or
            class that is called without arguments (torch's generators seeded), or of an `nn.Module` already made.
        weights: a state dict in a file, by itself or in a checkpoint; None keeps the weights that the factory gave.
        classes: K.
        shape: of the dataset's images.
        mean: of each channel, in pixel units: subtracted before the network, where it does not do so itself.
        std: of each channel: divided by.
        tell: is told which tensors of the file were taken.

    Raises:
        InputError: a part of this is missing, raises or does not fit; says what was found and what would do.
    """
    normalized = _check_normalisation(shape, mean, std)
    with working_directory():
        network = made_by(factory)
        if weights is not None:
            loaded = fill(network, weights, factory)
            if tell is not None:
                tell(loaded)
        if normalized is not None:
            network = PixelNetwork(network, *normalized)
        network.eval()
        check_answers(network, factory, classes, shape)
    return network


def digest(factory: str, weights: Weights | None) -> dict[str, Any]:
    """Identify the network by plain data.

    Returns:
        `factory` as given, `weights` the sha256 of that file or None, `source` the sha256 of the file that defines the
        factory, or None where it has none.  What that file imports is not looked at.  `key` and `prefix` where they
        are said.

    Raises:
        InputError: the factory or the file is not there.
    """
    with working_directory():
        module, made = resolved(factory)
        while isinstance(made, partial):
            made = made.func
        definition = made if inspect.isroutine(made) or inspect.isclass(made) else type(made)
        # what is made already is defined where it is written down, its class may be torch's
        home = module if isinstance(made, nn.Module) else sys.modules.get(definition.__module__, module)
        source = getattr(home, "__file__", None)
        said = {} if weights is None else {"key": weights.key, "prefix": weights.prefix}
        return {
            "factory": factory,
            "weights": None if weights is None else sha256(weights.file, "--weights"),
            "source": None if source is None else sha256(Path(source), f"the source of {factory}"),
            **{name: given for name, given in said.items() if given is not None},
        }


def _check_normalisation(
    shape: Shape, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return mean and standard deviation, or None where the network has neither or its own."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InputError(f"--{'std' if mean is None else 'mean'} alone is no normalisation; give --mean and --std")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != shape[0]:
            raise InputError(f"--{name} has {len(values)} value(s); images of {shape[0]} channel(s) need as many")
        if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise InputError(
                f"--{name} {', '.join(map(str, values))}: finite numbers{' above 0' if name == 'std' else ''} would "
                "do, in pixel units (pixels are in [0, 1])"
            )
    return mean, std
