"""A network that is only looked at: eval mode, no gradients for its parameters, all put back afterwards.

It is given copies of images, never what somebody goes on computing with, and is refused where it writes into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.errors import RunError
from robustnas.nn.batch_statistics import frozen_statistics


@contextmanager
def read_only(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode, its parameters without `requires_grad`; also put back after an exception.

    Foolbox differentiates with `loss.backward()`, which would fill `.grad` of every parameter and so leak
    into the next step of an optimiser.  The mode of every module is put back on its own: a network may hold
    some in eval mode while the rest trains.

    Raises:
        RunError: by a call of the network, if that writes into the images it is given; see `lent`.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        with frozen_statistics(network), lent(network):
            yield network
    finally:
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


@contextmanager
def lent(network: nn.Module) -> Iterator[None]:
    """Inside, each call of the network is given a copy of its images, which must be what it was when the call is over.

    Whoever called goes on with the images that the network was asked about: an attack measures its perturbation by
    them, and a certificate is of them.  A copy makes every figure right whatever the network does; that it is refused
    all the same is because nobody else protects their images from it.  Gradients pass through the copy.

    Raises, when the network is called:
        RunError: it wrote into the copy, whether the numbers changed or not (an in-place relu of pixels changes none).
    """
    # image, copy and the copy's version of calls under way, the innermost last; None where the image itself was passed
    loans: list[tuple[Tensor, Tensor, int] | None] = []

    def give(network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        images: Any = args[0] if args else None
        if not _is_looked_into(images):
            loans.append(None)
            return None
        copy = images.clone()
        loans.append((images, copy, _version(copy)))
        return (copy, *args[1:])

    def take_back(network: nn.Module, args: tuple[Any, ...], logits: Any) -> None:
        loan = loans.pop()
        # there are no logits after a call that raised
        if loan is not None and logits is not None:
            images, copy, version = loan
            if _version(copy) != version or not _same(images, copy):
                raise RunError(
                    f"the network ({type(network).__name__}) writes into the images it is given, in its forward pass: "
                    "whoever passes them on would go on with other pixels.  x = x.clone() as the first line of its "
                    "forward would do, or what is not in place: (x - mean) / std for x.sub_(mean).div_(std), "
                    "nn.ReLU() for nn.ReLU(inplace=True) as its first layer"
                )

    given = network.register_forward_pre_hook(give)
    returned = network.register_forward_hook(take_back, always_call=True)
    try:
        yield
    finally:
        given.remove()
        returned.remove()


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to, as far as torch counts; not by what goes through `.data` or NumPy."""
    return 0 if tensor.is_inference() else tensor._version


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN equal to NaN."""
    if one.shape != other.shape:
        return False
    one, other = one.detach(), other.detach()
    return torch.equal(one, other) or bool(((one == other) | (one != one) & (other != other)).all())


def _is_looked_into(images: Any) -> bool:
    """Whether these are plain tensors whose numbers can be looked at: no bounded values, no tensors that a transform of
    `torch.func` wraps, and not while a graph is written down."""
    return (
        type(images) in (Tensor, nn.Parameter)
        and torch._C._get_tracing_state() is None
        and not torch._C._functorch.is_functorch_wrapped_tensor(images)
    )
