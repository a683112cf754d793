"""How the clean values of a pass came about, step by step, so that backward passes can be made row by row.

A row is one linear function of one image's value.  Autograd pulls back functions of all images at once, by whole maps;
the tape lets `walk.py` pull back just the rows that are wanted, each for its image, and as crops of maps (`rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.steps.layers import Convolution
from robustnas.bounds.steps.lines import Lines
from robustnas.bounds.steps.local import Local


class Step(Protocol):
    """How linear functions of a step's output become linear functions of its inputs."""

    @property
    def mixes(self) -> int:
        """0: entries of the output are multiples of different entries of the input, or constants; 1: they are linear
        functions of different entries; 2: anything else."""

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> Sequence[Coefficients | None]:
        """Give the coefficients of each input; gaps between lines and functions are added to the rows.

        Args:
            output: (N, ...) the clean value whose coefficients these are.
        """


@frozen(eq=False)
class Record:
    """One step of the forward pass.

    Args:
        place: the number of the step: inputs have smaller ones than what is made of them.
        output: (N, ...) the clean value that it made.
        inputs: the clean values of which it was made.
    """

    place: int
    output: Tensor
    inputs: tuple[Tensor, ...]
    step: Step


class Tape:
    """The steps of one forward pass, found by the clean value that they made.

    Attributes:
        widest: the most coefficients that a row has had at any step, in backward passes so far.
        wholly: all convolutions are cheap for rows of whole small maps.
        joint: some steps take the rows of all images at once.
    """

    def __init__(self) -> None:
        self.widest = 1
        self.wholly = True
        self.joint = False
        self._records: dict[int, Record] = {}

    def note(self, output: Tensor, inputs: tuple[Tensor, ...], step: Step) -> None:
        """Record a step.  What a function returns unchanged is no step."""
        if not output.requires_grad or any(output is each for each in inputs):
            return
        behind = any(each.requires_grad and id(each) not in self._records for each in inputs)
        self.joint = self.joint or behind or isinstance(step, Local | Lines)
        self.wholly = self.wholly and (not isinstance(step, Convolution) or step.thin)
        # a record holds its tensor, so the number that Python gave it is not given again
        self._records[id(output)] = Record(len(self._records), output, inputs, step)

    def exact(self, clean: Tensor) -> bool:
        """Whether interval arithmetic from a box of images gives every entry's exact range: one step mixes them."""
        mixed = 0
        record = self.of(clean)
        while record is not None and record.inputs:
            mixed += record.step.mixes
            if mixed > 1 or len(record.inputs) > 1:
                return False
            record = self.of(record.inputs[0])
        return record is not None

    def of(self, clean: Tensor) -> Record | None:
        """Find the step that made a clean value; None where its rule recorded none."""
        return self._records.get(id(clean))
