"""Gradients that a network computes during its own forward pass.

A network that optimises something before it answers (its input, a latent code, its weights) is differentiated through
that optimisation, or past it; either way the gradients an attack sees are seldom those of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_GRADIENTS: tuple[Callable[..., Any], ...] = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
"""The functions that run a backward pass; `torch.func` (grad, vjp, jacrev) and optimisers call these too."""

_replacing = RLock()


class _Watch(TorchFunctionMode):
    """Notes whether a backward pass is run in this thread while the block lasts.

    As a mode of torch it sees calls whatever name they were imported by, and replaces no function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen = self.seen or func in _GRADIENTS
        named: Mapping[str, Any] = kwargs or {}
        return func(*args, **named)


@contextmanager
def _backward_told_to(watch: _Watch) -> Iterator[None]:
    """Replace `torch.autograd.backward` by a function that notes the call, because torch 2.6 hides it from modes.

    Calls by other threads are not noted; one watch replaces the function at a time.
    """
    thread = get_ident()
    with _replacing:
        original = torch.autograd.backward

        def backward(*args: Any, **named: Any) -> None:
            watch.seen = watch.seen or get_ident() == thread
            original(*args, **named)

        torch.autograd.backward = backward
        try:
            yield
        finally:
            torch.autograd.backward = original


def gradients_in_forward(network: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    """Whether the network runs a backward pass while it answers once: (n, C, H, W) images."""
    watch = _Watch()
    with _backward_told_to(watch), watch:
        network(images)
    return watch.seen
