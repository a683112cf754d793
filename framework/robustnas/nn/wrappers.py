"""A network without what it is wrapped in, which tensors only pass, not what bounds and number formats are made of."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from robustnas.errors import UnsupportedOpError


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside `nn.DataParallel`, `DistributedDataParallel` and `torch.compile`, in any order.

    Raises:
        UnsupportedOpError: it, or a part of it, is TorchScript, or a part of it is wrapped for several devices.
    """
    inner: Any = network
    while isinstance(inner, _PARALLEL) or hasattr(inner, "_orig_mod"):
        inner = inner.module if isinstance(inner, _PARALLEL) else inner._orig_mod
    network = inner
    for name, module in network.named_modules():
        where = name or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedOpError(
                f"{where} is TorchScript ({type(module).__name__}), whose operations can be run, not looked into; "
                "the module that was scripted or traced, with its state_dict, would do"
            )
        if isinstance(module, _PARALLEL):
            raise UnsupportedOpError(
                f"{where} is {type(module).__name__}, which splits images over devices; {where}.module in its place "
                "would do"
            )
    return network


_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def eager() -> AbstractContextManager[Any]:
    """Inside, what `torch.compile` made runs as it was written."""
    # without it nothing is compiled, and to ask for it would import it
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
