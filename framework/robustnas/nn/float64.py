"""A network computed in float64 from the numbers it holds, constants of its forward pass included."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustnas.errors import UnsupportedOpError
from robustnas.nn.wrappers import eager
from robustnas.runtime.strangers import first_line, text_of


def doubled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network computed in float64 from the numbers it holds, so that gradients reach them: (N, ...) -> (N, K).

    It is the same module: where a forward pass goes, and what refuses it, is told by its own names.  Parameters and
    buffers are not all that a forward pass computes with: see `Wide` for the rest.

    Raises:
        UnsupportedOpError: when called, if the network does not compute in float64.
    """
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }

    def call(images: Tensor) -> Tensor:
        try:
            with eager(), Wide():
                logits: Tensor = torch.func.functional_call(network, state, (images,))
        except (RuntimeError, TypeError) as fault:
            if not _OF_TYPES.search(text_of(fault)):
                raise
            raise UnsupportedOpError(
                "the network does not compute in float64, in which its certificates are confirmed "
                f"({first_line(fault)}); what forward computes with would do as a parameter, as a "
                "buffer (self.register_buffer) or as a float32 tensor"
            ) from fault
        return logits

    return call


_OF_TYPES = re.compile(r"\b(d?types?|float\d*|double)\b", re.IGNORECASE)
"""What torch says of number formats that do not go together."""


class Wide(TorchFunctionMode):
    """Inside, what torch computes in float32 is computed in float64, from the same numbers.

    Float32 tensors are brought to float64 where a function takes or makes them: constants that hang on a module or are
    made on the way (`torch.tensor(0.1)` is the float32 number next to a tenth, as it is to the network).  Where a
    function is asked for float32 (`x.float()`, `x.to(torch.float32)`), float64 is what it gives.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # what is written into is not exchanged for a copy
        kept = args[: int(_writes(func.__name__))]
        asked = any(isinstance(one, Tensor) for one in args)
        args = (*kept, *(_widened(one, asked) for one in args[len(kept) :]))
        kwargs = {name: _widened(one, asked) for name, one in (kwargs or {}).items()}
        return _widened((Tensor.double if func is Tensor.float else func)(*args, **kwargs))


def _writes(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    if name.startswith("__"):
        return name in ("__setitem__", "__set__") or name.startswith("__i")
    return name.endswith("_")


SINGLE = (torch.float32, torch.FloatTensor, "torch.FloatTensor")
"""How code asks for float32."""


def _widened(item: Any, asked: bool = False) -> Any:
    """A plain float32 tensor in float64, wherever it stands in tuples and lists; where a tensor is `asked` to become
    float32, the name of float64."""
    if type(item) in (Tensor, nn.Parameter):
        return item.double() if item.dtype == torch.float32 else item
    if type(item) in (tuple, list):
        return type(item)(_widened(one, asked) for one in item)
    return torch.float64 if asked and isinstance(item, torch.dtype | type | str) and item in SINGLE else item
