"""Derives the seed of one use from the recipe's seed and words that say what it is for."""

from __future__ import annotations

import hashlib


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for one use: the same seed and words give the same number on every machine."""
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
