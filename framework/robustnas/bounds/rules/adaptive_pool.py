"""Max pooling in one dimension and to a given size: by the rule of max pooling in two dimensions.

A pool in one dimension is one of height 1.  Output i of a pool of n entries to m looks at the entries from
floor(i n / m) to ceil((i + 1) n / m), as torch's does.  Where m divides n these windows are alike and do not overlap,
so that one call serves all; elsewhere each window is pooled for itself, and the results are joined.  (Adaptive average
pooling needs none of this: its coefficients are never negative, `average_pool.py`.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from robustnas.bounds.registration import only_first, rule, spellings
from robustnas.bounds.rules.max_pool import max_pool2d
from robustnas.bounds.value import Function, Value, refuse


@rule(*spellings("max_pool1d"), F.max_pool1d_with_indices, scaled=True)
def max_pool1d(
    function: Function,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Of (N, C, W)."""
    _check(function, value, 3, return_indices)
    pooled = max_pool2d(
        F.max_pool2d,
        _raised(value),
        (1, _single(kernel_size)),
        (1, _single(kernel_size if stride in (None, [], ()) else stride)),
        (0, _single(padding)),
        (1, _single(dilation)),
        ceil_mode,
    )
    return _lowered(pooled)


@rule(*spellings("adaptive_max_pool1d"), F.adaptive_max_pool1d_with_indices, scaled=True)
def adaptive_max_pool1d(function: Function, value: Value, output_size: Any, return_indices: bool = False) -> Value:
    """Of (N, C, W), to a width."""
    _check(function, value, 3, return_indices)
    return _lowered(_pooled(_raised(value), (1, _single(output_size))))


@rule(*spellings("adaptive_max_pool2d"), F.adaptive_max_pool2d_with_indices, scaled=True)
def adaptive_max_pool2d(function: Function, value: Value, output_size: Any, return_indices: bool = False) -> Value:
    """Of (N, C, H, W), to a size, or a height and a width, of which either may be None: as it is."""
    _check(function, value, 4, return_indices)
    sizes = [output_size] * 2 if output_size is None or isinstance(output_size, int) else list(output_size)
    height, width = (
        known if size is None else int(size) for size, known in zip(sizes, value.centre.shape[2:], strict=True)
    )
    return _pooled(value, (height, width))


def _pooled(value: Value, size: tuple[int, int]) -> Value:
    height, width = value.centre.shape[2:]
    if height % size[0] == 0 and width % size[1] == 0:
        window = (height // size[0], width // size[1])
        return max_pool2d(F.max_pool2d, value, window, window)
    rows: list[Any] = [
        torch.cat([_largest(value[:, :, above, left]) for left in _windows(width, size[1])], dim=3)
        for above in _windows(height, size[0])
    ]
    joined: Any = torch.cat(rows, dim=2)
    assert isinstance(joined, Value)
    return joined


def _windows(entries: int, outputs: int) -> list[slice]:
    return [slice(at * entries // outputs, -(-(at + 1) * entries // outputs)) for at in range(outputs)]


def _largest(part: Any) -> Value:
    """The largest entry of each channel, (N, C, 1, 1)."""
    return max_pool2d(F.max_pool2d, part, tuple(part.shape[2:]))


def _check(function: Function, value: Value, dimensions: int, return_indices: bool) -> None:
    only_first(function, value, (), {})
    if return_indices:
        refuse(function, value, "return_indices has no meaning for a whole region")
    if value.centre.dim() != dimensions:
        refuse(function, value, f"input of {value.centre.dim()} dimensions: without an image dimension images mix")


def _single(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])


def _raised(value: Value) -> Value:
    raised: Any = value.unsqueeze(2)
    assert isinstance(raised, Value)
    return raised


def _lowered(value: Value) -> Value:
    lowered: Any = value.squeeze(2)
    assert isinstance(lowered, Value)
    return lowered
