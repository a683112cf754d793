"""One forward pass of a network on bounded values: what its rules share, and what its backward passes are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from attrs import Factory, define, field, frozen
from attrs.validators import ge, gt
from torch import Tensor

from robustnas.bounds.region import Region
from robustnas.bounds.settled import Settled
from robustnas.bounds.tape import Step, Tape

Network = Callable[[Tensor], Tensor]


@frozen
class Ascent:
    """How the lower lines of rectifiers are optimised for each linear function (`ascent.py`).

    Args:
        steps: number of steps of ascent, one backward pass each; one more pass is for the lines of `crown`.
        inner: the same for each entry in front of a nonlinearity, and for its negative; 0 leaves their intervals those
            of `crown`.
        rate: how far the first step moves slopes, which lie in [0, 1]; it decays to a tenth.
    """

    # on the networks of tests/evidence/golden 20 steps at 0.3 give the bounds of 40 to four digits, 20 at 0.1 do not
    steps: int = field(default=20, validator=ge(0))
    inner: int = field(default=8, validator=ge(0), kw_only=True)
    rate: float = field(default=0.3, validator=gt(0.0))


@frozen
class Budget(Ascent):
    """How branch and bound spends its time (`branching/`).

    Args:
        steps, rate: of the ascent on every part of a region, as for `Ascent`; the intervals are those of `crown`.
        seconds: of an image, after which what is not decided stays open.
        parts: of an image's region that are bounded at most: a budget that every machine spends alike.
        batch: parts bounded at once.
    """

    inner: int = field(init=False, default=0)
    seconds: float = field(default=30.0, validator=gt(0.0), kw_only=True)
    parts: int = field(default=100_000, validator=ge(1), kw_only=True)
    batch: int = field(default=128, validator=ge(2), kw_only=True)


@frozen
class Pass:
    """One of the passes through a network that a bound method is made of (`methods.py`).

    Args:
        backward: linear bounds are pulled back through the clean values, which get a graph.
        tightens: intervals in front of nonlinearities come from linear bounds too.
        ascent: how the lower lines of rectifiers are optimised; None where they stay as they are drawn.
    """

    backward: bool = False
    tightens: bool = False
    ascent: Ascent | None = None


@frozen(eq=False)
class FreeSlopes:
    """The lower lines of one rectifier, which a backward pass may choose.

    Args:
        control: (N, ...) the output through which a backward pass is given slopes (`rules/rectifier.py`).
        slopes: (N, ...) the slopes that a backward pass takes where it is given none.
        least: smallest slope that may be chosen; the largest is 1.
        output: (N, ...) the rectified clean value.
        place: of the value in front, where the pass has `settled`; else None.
        number: of the rectifier among those of the network, in the order in which they are met.
        step: number of the rectifier's step on the tape; None without one.
    """

    control: Tensor
    slopes: Tensor
    least: float
    output: Tensor
    place: int | None
    number: int
    step: int | None


@define(eq=False)
class Mode:
    """What backward passes are told.

    A graph holds it, and not the pass, which holds tensors of the graph: such a circle would never be freed.

    Attributes:
        relaxing: while True the backward pass of a nonlinearity follows its lines instead of its derivative.  It is an
            attribute of an object, not of a thread, because torch runs backward passes on threads of its own.
    """

    relaxing: bool = False


@define(eq=False)
class Propagation:
    """State of one pass.  Rules reach it through the values.

    Args:
        network: maps (N, ...) images to (N, K) logits.
        region: the admissible images.
        kind: what the pass is made of.
        keeps_clean: the clean values are needed to the end; where linear bounds are made, they always are.
        rescales: intervals that widen beyond a limit are carried with an exponent (`scale.py`).
        settled: keeps the intervals in front of nonlinearities, or gives them (`settled.py`); only for a kind that
            `tightens`.

    Attributes:
        differentiable: gradients were enabled when the pass began; the bounds then carry a graph.
        mode: what backward passes are told.
        widest: entries of the widest value of an image so far; it limits the rows of a batched backward pass.
        rectifiers: how many rectifiers the pass has met whose lower lines may be chosen.
        free_slopes: the lower lines of the rectifiers passed so far, in order, where these are optimised.
        probe: (N, ...) zeros added to the images; gradients with respect to it are the slopes A.
        gap_input: (N,) zeros; gradients with respect to it are the sums of <A_i, line_i(z_i) - f_i(z_i)>.
        tape: the steps of the pass, where intervals come from backward passes (`tape.py`).
        shares: the exponents met so far, (N,) what constants beside them are multiplied by, and whether that is 0 for
            all images, by the exponents' `id` (`scale.py`).
    """

    network: Network
    region: Region
    kind: Pass
    keeps_clean: bool = field(default=True, kw_only=True)
    rescales: bool = field(default=False, kw_only=True)
    settled: Settled | None = field(default=None, kw_only=True)
    differentiable: bool = field(init=False, factory=torch.is_grad_enabled)
    mode: Mode = field(init=False, factory=Mode)
    widest: int = field(init=False, default=1)
    rectifiers: int = field(init=False, default=0)
    free_slopes: list[FreeSlopes] = field(init=False, factory=list)
    images: int = field(init=False, default=Factory(lambda self: len(self.region.images), takes_self=True))
    backward: bool = field(init=False, default=Factory(lambda self: self.kind.backward, takes_self=True))
    probe: Tensor = field(init=False)
    gap_input: Tensor = field(init=False)
    tape: Tape | None = field(init=False, default=None)
    shares: dict[int, tuple[Tensor, Tensor, bool]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.keeps_clean |= self.backward
        self.probe = torch.zeros_like(self.region.images, requires_grad=self.backward)
        self.gap_input = torch.zeros_like(self.region.epsilon, requires_grad=self.backward)
        if self.kind.tightens:
            self.tape = Tape()

    def note(self, output: Tensor | None, inputs: Sequence[Tensor | None], step: Callable[[], Step]) -> None:
        """Record how a clean value was made, where the pass keeps a tape."""
        if self.tape is not None and output is not None:
            self.tape.note(output, tuple(each for each in inputs if each is not None), step())

    def intervals(self) -> AbstractContextManager[Any]:
        """Restore the caller's gradient mode for interval arithmetic: clean values may need gradients without it."""
        return torch.set_grad_enabled(self.differentiable)
