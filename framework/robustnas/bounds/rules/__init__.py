"""The rules that ship with robustnas, one family a file; importing this package registers them."""

from robustnas.bounds.rules import (
    activations,
    adaptive_pool,
    affine,
    arithmetic,
    average_pool,
    einsum,
    leaving,
    max_pool,
    rectifier,
    resample,
    shape,
)

__all__ = [
    "activations",
    "adaptive_pool",
    "affine",
    "arithmetic",
    "average_pool",
    "einsum",
    "leaving",
    "max_pool",
    "rectifier",
    "resample",
    "shape",
]
