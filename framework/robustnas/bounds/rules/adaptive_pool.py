"""Bounds max pooling in one dimension, and to a given size, by the rule of max pooling in two dimensions.

A pool in one dimension is a pool of height 1.  Output i of a pool of n entries to m looks at the entries from
floor(i n / m) to ceil((i + 1) n / m), as in torch.  Where m divides n the windows are alike and do not overlap, so that
one call serves all; elsewhere each window is pooled by itself, and the results are joined.  (Adaptive average pooling
needs none of this: its coefficients are never negative, `average_pool.py`.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from robustnas.bounds.refusals import expect_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.max_pool import max_pool2d, refuse_places
from robustnas.bounds.value import Function


@rule(*spellings("max_pool1d"), F.max_pool1d_with_indices, scaled=True)
def max_pool1d(
    function: Function,
    value: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    _check(function, value, 3, return_indices)
    kernel, step = _single(kernel_size), _single(kernel_size if stride in (None, [], ()) else stride)
    window = ((1, kernel), (1, step), (0, _single(padding)), (1, _single(dilation)))
    pooled: Any = max_pool2d(F.max_pool2d, value.unsqueeze(2), *window, ceil_mode)
    return pooled.squeeze(2)


@rule(*spellings("adaptive_max_pool1d"), F.adaptive_max_pool1d_with_indices, scaled=True)
def adaptive_max_pool1d(function: Function, value: Any, output_size: Any, return_indices: bool = False) -> Any:
    _check(function, value, 3, return_indices)
    return _pooled(value.unsqueeze(2), 1, _single(output_size)).squeeze(2)


@rule(*spellings("adaptive_max_pool2d"), F.adaptive_max_pool2d_with_indices, scaled=True)
def adaptive_max_pool2d(function: Function, value: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Pool (N, C, H, W) to a height and a width, or to one number for both; None keeps a dimension as it is."""
    _check(function, value, 4, return_indices)
    sizes = [output_size] * 2 if output_size is None or isinstance(output_size, int) else output_size
    return _pooled(
        value, *(known if size is None else int(size) for size, known in zip(sizes, value.shape[2:], strict=True))
    )


def _pooled(value: Any, rows: int, columns: int) -> Any:
    height, width = value.shape[2:]
    if height % rows == 0 and width % columns == 0:
        window = (height // rows, width // columns)
        return max_pool2d(F.max_pool2d, value, window, window)

    def largest(part: Any) -> Any:
        return max_pool2d(F.max_pool2d, part, tuple(part.shape[2:]))

    return torch.cat(
        [
            torch.cat([largest(value[:, :, above, left]) for left in _windows(width, columns)], dim=3)
            for above in _windows(height, rows)
        ],
        dim=2,
    )


def _windows(entries: int, outputs: int) -> list[slice]:
    return [slice(at * entries // outputs, -(-(at + 1) * entries // outputs)) for at in range(outputs)]


def _check(function: Function, value: Any, dimensions: int, return_indices: bool) -> None:
    only_first(function, value, ())
    refuse_places(function, value, return_indices)
    expect_dimensions(function, value, dimensions)


def _single(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])
