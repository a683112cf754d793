"""Rows of coefficients behind any linear function: autograd pulls them through the graph of that function alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Rows


def apart(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Make a copy of each value that is in front of nothing but what is made of the copies.

    Of two inputs one may have been made of the other.  Autograd would give such a one the whole derivative, along the
    way through the other too, which the tape then goes again.
    """
    return tuple(each.view_as(each) for each in values)


class Local:
    """Pull rows from outputs to inputs along the graph between them, all images at once.

    Several inputs must be `apart`.
    """

    mixes: ClassVar[int] = 2

    def __init__(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]):
        self._outputs, self._inputs = outputs, inputs

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        return self.pulled(rows, [coefficients])

    def pulled(self, rows: Rows, coefficients: Sequence[Coefficients]) -> list[Coefficients]:
        """As `pull`, with coefficients of each output."""
        cotangents = []
        for each, output in zip(coefficients, self._outputs, strict=True):
            whole = each if each.crop is None else rows.whole(each, (output.shape[2], output.shape[3]))
            cotangents.append(packed(rows, whole.tensor))
        reached = [place for place in self._inputs if place.requires_grad]
        differentiable = any(each.requires_grad for each in cotangents)

        def pull(*vectors: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                self._outputs, reached, vectors, retain_graph=True, create_graph=differentiable, materialize_grads=True,
                allow_unused=True,
            )  # fmt: skip

        found = iter(batched(pull, cotangents))
        return [
            Coefficients(unpacked(rows, next(found))) if place.requires_grad else None  # type: ignore[misc]
            for place in self._inputs
        ]


def batched(pull: Callable[..., tuple[Tensor, ...]], cotangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Batch one backward pass over all rows of cotangents."""
    with warnings.catch_warnings():
        # vmap takes rare functions row by row, which gives the same numbers later; torch warns of each of them
        warnings.filterwarnings("ignore", message="There is a performance drop")
        # not `is_grads_batched`: that is torch's old vmap, which takes convolutions row by row
        pulled: tuple[Tensor, ...] = torch.func.vmap(pull)(*cotangents)
        return pulled


def packed(rows: Rows, tensor: Tensor) -> Tensor:
    """Sort rows (B, ...) by their images: (S, N, ...), with zeros where an image has fewer rows than another."""
    slot, count = slots(rows)
    each = rows.by_row(tensor)
    sorted_ = each.new_zeros(len(each), count, rows.images, *each.shape[2:])
    sorted_[:, slot, rows.image] = each
    return sorted_.flatten(0, 1)


def unpacked(rows: Rows, tensor: Tensor) -> Tensor:
    """The inverse of `packed`."""
    slot, count = slots(rows)
    return tensor.view(-1, count, *tensor.shape[1:])[:, slot, rows.image].flatten(0, 1)


def slots(rows: Rows) -> tuple[Tensor, int]:
    """(R,) how many rows of the same image stand in front of each, and the most rows of an image."""
    order = rows.image.argsort(stable=True)
    counts = torch.bincount(rows.image, minlength=rows.images)
    firsts = counts.cumsum(0) - counts
    slot = torch.empty_like(order)
    slot[order] = torch.arange(len(order), device=order.device) - firsts[rows.image[order]]
    return slot, int(counts.max())
