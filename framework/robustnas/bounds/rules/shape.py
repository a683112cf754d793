"""Bounds functions that only move, select or copy entries, padding, and dropout, which in evaluation does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.ball import Ball, Streams
from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.arithmetic import constant
from robustnas.bounds.scale import aligned
from robustnas.bounds.steps.local import Local, apart
from robustnas.bounds.steps.moves import Join, Move, Pad, Reshape
from robustnas.bounds.streams import move_entries
from robustnas.bounds.value import Function, Value, refuse, values_in

COPIES = spellings("clone")
WHOLE = (*COPIES, *spellings("contiguous"))
SHAPED_ALIKE = ("view_as", "reshape_as", "expand_as")
IN_ORDER = (
    *("view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("contiguous", "clone"),
)
"""Functions behind which the entries have their order and another shape."""

MOVES = (
    torch.Tensor.unfold,
    *(getattr(torch.Tensor, name).__get__ for name in ("mT", "mH")),
    *spellings(
        *("view", "reshape", *SHAPED_ALIKE, "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("adjoint", "contiguous"),
        *("narrow", "select", "chunk", "split", "tensor_split", "unbind", "index_select", "__getitem__"),
        *("gather", "take_along_dim", "diagonal", "flip", "fliplr", "rot90", "roll"),
        *("expand", "broadcast_to", "repeat", "tile", "repeat_interleave"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    ),
)
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


@rule(*MOVES, *COPIES, scaled=True)
def move(function: Function, value: Value, *args: Any, **kwargs: Any) -> Any:
    """Move all streams alike; every entry must stay with its image."""
    if function.__name__ in SHAPED_ALIKE:
        args = tuple(_plain_shape(arg) for arg in args)
    only_first(function, value, args, kwargs)
    if function not in WHOLE:
        _check_images_stay(function, value, args, kwargs)

    def streams(tensor: Tensor | None) -> Any:
        return None if tensor is None else function(tensor, *args, **kwargs)

    clean = streams(value.clean)
    _note(function, value, clean, streams)
    with value.propagation.intervals():
        centre, radius = streams(value.centre), streams(value.radius)
        ball = None if value.ball is None else value.ball.moved(streams)
    if isinstance(centre, Tensor):
        return _share(function, value, value.like(clean, centre, radius), ball)
    nothing = [None] * len(centre)
    parts = zip(clean or nothing, centre, radius, ball or nothing, strict=True)
    return tuple(_share(function, value, value.like(*part), ball) for *part, ball in parts)


def _note(function: Function, value: Value, moved: Any, streams: Streams) -> None:
    """Tell the pass's tape of a move."""
    clean, propagation = value.clean, value.propagation
    if clean is None or propagation.tape is None:
        return
    if function.__name__ in IN_ORDER:
        propagation.note(moved, (clean,), lambda: Reshape(clean.shape))
    elif isinstance(moved, Tensor):
        propagation.note(moved, (clean,), lambda: Move(streams, clean))
    else:
        for index, part in enumerate(moved):
            propagation.note(part, (clean,), partial(_part, streams, clean, index))


def _part(streams: Streams, clean: Tensor, index: int) -> Move:
    return Move(lambda numbers: streams(numbers)[index], clean)


def _plain_shape(argument: Any) -> Any:
    # `view_as` and the like take a value only for its shape, which is that of its centre
    return argument.centre if isinstance(argument, Value) else argument


def _share(function: Function, source: Value, result: Value, ball: Ball | None) -> Value:
    result.ball = ball
    if function not in COPIES:
        source.memory.add(result)
    return result


def _check_images_stay(function: Function, value: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse to move entries between images: on a tensor of image numbers, row n must still hold n."""
    shape = value.centre.shape
    numbers = torch.arange(shape[0], device=value.centre.device).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    if function.__name__ in ("view", "unflatten", "view_as"):
        # the image numbers are an expanded tensor, which `view` may refuse where the value's own memory would do
        function, args, kwargs = torch.reshape, (_target(function, value, args, kwargs),), {}
    moved = function(numbers, *args, **kwargs)
    for part in [moved] if isinstance(moved, Tensor) else moved:
        strides = [stride for stride, size in zip(part.stride()[1:], part.shape[1:], strict=True) if size > 1]
        untouched = part.dim() > 0 and part.shape[0] == shape[0] and part.storage_offset() == 0
        if untouched and part.stride(0) == 1 and not any(strides):
            continue
        stays = part.dim() > 0 and part.shape[0] == shape[0]
        rows = torch.arange(shape[0], device=part.device).view(-1, *[1] * (part.dim() - 1))
        if not stays or not bool((part == rows).all()):
            refuse(function, value, "moves entries between images; the first dimension must stay the images")


def _target(function: Function, value: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    with torch.no_grad():
        shape = function(torch.empty(value.centre.shape, device="meta"), *args, **kwargs).shape
    return tuple(shape)


@rule(torch.cat, torch.concat, torch.concatenate, scaled=True)
def join(function: Function, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Value:
    """Concatenate or stack along a dimension that is not the images'."""
    first = next(values_in(tensors))
    dim = kwargs.pop("axis", dim)
    width = first.centre.dim() + (function is torch.stack)
    if dim % width == 0:
        refuse(function, first, "joins along the dimension of the images", "join along another dimension")
    parts = aligned([part if isinstance(part, Value) else constant(first, part) for part in tensors])
    clean = [part.clean for part in parts if part.clean is not None]
    balls = [part.ball for part in parts if part.ball is not None]
    with first.propagation.intervals():
        centre = function([part.centre for part in parts], dim)
        radius = function([part.radius for part in parts], dim)
        ball = Ball.joined(balls, lambda tensors: function(tensors, dim)) if len(balls) == len(parts) else None
    own = apart(clean) if function is torch.stack else tuple(clean)
    result = parts[0].like(function(own, dim) if len(clean) == len(parts) else None, centre, radius)
    made = result.clean
    if made is not None:
        if function is torch.stack:
            first.propagation.note(made, clean, lambda: Local((made,), own))
        else:
            sizes = tuple(each.shape[dim] for each in clean)
            first.propagation.note(made, clean, lambda: Join(sizes, dim % width))
    result.ball = ball
    return result


@rule(*spellings("pad"), scaled=True)
def pad(
    function: Function, x: Value, /, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """Pad: with a constant, which moves the centre and not the radius, or with copies of entries."""
    only_first(function, x, (value,))
    if value:
        x = x.unscaled()
    amounts = list(pad)
    if len(amounts) > 2 * (x.centre.dim() - 1):
        refuse(function, x, "pads the dimension of the images", "pad the other dimensions")

    def blank(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, amounts, mode)

    step = (lambda: Pad(tuple(amounts))) if mode == "constant" else None
    return move_entries(x, lambda tensor: torch.nn.functional.pad(tensor, amounts, mode, value), blank, step)


@rule(*(function for name in DROPOUTS for function in spellings(name)), scaled=True)
def dropout(function: Function, value: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Do nothing, in evaluation."""
    if training and p > 0:
        refuse(function, value, "dropout is on", "call network.eval() first")
    return value


FORMATS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")


@rule(*(function for name in FORMATS for function in spellings(name)), scaled=True)
def to_same(function: Function, value: Value | Tensor, *args: Any, **kwargs: Any) -> Value | Tensor | str:
    """Refuse another number format or device; a call that asks for the format is answered.

    A plain tensor may be brought to a value's format and device.
    """
    if not isinstance(value, Value):
        brought: Tensor = function(value, *(_plain_shape(arg) for arg in args), **kwargs)
        return brought
    answer = function(value.centre, *(_plain_shape(arg) for arg in args), **kwargs)
    if isinstance(answer, str):
        return answer
    if answer.dtype != value.centre.dtype or answer.device != value.centre.device:
        here, there = (f"{x.dtype} on {x.device}" for x in (value.centre, answer))
        refuse(function, value, f"changes {here} to {there}", "convert network and images before bounding")
    return value
