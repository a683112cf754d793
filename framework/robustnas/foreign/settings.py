"""Where the weights of somebody's own network are: key `weights` of a method."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen


@frozen
class Weights:
    """Key `weights` of a method: the tensors of a network made elsewhere.

    Args:
        file: of torch.save.
        key: where in it the state dict is, parts with `/` between them; None: found by what fits the network.
        prefix: what stands before the network's names, names without it being left aside; None: found as well.
    """

    file: Path
    key: str | None = None
    prefix: str | None = None
