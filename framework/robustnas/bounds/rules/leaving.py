"""Refuses functions that take a value out of torch, to numbers of Python or numpy, or out of the gradient.

A number of Python holds one image's answer, not those of a whole region, and a branch on it takes one way for all.
"""

from __future__ import annotations

import torch

from robustnas.bounds.registration import spellings
from robustnas.bounds.value import WHY_NOT

NUMBERS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__complex__")
CHOICES = (
    *("gt", "lt", "ge", "le", "eq", "ne", "greater", "less", "greater_equal", "less_equal", "not_equal"),
    *("__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__"),
    *("int", "long", "short", "byte", "bool", "argmax", "argmin", "argsort", "sort", "topk"),
    *("sign", "round", "floor", "ceil", "isnan", "isinf", "isfinite"),
)
CONSTANTS = ("detach", "detach_", "numpy", "__array__")

REASONS = {
    NUMBERS: (
        "makes a number of Python of what depends on the images",
        "compute with tensors; where each image has its own branch, torch.where with a constant mask would do",
    ),
    CHOICES: (
        "jumps where the images change a little, so that no lines follow it",
        "relu, clamp, amax, maximum and their kin have rules, and masks and indices that are constants do",
    ),
    CONSTANTS: (
        "leaves the graph in which linear bounds are computed",
        "leave it in the graph; torch.from_numpy makes a constant of numpy one of torch, and a buffer would do best",
    ),
}
for names, why in REASONS.items():
    WHY_NOT |= dict.fromkeys((function for name in names for function in spellings(name)), why)
WHY_NOT[vars(torch._C.TensorBase)["data"].__get__] = REASONS[CONSTANTS]
