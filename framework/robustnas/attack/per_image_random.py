"""Random numbers that depend on an image's seed alone, whatever batch, order or process the image is attacked in.

A generator would give an image other numbers as soon as another image leaves the batch.  Here a number is a hash of
the image's seed, words that say what the number is for, and its place in the shape, so no state can shift.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
figure 16) on 64-bit integers that wrap, which gives the same bits on every device.
"""

from __future__ import annotations

import hashlib
import math

import torch
from attrs import frozen
from torch import Tensor


def _signed(value: int) -> int:
    """Convert an unsigned 64-bit integer to the signed one of the same bits, which is all that torch has."""
    return value - 2**64 if value >= 2**63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
FIRST, SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _right(value: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, because torch's own shift keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser to every entry."""
    value = (value ^ _right(value, 30)) * FIRST
    value = (value ^ _right(value, 27)) * SECOND
    return value ^ _right(value, 31)


def _number(*words: str | int) -> int:
    """Hash words to 64 bits, the same on every machine."""
    text = "/".join(str(word) for word in words)
    return _signed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


@frozen(eq=False)
class PerImageRandom:
    """Random numbers of N images: the same call gives the same numbers again; `of` makes an independent source.

    Args:
        seeds: (N,) int64, one an image, on the device on which numbers are wanted.
        places: (N,) int64, the `indices` of `of_images`; under an attack, the images' places in the test split.
    """

    seeds: Tensor
    places: Tensor | None = None

    @staticmethod
    def of_images(seed: int, label: str, indices: Tensor, device: torch.device | str = "cpu") -> PerImageRandom:
        """Make the draws of the images at `indices` (N,) int64 of a dataset, for the use called `label`."""
        return PerImageRandom(_mixed(indices.to(device) * GOLDEN + _number(seed, label)), indices)

    @staticmethod
    def fresh(count: int, device: torch.device | str = "cpu") -> PerImageRandom:
        """Make draws that depend on torch's global generator, for attacks called outside the harness."""
        return PerImageRandom(torch.randint(-(2**62), 2**62, (count,)).to(device))

    def of(self, *words: str | int) -> PerImageRandom:
        """Make independent draws of the same images for another use, such as `of("restart", 2)`."""
        return PerImageRandom(_mixed(self.seeds ^ _number(*words)), self.places)

    def at(self, chosen: Tensor) -> PerImageRandom:
        """Select the draws of some of the images, by (n,) int64 places or (N,) bool."""
        places = None if self.places is None else self.places[chosen.to(self.places.device)]
        return PerImageRandom(self.seeds[chosen], places)

    def __len__(self) -> int:
        return len(self.seeds)

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """Draw 64 random bits an entry, `(N, *shape)` int64."""
        places = torch.arange(1, math.prod(shape) + 1, device=self.seeds.device)
        return _mixed(self.seeds[:, None] + places * GOLDEN).view(len(self.seeds), *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers uniform in [0, 1), `(N, *shape)` float32."""
        return _right(self._bits(shape), 40).float() * 2.0**-24

    def signs(self, *shape: int) -> Tensor:
        """Draw signs, -1 or 1, `(N, *shape)` float32."""
        return _right(self._bits(shape), 63).float() * 2 - 1

    def integers(self, below: int | Tensor, *shape: int) -> Tensor:
        """Draw integers uniform in [0, below) to one part in 2**31, `(N, *shape)` int64; `below` is at most 2**31."""
        return (_right(self._bits(shape), 32) * below) >> 32

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers (Box and Muller 1958), `(N, *shape)` float32."""
        first, second = self.of("radius").uniform(*shape), self.of("angle").uniform(*shape)
        return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)

    def exponential(self, *shape: int) -> Tensor:
        """Draw exponential numbers of mean 1, `(N, *shape)` float32."""
        return -torch.log1p(-self.uniform(*shape))


Draws = PerImageRandom
"""The class under its former name."""
