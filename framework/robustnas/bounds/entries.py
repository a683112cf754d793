"""How far single entries of a value may lie below and above what they are at the clean images."""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.bounds.ascent import ascended
from robustnas.bounds.propagation import Ascent, Propagation
from robustnas.bounds.rows import Coefficients, Crop, Rows
from robustnas.bounds.walk import ENTRIES, drops

CACHED = 2**19
"""Coefficients that are computed with at once on CPUs: more would not stay in the processor's memory."""

FIRST = 32
"""Rows of the first part of many: it shows how many coefficients a row has."""

ALONE = 16
"""So many rows of one image are worth a part of their own."""


def entry_drops(
    propagation: Propagation, clean: Tensor, image: Tensor, entry: Tensor, ascent: Ascent | None = None
) -> Tensor:
    """How far entries of a value (N, ...) may lie below and above their clean values: of images (R,), at flat places
    (R,) -> (2, R)."""
    limit = CACHED if clean.device.type == "cpu" else ENTRIES
    assert propagation.tape is not None
    # what earlier values have shown serves as a guess for this one
    found, start, widest = [], 0, propagation.tape.widest
    held = 2 if ascent is None else 2 * len(propagation.free_slopes)
    size = max(1, limit // (held * widest)) if widest > 1 else FIRST
    while start < len(image):
        size = min(size, len(image) - start)
        if propagation.tape.wholly and not propagation.tape.joint:
            size = _of_one_image(image, start, size)
        part = slice(start, start + size)
        coefficients, rows = unit_rows(clean, image[part], entry[part], propagation.tape.wholly)
        if ascent is None:
            least = drops(propagation, clean, coefficients, rows)
        else:
            least, _ = ascended(propagation, clean, coefficients, rows.anew, ascent.inner, ascent.rate)
        found.append(least.view(2, -1))
        widest = max(widest, rows.widest)
        start, size = start + size, max(1, limit // (held * widest))
    propagation.tape.widest = widest
    return torch.cat(found, dim=1)


def _of_one_image(image: Tensor, start: int, size: int) -> int:
    """Shorten a part of the rows, whose images are (R,), to the end of an image, where it stays worth its calls: rows
    of one image share lines."""
    last = image[start + size - 1]
    if bool(image[start] == last):
        return size
    own = int((image[start : start + size] == image[start]).sum())
    return own if own >= ALONE else size


def unit_rows(clean: Tensor, image: Tensor, entry: Tensor, wholly: bool = False) -> tuple[Coefficients, Rows]:
    """Make rows of single entries of a value (N, ...), and of their negatives: of images (R,), at flat places (R,)."""
    shape = clean.shape
    if clean.dim() != 4:
        tensor = clean.new_zeros(len(entry), shape[1:].numel()).scatter_(1, entry[:, None], 1.0)
        return Coefficients(tensor.view(-1, *shape[1:])), Rows(image, None, 2, shape[0], wholly)
    area = shape[2] * shape[3]
    channel, place = entry.div(area, rounding_mode="floor"), entry % area
    anchor = place.div(shape[3], rounding_mode="floor"), place % shape[3]
    rows = Rows(image, anchor, 2, shape[0], wholly)
    tensor = clean.new_zeros(len(entry), shape[1]).scatter_(1, channel[:, None], 1.0)
    unit = Coefficients(tensor.view(-1, shape[1], 1, 1), Crop((1, 1), (0, 0), (1, 1)))
    return rows.fitting(unit, shape), rows
