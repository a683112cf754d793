"""The bracketed search for roots: it closes in on them from both sides, in few steps, and each image for itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustnas.certify.bracket import Bracket

ROOTS = torch.linspace(-9, -1, 40, dtype=torch.float64)


def miss(at: Tensor, roots: Tensor = ROOTS, steep: float = 12.0) -> Tensor:
    """Slope 1 far below the root and `steep` above it, as widths of deep networks."""
    moved = at - roots
    return moved + (steep - 1) * (torch.nn.functional.softplus(4 * moved) - math.log(2)) / 4


def started(count: int = 40) -> Bracket:
    below, above = torch.full((count,), -14.0).double(), torch.zeros(count).double()
    return Bracket(below, above, ROOTS[:count] + 1.5)


def test_it_converges_in_a_handful_of_steps():
    bracket = started()
    errors = []
    for _ in range(10):
        at = bracket.guess()
        bracket.note(at, miss(at))
        errors.append(float((bracket.guess() - ROOTS).abs().max()))
        assert ((bracket.below <= ROOTS) & (bracket.above >= ROOTS)).all()
    assert errors[6] < 0.1
    assert errors[-1] < 1e-3


def test_with_a_tolerance_both_ends_close():
    bracket, steps = started(), 0
    while bool((bracket.above - bracket.below > 1e-3).any()):
        at = bracket.guess(1e-3)
        bracket.note(at, miss(at))
        steps += 1
        assert steps < 14
    assert ((bracket.below <= ROOTS) & (bracket.above >= ROOTS)).all()


def test_an_overflow_lies_above_and_a_part_goes_on_as_the_whole():
    bracket = started()
    at = torch.full_like(ROOTS, -0.5)
    bracket.note(at, torch.full_like(ROOTS, torch.nan))
    assert torch.equal(bracket.above, at)
    at = bracket.guess()
    assert torch.equal(at, torch.full_like(ROOTS, -7.25))  # an overflow says only on which side it is
    kept = torch.arange(0, 40, 3)
    part = bracket.part(kept)
    for _ in range(4):
        value = miss(at)
        bracket.note(at, value)
        part.note(at[kept], value[kept])
        at = bracket.guess(1e-4)
        assert torch.equal(part.guess(1e-4), at[kept])


def test_a_verdict_overrules_the_sign_of_the_miss():
    bracket = started(2)
    bracket.note(torch.tensor([-3.0, -3.0]).double(), torch.tensor([-0.1, -0.1]).double(), torch.tensor([True, False]))
    assert bracket.below.tolist() == [-3.0, -14.0]
    assert bracket.above.tolist() == [0.0, -3.0]
