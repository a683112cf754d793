"""Which pixel stands where, as long as entries are pixels: what the first mixing layer makes of an l_2 or l_1 ball.

Until a layer mixes pixels, every entry of a value is scale * pixel + constant.  The interval of that layer's output
follows from the dual norm of its coefficients, as coefficients of *pixels*.  A pixel that stands in k entries (grey
images repeated as RGB, an upsampled image, a broadcast constant) has the sum of k coefficients a_1, ..., a_k, and

    l_2    (a_1 + ... + a_k)^2  <=  k (a_1^2 + ... + a_k^2)            Cauchy and Schwarz
    l_1    |a_1 + ... + a_k|    <=  k max |a_i|

so entries may be taken for pixels of their own if each is given sqrt(k), or k, times its scale.  Both are exact where
the copies have the same coefficient.  Hence a ball carries the pixel of every entry, and copies are counted where they
are needed: no rule has to know, or to promise, whether its function repeats entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from robustnas.errors import InputError

Streams = Callable[[Tensor], Any]
"""A function from one tensor to one tensor, or to a sequence of tensors."""

MOST_PIXELS = 2**24
"""Labels are counted in the images' number format; float32 holds whole numbers up to here."""


@frozen(eq=False)
class Ball:
    """An unmixed value: scale * pixel + constant, entry by entry, for images in an l_2 or l_1 ball.

    Args:
        clean: (N, ...) the value at the clean images, from which no graph leads to the probe: a backward pass through
            lines would follow it, and intervals are constants to that pass.
        scale: (N, ...) at least 0.
        pixel: (N, ...) number of the pixel, from 1, in its image; 0 where an entry is a constant.
    """

    clean: Tensor
    scale: Tensor
    pixel: Tensor

    @staticmethod
    def of(images: Tensor) -> Ball | None:
        """Make the ball of the images themselves (N, ...); None where pixels are too many to be numbered exactly."""
        count = images[0].numel()
        if count > MOST_PIXELS:
            return None
        labels = torch.arange(1, count + 1, device=images.device).view(1, *images.shape[1:])
        return Ball(images, torch.ones_like(images), torch.empty_like(images).copy_(labels.expand_as(images)))

    def reach(self, norm: str) -> Tensor:
        """Give the scales (N, ...) with which copies of one pixel may be taken for different pixels."""
        with torch.no_grad():
            label = self.pixel.flatten(1).long()
            stands = ((self.scale != 0) & (self.pixel != 0)).flatten(1).to(self.pixel)
            copies = stands.new_zeros(len(label), int(label.max()) + 1 if label.numel() else 1)
            copies = copies.scatter_add(1, label, stands).gather(1, label).view_as(self.pixel).clamp_min(1.0)
            if not bool((copies > 1).any()):
                return self.scale
            factor = copies.sqrt() if norm == "l2" else copies
        return self.scale * factor

    def scaled(self, affine: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor]) -> Ball:
        """Pass the ball through arithmetic with constants, entry by entry, which may broadcast.

        Args:
            affine: the arithmetic.
            size: multiplies a scale by the magnitude of the arithmetic's factor.
        """
        clean = affine(self.clean)
        return Ball(clean, size(self.scale).expand_as(clean), self.pixel.expand_as(clean))

    def moved(self, function: Streams, blank: Streams | None = None) -> Any:
        """Pass the ball through a function that moves, selects or copies entries; it may give several.

        Args:
            blank: the function with 0 where it puts constants; by default the function itself.

        Raises:
            InputError: the function does something else.  Moving commutes with renumbering pixels; nothing else does.
        """
        blank = blank or function
        with torch.no_grad():
            count = int(self.pixel.max()) if self.pixel.numel() else 0
            names = torch.randperm(count, generator=torch.Generator().manual_seed(count)).to(self.pixel) + 1
            names = torch.cat([names.new_zeros(1), names])
            pixel, renamed = blank(self.pixel), blank(names[self.pixel.long()])
        clean, scale = function(self.clean), blank(self.scale)
        if isinstance(clean, Tensor):
            return Ball(clean, scale, _moved(pixel, renamed, names))
        labels = [_moved(one, other, names) for one, other in zip(pixel, renamed, strict=True)]
        return tuple(map(Ball, clean, scale, labels))

    @staticmethod
    def joined(balls: Sequence[Ball], function: Callable[[list[Tensor]], Tensor]) -> Ball:
        """Concatenate or stack the balls of several values of the same images."""
        return Ball(
            function([ball.clean for ball in balls]),
            function([ball.scale for ball in balls]),
            function([ball.pixel for ball in balls]),
        )


def _moved(pixel: Tensor, renamed: Tensor, names: Tensor) -> Tensor:
    """Give the pixel numbers behind a function, after checking that renumbered pixels move in the same way."""
    known = (pixel >= 0) & (pixel < len(names)) & (pixel == pixel.round())
    if not bool(known.all()) or not torch.equal(names[pixel.long()], renamed):
        raise InputError("a bound rule calls a function that mixes entries one that moves them")
    return pixel
