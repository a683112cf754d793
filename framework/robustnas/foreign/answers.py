"""What a network answers to images of the dataset; and where it does not, what would do, as far as that is known.

Advice is evidence: other images are tried, and what is not one of the known failures is told without any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.contracts import Shape
from robustnas.errors import InputError, RunError
from robustnas.foreign.messages import ELSEWHERE, few, kind, theirs
from robustnas.nn.normalize import PixelNetwork
from robustnas.nn.read_only import lent
from robustnas.runtime import interrupt
from robustnas.runtime.strangers import text_of

PROBED = (28, 32, 64, 96, 128, 160, 224, 299, 384)
"""Rows and columns tried where a network does not take the dataset's images."""

FORMAT = r"\bdtype\b|scalar type|\b[Hh]alf\b|\b[Dd]ouble\b"
"""What torch says of numbers of two formats."""


def check_answers(network: nn.Module, factory: str, classes: int, shape: Shape) -> None:
    """Require that the network answers images of the dataset with logits of its classes, one image as well as two.

    Raises:
        InputError: it does not.
    """
    size = "x".join(map(str, shape))
    for count in (1, 2):
        try:
            logits = theirs(
                partial(_answers, network, count, shape),
                f"--network {factory}: for {count} black image(s) of {size} it",
            )
        except RunError as fault:
            raise InputError(f"--network {factory}: {fault}") from fault
        except InputError as fault:
            cause = fault.__cause__
            advice = next(_advice(network, cause, shape, count), None) if cause is not None else None
            raise InputError(str(fault) if advice is None else f"{fault}\n  {advice}") from cause
        if not isinstance(logits, Tensor):
            raise InputError(
                f"--network {factory} answers with {kind(logits)}; a module whose forward returns the logits alone, "
                f"a tensor of shape (images, {classes}), would do{_inside(logits, (count, classes))}"
            )
        if logits.dtype != torch.float32:
            raise InputError(f"--network {factory} answers with {kind(logits)}; logits of float32 would do")
        if logits.dim() == 2 and len(logits) == count and logits.shape[1] != classes:
            raise InputError(
                f"--network {factory} gives {logits.shape[1]} logits for an image, and the dataset has {classes} "
                f"classes; a network trained on this dataset, with {classes} outputs, would do"
            )
        if logits.shape != (count, classes):
            raise InputError(
                f"--network {factory} answers {count} image(s) with shape {tuple(logits.shape)}; logits of shape "
                f"({count}, {classes}) would do"
            )
        if not bool(logits.isfinite().all()):
            shown = [f"{value:g}" for value in logits.flatten().tolist()]
            raise InputError(
                f"--network {factory} answers black images with logits that are not finite: {few(shown)}; "
                "its weights may not be those of a trained network, or it divides by 0"
            )


def _answers(network: nn.Module, count: int, shape: Shape) -> Any:
    """Run the network on so many black images, without gradients."""
    with torch.no_grad(), lent(network):
        return network(torch.zeros(count, *shape))


def _inside(answer: Any, wanted: tuple[int, int]) -> str:
    """Say which part of an answer looks like the logits; nothing where none does."""
    parts: Iterable[tuple[Any, Any]] = answer.items() if isinstance(answer, Mapping) else ()
    parts = enumerate(answer) if isinstance(answer, list | tuple) else parts
    named = [name for name, one in parts if isinstance(one, Tensor) and one.shape == wanted]
    if not named:
        return ""
    why = "" if len(named) == 1 else ", if that is the logits and the other an auxiliary head's, as in DARTS's networks"
    return f": one that returns network(images)[{named[0]!r}]{why}"


def _advice(network: nn.Module, fault: BaseException, shape: Shape, count: int) -> Iterator[str]:
    """Say what would do where a network raised a fault on so many images: the likeliest first, or nothing."""
    text = text_of(fault)
    named = re.search(r"has no attribute '(\w+)'", text)
    if isinstance(fault, AttributeError) and (name := getattr(fault, "name", None) or (named and named[1])):
        if name == "drop_path_prob":
            yield (
                "scripts of DARTS set it on the network before they use it; a factory that sets network.drop_path_prob "
                "= 0.0, and whose network returns the logits alone, would do"
            )
        elif re.match(rf"'\w+' object has no attribute '{re.escape(name)}'", text) and text.split("'")[1] in {
            type(module).__name__ for module in network.modules()
        }:
            yield f"if the script that trained the network sets {name} on it, a factory that does so too would do"
        return
    if re.search(ELSEWHERE, text):
        yield (
            "networks are made on the CPU and moved as a whole; a forward that makes its tensors on images.device, and "
            "has no .cuda(), would do"
        )
        return
    if isinstance(fault, TypeError | NameError | NotImplementedError | ImportError | SystemExit):
        return
    if re.search(FORMAT, text):
        yield "images and weights are float32; a forward that makes and mixes no other numbers would do"
        return
    if count == 1:
        yield from _taken(network.network if isinstance(network, PixelNetwork) else network, shape)
    else:
        yield "it takes one image at a time, and is given batches; a forward for (N, C, H, W) would do"


def _taken(network: nn.Module, shape: Shape) -> Iterator[str]:
    """Try which images the network takes instead: of other channels, of another size, of both."""
    channels, rows, columns = shape
    own = (rows, columns)
    others = [other for other in (3, 1) if other != channels]
    sides = [(side, side) for side in PROBED]
    tried = [(other, own) for other in others] + [(of, side) for of in (channels, *others) for side in sides]
    for other, size in tried:
        if not _takes(network, (other, *size)):
            continue
        taken = "x".join(map(str, (other, *size)))
        turned = "repeats the one channel (images.expand(-1, 3, -1, -1))" if other == 3 else "makes the images grey"
        do = ([turned] if other != channels else []) + (["resizes the images"] if size != own else [])
        what = f"images of {taken}" if size != own else f"{other} channel(s), the dataset's images have {channels}"
        yield f"it takes {what}; a factory whose network first {' and '.join(do)}, or one trained on them, would do"
        return


def _takes(network: nn.Module, shape: Shape) -> bool:
    try:
        _answers(network, 1, shape)
    except BaseException as fault:  # one more size that it does not take
        if interrupt.wanted(fault):
            raise
        return False
    return True
