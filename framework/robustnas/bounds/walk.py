"""Backward passes row by row along the tape: how far linear functions of single images may fall below clean values.

What a row is, and why it is pulled back by itself, says `tape.py`; the bound is that of `passes.drop_below_clean`.
Where the tape ends in a value whose rule recorded nothing, autograd takes the rest of the way, all images at once.
"""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from robustnas.bounds.propagation import Propagation
from robustnas.bounds.rows import Coefficients, Crop, Rows
from robustnas.bounds.steps.images import Images
from robustnas.bounds.steps.local import batched, packed, unpacked

ENTRIES = 2**24
"""Coefficients that all rows of a backward pass may have at once, 64 MB in float32."""

CACHED = 2**19
"""Coefficients that are computed with at once on CPUs: more would not stay in the processor's memory."""

FIRST = 32
"""Rows of the first part of many: it shows how many coefficients a row has."""


def entry_drops(propagation: Propagation, clean: Tensor, image: Tensor, entry: Tensor) -> Tensor:
    """How far entries of a value (N, ...) may lie below and above their clean values: of images (R,), at flat places
    (R,) -> (2, R)."""
    limit = CACHED if clean.device.type == "cpu" else ENTRIES
    assert propagation.tape is not None
    # what earlier values have shown serves as a guess for this one
    found, start, widest = [], 0, propagation.tape.widest
    size = max(1, limit // (2 * widest)) if widest > 1 else FIRST
    while start < len(image):
        part = slice(start, start + size)
        coefficients, rows = unit_rows(clean, image[part], entry[part])
        found.append(drops(propagation, clean, coefficients, rows).view(2, -1))
        widest = max(widest, rows.widest)
        start, size = start + size, max(1, limit // (2 * widest))
    propagation.tape.widest = widest
    return torch.cat(found, dim=1)


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
            found = _in_rows(found)
            rows.widest = max(rows.widest, found.tensor[0].numel())
            records[earlier.place], pending[earlier.place] = earlier, found
        if lost:
            lost += [(records[each].output, found) for each, found in pending.items()]
            return _beyond_tape(propagation, rows, lost)
    count = len(rows.image) * rows.signs
    return -rows.gap if rows.gap is not None else clean.new_zeros(count)


def _in_rows(coefficients: Coefficients) -> Coefficients:
    """Keep pixels as rows of memory: steps that meet maps of unlike order take several times as long."""
    tensor = coefficients.tensor
    if tensor.dim() != 4:
        return coefficients
    return evolve(coefficients, tensor=tensor.contiguous(memory_format=torch.channels_last))


def _at_images(propagation: Propagation, rows: Rows, slope: Coefficients) -> Tensor:
    """End at the images themselves: the least value of the linear functions that are left."""
    region, tensor, signs = propagation.region, slope.tensor, rows.signs
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
    propagation.relaxing = True
    try:
        for start in range(0, len(cotangents[0]), step):
            slope, gap = batched(pull, [each[start : start + step] for each in cotangents])
            found.append(propagation.region.minimum(slope) + gap)
    finally:
        propagation.relaxing = False
    least = unpacked(rows, torch.cat(found))
    return -least if rows.gap is None else -least - rows.gap


def unit_rows(clean: Tensor, image: Tensor, entry: Tensor) -> tuple[Coefficients, Rows]:
    """Make rows of single entries of a value (N, ...), and of their negatives: of images (R,), at flat places (R,)."""
    shape = clean.shape
    if clean.dim() != 4:
        tensor = clean.new_zeros(len(entry), shape[1:].numel()).scatter_(1, entry[:, None], 1.0)
        return Coefficients(tensor.view(-1, *shape[1:])), Rows(image, None, 2, shape[0])
    area = shape[2] * shape[3]
    channel, place = entry.div(area, rounding_mode="floor"), entry % area
    anchor = place.div(shape[3], rounding_mode="floor"), place % shape[3]
    rows = Rows(image, anchor, 2, shape[0])
    tensor = clean.new_zeros(len(entry), shape[1]).scatter_(1, channel[:, None], 1.0)
    unit = Coefficients(tensor.view(-1, shape[1], 1, 1), Crop((1, 1), (0, 0), (1, 1)))
    return rows.fitting(unit, shape), rows
