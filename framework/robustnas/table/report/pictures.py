"""Shows images that an attack broke: as they are, as the attack made them, and what it changed."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from robustnas.attack import examples
from robustnas.attack.column import Column
from robustnas.attack.examples import Example
from robustnas.plan import Seed
from robustnas.run.layout import Layout
from robustnas.runtime.artifacts import StageFolder
from robustnas.table.opened import Run
from robustnas.table.report.svg import element, safe, text

Array = np.ndarray[Any, Any]

SIDE, GAP = 96.0, 6.0
"""Pixels: of an image as it is shown, and between two."""


def of_method(run: Run, shown: Layout, method: str, ident: str) -> Iterator[str]:
    """Show what the attack that broke the most images of a method's first attacked network did, as pieces of a page."""
    found = _worst(run, shown, method)
    if found is None:
        yield "<p>No attack of this method is done yet.</p>"
        return
    seed, column, folder = found
    what = f"{safe(column.label)} ({safe(str(column.threat))}), seed {safe(str(seed))}"
    if not folder.holds(examples.FILE):
        yield (
            f"<p>{what}: this attack was run by a version that kept no images.  With the folder "
            f"<code>{safe(str(folder.path))}</code> deleted, the same run does that attack again and keeps them.</p>"
        )
        return
    kept = examples.load(folder)
    if not kept:
        yield f"<p>{what}: it broke no image.</p>"
        return
    words = "clean, perturbed, and the difference, black and white where it is largest"
    yield f"<p>{what}: the first test images that it broke; {words}.</p>"
    yield '<div class="examples">'
    for number, one in enumerate(kept):
        yield _figure(one, f"{ident}-{number}")
    yield "</div>"


def _worst(run: Run, shown: Layout, method: str) -> tuple[Seed, Column, StageFolder] | None:
    """Find the attack inside the recipe's threat (else any) that broke the most images of the first network."""
    for seed, stages in shown.methods[method].items():
        done = []
        for column in shown.attacks:
            where = stages["attacks"].get(column.label)
            if where is not None and run.directory.at(where).done:
                folder = run.directory.at(where)
                broken = max(folder.result().get("fooled") or [0])
                done.append(((column.worst_case, broken), column, folder))
        if done:
            _, column, folder = max(done, key=lambda one: one[0])
            return seed, column, folder
    return None


def _figure(one: Example, ident: str) -> str:
    """Show one image with what became of it."""
    change = one.perturbed.astype(np.float64) - one.clean
    most = float(abs(change).max())
    change = 0.5 + change / (2 * most) if most else np.full_like(change, 0.5)
    title = f"Test image {one.index}: of class {one.label}, taken for {one.answer}"
    words = f"Left the clean image, in the middle the perturbed one, right their difference, {most:.3g} at most."
    shown, parts = {"clean": one.clean, "perturbed": one.perturbed, "difference": change}, []
    for place, (name, pixels) in enumerate(shown.items()):
        x = place * (SIDE + GAP)
        data = base64.b64encode(png(pixels)).decode()
        parts.append(f'<image x="{x:g}" y="0" width="{SIDE:g}" height="{SIDE:g}" href="data:image/png;base64,{data}"/>')
        parts.append(text(x + SIDE / 2, SIDE + 15, name, "middle", "soft"))
    drawn = element(3 * SIDE + 2 * GAP, SIDE + 20, ident, title, words, parts)
    return f"<figure>{drawn}<figcaption>{one.label} taken for {one.answer}</figcaption></figure>"


def png(image: Array) -> bytes:
    """Write an image (C, H, W) in [0, 1] as PNG: with three channels in colour, with others their mean in grey."""
    channels, height, width = image.shape
    pixels = image if channels == 3 else image.mean(axis=0, keepdims=True)
    bytes_ = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), bytes_], axis=1)  # each begins with its filter: none

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if len(pixels) == 3 else 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
