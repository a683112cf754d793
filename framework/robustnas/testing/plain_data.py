"""The promise of a genotype to be plain data."""

from __future__ import annotations

import json
from typing import Any

from robustnas.testing.promise import Judge


def require_plain(genotype: Any, what: str, verdict: Judge) -> None:
    """Plain data: what comes back from JSON is what went in, so no tuples, tensors or integer keys."""
    promise = f"{what} is plain data that JSON keeps as it is"
    with verdict.promised(promise):
        back = json.loads(json.dumps(genotype, allow_nan=False))
    verdict.require(isinstance(genotype, dict), promise, type(genotype).__name__)
    verdict.require(_identical(back, genotype), promise, f"{str(genotype)[:80]} comes back as {str(back)[:80]}")


def _identical(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_identical, one, other))
    return bool(one == other)
