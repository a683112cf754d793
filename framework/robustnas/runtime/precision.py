"""Which numbers a search and a training compute with: the recipe's key `precision`.

    float32     float32 proper; on CUDA too, where torch would round the inputs of convolutions to 10 bits
    tf32        as float32, with that rounding in convolutions and matrix products (CUDA only; elsewhere float32)
    bfloat16    plain forward passes in mixed precision (autocast), with tf32 for the rest

Whatever the precision, bounds, Jacobians and other scores, the passes a Hessian-vector product is made of, norms,
optimisers and weights stay float32; evaluation and certification are float32 proper (`robustnas.runtime.device`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def policy(precision: Precision) -> Iterator[None]:
    """Inside, CUDA rounds the inputs of float32 convolutions and products, or does not; elsewhere nothing changes."""
    if not torch.cuda.is_available():
        yield
        return
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def mixed(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A plain forward pass in this precision: autocast for bfloat16, nothing else."""
    if precision != "bfloat16":
        return nullcontext()
    # the cache of cast weights would go stale where a step exchanges weights by reference
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def single(device: torch.device) -> AbstractContextManager[Any]:
    """A pass in float32, whatever is around it."""
    return torch.autocast(device.type, enabled=False)
