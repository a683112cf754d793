"""Where an axis has its ticks, and how they are written."""

from __future__ import annotations

import math
import re


def ticks(low: float, high: float, most: int = 6, *, whole: bool = False) -> list[float]:
    """Choose round numbers from `low` to `high`, steps of 1, 2 or 5 times a power of ten, at most `most` of them.

    Args:
        whole: whole numbers alone.
    """
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = max(step, 1.0) if whole else step
    while math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1 > most:
        lead = round(step / 10.0 ** math.floor(math.log10(step) + 1e-9))
        step *= 2.5 if lead == 2 else 2.0
    first = math.ceil(low / step - 1e-9)
    return [(first + place) * step for place in range(math.floor(high / step + 1e-9) - first + 1)]


def decades(low: float, high: float) -> list[float]:
    """Choose ticks of a logarithmic axis: powers of ten, where that is few also 2 and 5 times these, or finer."""
    if high / low < 10:
        return ticks(low, high, 5)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    leads = (1, 2, 5) if high / low < 100 else (1,)
    every = max(1, (last - first) // 5)
    found = [lead * 10.0**power for power in range(first, last + 1, every) for lead in leads]
    return [one for one in found if low * 0.999 <= one <= high * 1.001]


def written(value: float) -> str:
    """Write a tick in as few characters as tell it."""
    text = f"{value:.6g}"
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}" if len(text) > 7 else text)
