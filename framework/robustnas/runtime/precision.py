"""Which numbers a search and a training compute with: the recipe's key `precision`.

    float32     float32 proper; on CUDA too, where torch would round the inputs of convolutions to 10 bits
    tf32        as float32, with that rounding in convolutions and matrix products (CUDA only; elsewhere float32)
    bfloat16    plain forward passes in mixed precision (autocast), with tf32 for the rest

Whatever the precision, bounds, Jacobians and other scores, the passes a Hessian-vector product is made of, norms,
optimisers and weights stay float32; evaluation and certification are float32 proper.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Inside, CUDA rounds the inputs of float32 convolutions and products to 10 bits, or it does not.

    By default torch rounds those of convolutions.  Evaluation and certification both run without, so that they judge
    the same network.  Elsewhere than on CUDA nothing changes.
    """
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    if not torch.cuda.is_available() or cudnn == matmul == allowed:
        yield
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


def policy(precision: Precision) -> AbstractContextManager[None]:
    """Inside, plain passes compute with the float32 of this precision."""
    return tf32(allowed=precision != "float32")


def full_precision() -> AbstractContextManager[None]:
    """Inside, float32 is float32 proper."""
    return tf32(allowed=False)


@contextmanager
def float32_with_gradients(device: torch.device) -> Iterator[None]:
    """Inside, gradients are on, mixed precision and TF32 off, whatever the caller has set."""
    with full_precision(), torch.inference_mode(False), torch.enable_grad(), single(device):
        yield


def mixed(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Compute a plain forward pass in this precision inside: autocast for bfloat16, nothing else."""
    if precision != "bfloat16":
        return nullcontext()
    # the cache of cast weights would go stale where a step exchanges weights by reference
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def single(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in float32 inside, whatever is around it."""
    return torch.autocast(device.type, enabled=False)
