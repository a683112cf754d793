"""Torch's optimisers without its compiler, whose import takes two seconds of every process that trains.

They compute what torch's do, and their states are theirs.  Each method of an optimiser is wrapped so that
`torch.compile` leaves it out or cuts its graph there, and every wrapper imports `torch._dynamo`; these call what is
wrapped.  A step of theirs is not made to be compiled, which nothing here does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def _bare(method: Callable[..., Any]) -> Callable[..., Any]:
    """What a method of torch's wraps; the method itself in a version that does not wrap it."""
    found: Callable[..., Any] = inspect.unwrap(method)
    return found


class _WithoutCompiler(torch.optim.Optimizer):
    """Replaces the wrapped methods that all optimisers share."""

    add_param_group = _bare(torch.optim.Optimizer.add_param_group)
    zero_grad = _bare(torch.optim.Optimizer.zero_grad)
    state_dict = _bare(torch.optim.Optimizer.state_dict)
    load_state_dict = _bare(torch.optim.Optimizer.load_state_dict)


class SGD(_WithoutCompiler, torch.optim.SGD):
    """`torch.optim.SGD`."""

    step = torch.no_grad()(_bare(torch.optim.SGD.step))


class Adam(_WithoutCompiler, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(_bare(torch.optim.Adam.step))
