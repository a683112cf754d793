"""Backward passes row by row along the tape: how far linear functions of single images may fall below clean values.

What a row is, and why it is pulled back by itself, says `tape.py`; the bound is that of `passes.drop_below_clean`.
Where the tape ends in a value whose rule recorded nothing, autograd takes the rest of the way, all images at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.bounds.propagation import Propagation
from robustnas.bounds.rows import Coefficients, Rows, laid_out
from robustnas.bounds.steps.images import Images
from robustnas.bounds.steps.local import batched, packed, unpacked

ENTRIES = 2**24
"""Coefficients that all rows of a backward pass may have at once, 64 MB in float32."""


def drops(propagation: Propagation, clean: Tensor, coefficients: Coefficients, rows: Rows) -> Tensor:
    """How far rows may fall below their clean values: (B,), first of the functions, then of their negatives.

    Args:
        clean: (N, ...) the value that they are functions of.
        coefficients: one for every row.
    """
    tape = propagation.tape
    assert tape is not None
    pending: dict[int, Coefficients] = {}
    record = tape.of(clean)
    if record is None:
        return _beyond_tape(propagation, rows, [(clean, coefficients)])
    pending[record.place] = coefficients
    records = {record.place: record}
    while pending:
        place = max(pending)
        record, arrived = records[place], pending.pop(place)
        rows.place = place
        if isinstance(record.step, Images):
            return _at_images(propagation, rows, rows.level(arrived))
        pulled = record.step.pull(rows, record.output, arrived)
        lost: list[tuple[Tensor, Coefficients]] = []
        for tensor, found in zip(record.inputs, pulled, strict=True):
            if found is None or not tensor.requires_grad:
                continue
            earlier = tape.of(tensor)
            if earlier is None:
                lost.append((tensor, found))
                continue
            if earlier.place in pending:
                found = rows.sum(pending[earlier.place], found, tensor.shape)
            elif found.crop is not None:
                found = rows.fitting(found, tensor.shape)
            found = laid_out(found)
            rows.widest = max(rows.widest, found.tensor.shape[1:].numel())
            records[earlier.place], pending[earlier.place] = earlier, found
        if lost:
            lost += [(records[each].output, found) for each, found in pending.items()]
            return _beyond_tape(propagation, rows, lost)
    count = len(rows.image) * rows.signs
    return -rows.gap if rows.gap is not None else clean.new_zeros(count)


def _at_images(propagation: Propagation, rows: Rows, slope: Coefficients) -> Tensor:
    """End at the images themselves: the least value of the linear functions that are left."""
    # norms and sorts are taken row by row
    region, tensor, signs = propagation.region, slope.tensor.contiguous(), rows.signs
    if len(tensor) < signs * len(rows.image):
        tensor = torch.cat([tensor, -tensor])
    below, above = (rows.maps(each, slope.crop) for each in (region.below, region.above))
    epsilon = region.epsilon.index_select(0, rows.image)
    least = region.least(rows.by_row(tensor), below, above, epsilon).flatten()
    return -least if rows.gap is None else -least - rows.gap


def _beyond_tape(propagation: Propagation, rows: Rows, lost: list[tuple[Tensor, Coefficients]]) -> Tensor:
    """Go the rest of the way to the images with autograd."""
    rows.part()
    outputs, cotangents = [], []
    for tensor, coefficients in lost:
        coefficients = rows.level(coefficients)
        if coefficients.crop is not None:
            coefficients = rows.whole(coefficients, (tensor.shape[2], tensor.shape[3]))
        outputs.append(tensor)
        cotangents.append(packed(rows, coefficients.tensor))
    differentiable = any(each.requires_grad for each in cotangents)

    def pull(*vectors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs, (propagation.probe, propagation.gap_input), vectors, retain_graph=True,
            create_graph=differentiable, allow_unused=True, materialize_grads=True,
        )  # fmt: skip

    step = max(1, ENTRIES // (propagation.widest * max(propagation.images, 1)))
    found: list[Tensor] = []
    propagation.mode.relaxing = True
    try:
        for start in range(0, len(cotangents[0]), step):
            slope, gap = batched(pull, [each[start : start + step] for each in cotangents])
            found.append(propagation.region.minimum(slope) + gap)
    finally:
        propagation.mode.relaxing = False
    least = unpacked(rows, torch.cat(found))
    return -least if rows.gap is None else -least - rows.gap
