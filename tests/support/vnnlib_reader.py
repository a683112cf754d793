"""A reader of VNN-LIB, both versions, that shares nothing with the writer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor


def forms(text: str) -> list[Any]:
    """The text as nested lists of words."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r"\(|\)|[^\s()]+", re.sub(r";.*", "", text)):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    assert len(stack) == 1
    return stack[0]


def place(name: str, shapes: dict[str, list[int]]) -> int | None:
    """The flat index of an entry, `X_7` or `X[0,0,1,2]`; None for a number."""
    if match := re.fullmatch(r"[XY]_(\d+)", name):
        return int(match[1])
    if match := re.fullmatch(r"([XY])\[([\d,]+)\]", name):
        flat = 0
        for size, index in zip(shapes[match[1]], map(int, match[2].split(",")), strict=True):
            assert index < size
            flat = flat * size + index
        return flat
    return None


def shapes_of(text: str) -> dict[str, list[int]]:
    return {
        name: [int(size) for size in sizes.split(",")]
        for name, sizes in re.findall(r"\(declare-(?:in|out)put ([XY]) float32 \[([\d,]+)\]\)", text)
    }


def holds(text: str, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether these entries satisfy all assertions."""
    shapes = shapes_of(text)

    def value(word: str) -> Fraction:
        index = place(word, shapes)
        return Fraction(word) if index is None else (x if word[0] == "X" else y)[index]

    def true(form: list[Any]) -> bool:
        head, *rest = form
        if head in ("and", "or"):
            return (all if head == "and" else any)(true(one) for one in rest)
        left, right = map(value, rest)
        return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[head]

    asserted = [form[1] for form in forms(text) if form[0] == "assert"]
    assert len(asserted) == 2 * len(x) + 1
    return all(true(one) for one in asserted)


def read_box(text: str) -> tuple[list[str], list[str]]:
    """Lower and upper ends in flat order, as they are written."""
    shapes, ends = shapes_of(text), {"<=": dict[int, str](), ">=": dict[int, str]()}
    for form in forms(text):
        if form[0] == "assert" and form[1][0] in ends and str(form[1][1]).startswith("X"):
            sign, name, number = form[1]
            index = place(name, shapes)
            assert index is not None
            assert index not in ends[sign]
            ends[sign][index] = number
    count = len(ends["<="])
    assert set(ends["<="]) == set(ends[">="]) == set(range(count))
    return [ends[">="][i] for i in range(count)], [ends["<="][i] for i in range(count)]


def exact(values: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.flatten().tolist()]
