"""The switch of the speed layer: with a part of it off, plain torch computes the same.

    with plain():                       # all of it
        logits = supernet(images)
    with plain("stages", "depthwise"):  # two of its parts

It holds for the whole process, for what is computed inside: a backward pass goes the way of its forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PARTS = {
    "convolutions": "convolutions of groups have gradients, and gradients of gradients, of their own",
    "depthwise": "gradients of depthwise convolutions are put together from what oneDNN has fast code for",
    "pointwise": "grouped 1x1 convolutions, outside stages, are matrix products",
    "taps": "depthwise convolutions in float64, which oneDNN does not know, go entry by entry of the weight",
    "stages": "depthwise-separable layers of several operations and edges are one step of autograd",
    "scaled norm": "mixing weights are the scale of the batch norm in front of them",
    "folded norm": "batch norm with fixed statistics is part of the convolution in front of it",
    "double backward": "functions without a second derivative send no zeros back",
}
"""The parts, and what each does."""

_off: frozenset[str] = frozenset()


@contextmanager
def plain(*parts: str) -> Iterator[None]:
    """Inside, the named parts are off, all where none is named; what was off before stays off.

    Raises:
        ValueError: no part has one of the names.
    """
    global _off
    if unknown := set(parts) - set(PARTS):
        raise ValueError(
            f"no part of the speed layer is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    before, _off = _off, _off | frozenset(parts or PARTS)
    try:
        yield
    finally:
        _off = before


def is_on(part: str) -> bool:
    """Whether a part of the speed layer is in use."""
    return part not in _off
